"""The folder through which a teacher's process and its parent hand scans and scores to each other.

It holds a patient's scan, so it must not stay: the parent removes it, the child does where the parent was ended
(`runners/serve.py`), and what is left where both were killed is removed when the next teacher starts.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from mskd.errors import MskdError

PREFIX = "mskd-teacher-"
OWNER = ".owner"  # locked as long as its maker lives
YOUNG_S = 60.0  # a folder so young may not be locked yet


def new_folder() -> tuple[Path, int]:
    """Return a new folder and the file descriptor that shows that its maker lives.

    Raises:
        MskdError: If there is no room.
    """
    sweep(Path(tempfile.gettempdir()))
    with room():
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        owner = os.open(folder / OWNER, os.O_CREAT | os.O_RDWR, 0o600)
    with contextlib.suppress(OSError):  # a file system without locks: then nobody else removes it either
        fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return folder, owner


def sweep(below: Path) -> None:
    """Remove the folders of processes that were killed."""
    for owner in below.glob(f"{PREFIX}*/{OWNER}"):
        with contextlib.suppress(OSError), owner.open("r+") as stream:  # somebody else's, or gone by now
            if time.time() - owner.stat().st_mtime < YOUNG_S:
                continue
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(owner.parent, ignore_errors=True)


@contextlib.contextmanager
def room() -> Iterator[None]:
    """Say which folder is meant, and the way out, where something cannot be written.

    Raises:
        MskdError: Instead of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise no_room(str(error.strerror or error)) from error


def no_room(why: str) -> MskdError:
    """Return the error for a folder without room."""
    return MskdError(
        f"cannot write below {tempfile.gettempdir()}: {why}\n"
        "  expected: room for a copy of the teacher's model, a scan, and its scores (docs/teachers.md)\n"
        "  way out:  free space there, or let TMPDIR be a folder on a larger disk"
    )
