"""The command `mskd`."""

from __future__ import annotations


def main() -> None:
    """Run the command line; errors that a user can mend are printed without a traceback."""
    from mskd import processes
    from mskd.cli.app import app
    from mskd.errors import MskdError

    try:
        app()
    except MskdError as error:
        processes.end_after(error)
    except Exception as error:
        processes.record(error)
        raise
