"""Archives that people hand in: unpacked below a folder of their own, or refused.

An archive may come from anywhere: members that would leave the folder, links, devices, encrypted or doubled members,
and sizes that no scans have are refused before or while they are written. What is counted is what really comes out, not
what the archive claims.
"""

from __future__ import annotations

import gzip
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, NoReturn

from mskd.datasets.case import check_case_name
from mskd.errors import DataError, MskdError

MAX_BYTES = 64 * 2**30
MAX_MEMBERS = 200_000
MAX_RATIO = 1100  # deflate reaches 1032; more is a claim that cannot be true
CHUNK = 2**20
SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
_DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError, ValueError)


@dataclass(frozen=True)
class _Member:
    """A file of an archive, and how it is opened."""

    name: str
    source: zipfile.ZipInfo | tarfile.TarInfo


def is_archive(path: Path) -> bool:
    """Return whether a file's name is that of an archive that can be unpacked."""
    return path.name.lower().endswith(SUFFIXES)


@contextmanager
def unpacked(path: Path, *, max_bytes: int = MAX_BYTES) -> Iterator[Path]:
    """Yield a folder with the content of a `.zip` or `.tar`, `.tar.gz`; it is removed when the block ends.

    Archives in archives stay as they are.

    Args:
        path: The archive.
        max_bytes: Most bytes that may come out.

    Raises:
        DataError: If the archive is damaged, encrypted, too large, or has members that must not be unpacked.
        MskdError: If there is no room for it.
    """
    with tempfile.TemporaryDirectory(prefix="mskd-") as name:
        try:
            if path.name.lower().endswith(".zip"):
                with zipfile.ZipFile(path) as archive:
                    _unpack(path, _zip_members(path, archive), archive.open, Path(name), max_bytes)
            else:
                with tarfile.open(path) as tar:
                    _unpack(path, _tar_members(path, tar), tar.extractfile, Path(name), max_bytes)
        except (*_DAMAGED, gzip.BadGzipFile, RuntimeError) as error:  # RuntimeError: a member that needs a password
            _refuse(path, "a whole archive without password", f"{type(error).__name__}: {error}")
        except OSError as error:
            raise MskdError(
                f"cannot unpack {path} below {tempfile.gettempdir()}: {error.strerror or error}\n"
                "  way out: free space there, or point TMPDIR at a larger disk"
            ) from error
        yield Path(name)


def _zip_members(path: Path, archive: zipfile.ZipFile) -> list[_Member]:
    members = []
    for info in archive.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            _refuse(path, "files and folders alone", f"a link or device: {info.filename!r}")
        if info.file_size > MAX_RATIO * max(info.compress_size, 1) + CHUNK:
            _refuse(
                path, "members of a believable size", f"{info.filename!r}: {info.file_size} bytes of almost nothing"
            )
        if not info.is_dir():
            members.append(_Member(info.filename, info))
    return members


def _tar_members(path: Path, archive: tarfile.TarFile) -> list[_Member]:
    members = []
    for info in archive:
        if not (info.isreg() or info.isdir()):
            _refuse(path, "files and folders alone", f"a link or device: {info.name!r}")
        if info.isreg():
            members.append(_Member(info.name, info))
        if len(members) > MAX_MEMBERS:
            _refuse(path, f"at most {MAX_MEMBERS} files", "more")
    return members


def _unpack(path: Path, members: list[_Member], opened: object, folder: Path, max_bytes: int) -> None:
    if len(members) > MAX_MEMBERS:
        _refuse(path, f"at most {MAX_MEMBERS} files", f"{len(members)}")
    seen: set[str] = set()
    left = max_bytes
    for member in members:
        target = folder.joinpath(*_safe_parts(path, member.name))
        if str(target).casefold() in seen:
            _refuse(path, "each file once", f"{member.name!r} twice")
        seen.add(str(target).casefold())
        target.parent.mkdir(parents=True, exist_ok=True)
        stream: IO[bytes] | None = opened(member.source)  # type: ignore[operator]
        if stream is None:
            _refuse(path, "files and folders alone", f"{member.name!r}")
        with stream, target.open("xb") as out:
            while chunk := stream.read(CHUNK):
                left -= len(chunk)
                if left < 0:
                    _refuse(path, f"at most {max_bytes} bytes unpacked", "more")
                out.write(chunk)


def _safe_parts(path: Path, name: str) -> list[str]:
    """Return the parts of a member's name, or refuse it."""
    parts = [part for part in PurePosixPath(name).parts if part != "."]
    if not parts or name.startswith("/") or "\\" in name or ":" in parts[0] or ".." in parts:
        _refuse(path, "members below the archive's own folder", f"{name!r}")
    for part in parts:
        if part.startswith("."):  # hidden files are not read, but harmless
            continue
        try:
            check_case_name(part, path)
        except DataError as error:
            _refuse(path, "names without control characters", f"{name!r}: {error.found}")
    return parts


def _refuse(path: Path, expected: str, found: str) -> NoReturn:
    raise DataError(
        case="(all)",
        file=path,
        expected=expected,
        found=found,
        fix="unpack it by hand where you trust it, and give the folder; or pack the scans again",
    )
