"""Writes that are there as a whole or not at all."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import Any

from mskd.errors import MskdError

_UMASK = os.umask(0o022)
os.umask(_UMASK)
PART = ".part-"  # unfinished writes are named <name>.part-<process>-<random>


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path` that takes its place when the block ends without an error.

    Works for files and for folders (a folder that exists is replaced). What was there before stays until the end.

    Raises:
        MskdError: If the disk is full, read-only, or refuses permission.
    """
    part = path.with_name(f"{path.name}{PART}{os.getpid()}-{secrets.token_hex(3)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        for file in (found for found in part.rglob("*") if found.is_file()) if part.is_dir() else (part,):
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
        if part.is_dir():
            _replace_folder(part, path)
        else:
            part.chmod(0o666 & ~_UMASK)  # some libraries write files that their owner alone may read
            part.replace(path)
    except OSError as error:
        raise MskdError(
            f"cannot write {path}: {error.strerror or error}\n"
            f"  way out: free space or fix permissions in {path.parent}, then run the same command again"
        ) from error
    finally:
        _remove(part)


def remove_unfinished(path: Path) -> None:
    """Remove what killed processes left of writing this path; nobody else may be writing it now."""
    for part in path.parent.glob(f"{escape(path.name)}{PART}*"):
        _remove(part)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_path(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, data: Any) -> None:
    """Write JSON atomically, keys sorted, so that equal data give equal bytes."""
    write_text(path, json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def _replace_folder(part: Path, path: Path) -> None:
    if path.exists():
        old = path.with_name(f"{path.name}{PART}old-{os.getpid()}-{secrets.token_hex(3)}")
        path.rename(old)
        part.rename(path)
        _remove(old)
    else:
        part.rename(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):  # a disk that refuses this has refused the write before
            path.unlink(missing_ok=True)
