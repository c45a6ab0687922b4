"""The command `mskd`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; errors that a user can mend are printed without a traceback."""
    from mskd.cli.app import app
    from mskd.errors import MskdError

    try:
        app()
    except MskdError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
