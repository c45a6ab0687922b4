"""The files of a target store: in a folder, or behind an fsspec URL in an object store.

A folder appears by rename. An object store knows no rename of many objects, but writes each one as a whole: `zarr.json`
of the group, which holds the seal, is removed first and written last, so that a store without it is none. Stores are
small: one is read as a whole, and every object is compared with its digest before anything is decoded.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from mskd.config.cache import is_url
from mskd.errors import ConfigError, MskdError
from mskd.provenance import file_digest
from mskd.storage import atomic_path

SEALED = "zarr.json"
DIGITS = 32  # of a SHA-256: 128 bits; a small scan's store is a third metadata


class StoreFiles(Protocol):
    """The files of one store.

    Attributes:
        whole_when_opened: Whether every byte is read anyway when the store is opened.
    """

    whole_when_opened: bool

    def names(self) -> list[str]:
        """Return every file, relative to the store; [] if there is no store."""

    def size(self, name: str) -> int:
        """Return the bytes of a file."""

    def digest(self, name: str) -> str:
        """Return the digest of a file, the first half of its SHA-256."""

    def opened(self) -> Any:
        """Return what `zarr.open_group` reads."""

    def writing(self) -> Any:
        """Yield a local folder that takes the store's place when the block ends without an error."""

    def remove(self) -> None:
        """Remove the store."""


def store_files(place: str) -> StoreFiles:
    """Return the files of the store at a path or an fsspec URL."""
    return RemoteFiles(place) if is_url(place) else LocalFiles(Path(place))


class LocalFiles:
    """A store in a folder."""

    whole_when_opened = False

    def __init__(self, path: Path) -> None:
        """Name the folder."""
        self.path = path

    def names(self) -> list[str]:
        """Return every file, relative to the store; [] if there is no store."""
        return sorted(file.relative_to(self.path).as_posix() for file in self.path.rglob("*") if file.is_file())

    def size(self, name: str) -> int:
        """Return the bytes of a file."""
        return (self.path / name).stat().st_size

    def digest(self, name: str) -> str:
        """Return the digest of a file."""
        return file_digest(self.path / name)[:DIGITS]

    def opened(self) -> Path:
        """Return what `zarr.open_group` reads."""
        return self.path

    @contextmanager
    def writing(self) -> Iterator[Path]:
        """Yield a folder beside the store that takes its place by rename."""
        with atomic_path(self.path) as part:
            yield part

    def remove(self) -> None:
        """Remove the store, or whatever stands in its place."""
        if self.path.is_dir():
            shutil.rmtree(self.path)
        else:
            self.path.unlink(missing_ok=True)


class RemoteFiles:
    """A store in an object store; credentials and endpoint come from the environment, never from a study file."""

    whole_when_opened = True

    def __init__(self, url: str) -> None:
        """Connect.

        Raises:
            ConfigError: If the package for this kind of URL is not installed.
        """
        import fsspec

        self.url = url
        try:
            self.fs, self.prefix = fsspec.core.url_to_fs(url)
        except ImportError as error:
            raise ConfigError(f"cache.root: {url}: {error}; `pip install 'mskd[s3]'` holds what s3:// needs") from error

    @cached_property
    def objects(self) -> dict[str, bytes]:
        """Every object by name relative to the store, read once."""
        with self._reached("read"):
            self.fs.invalidate_cache()
            found = self.fs.find(self.prefix)
            # between listing and reading a job may replace the store: what is gone then, its seal misses
            content = self.fs.cat(found, on_error="omit") if found else {}
        return {name.removeprefix(f"{self.prefix}/"): data for name, data in content.items()}

    def names(self) -> list[str]:
        """Return every object, relative to the store; [] if there is no store."""
        return sorted(self.objects)

    def size(self, name: str) -> int:
        """Return the bytes of an object."""
        return len(self.objects[name])

    def digest(self, name: str) -> str:
        """Return the digest of an object."""
        return hashlib.sha256(self.objects[name]).hexdigest()[:DIGITS]

    def opened(self) -> Any:
        """Return what `zarr.open_group` reads: the objects in memory."""
        from zarr.core.buffer import default_buffer_prototype
        from zarr.storage import MemoryStore

        buffer = default_buffer_prototype().buffer
        return MemoryStore({name: buffer.from_bytes(data) for name, data in self.objects.items()}, read_only=True)

    @contextmanager
    def writing(self) -> Iterator[Path]:
        """Yield a local folder that is copied to the object store, the seal last."""
        with tempfile.TemporaryDirectory(prefix="mskd-") as folder:
            part = Path(folder) / "store"
            yield part
            names = sorted(file.relative_to(part).as_posix() for file in part.rglob("*") if file.is_file())
            self.remove()
            with self._reached("write"):
                for name in [*(name for name in names if name != SEALED), SEALED]:
                    self.fs.pipe_file(f"{self.prefix}/{name}", (part / name).read_bytes())

    def remove(self) -> None:
        """Remove the store, its seal first."""
        with self._reached("remove"):
            self.fs.invalidate_cache()
            found = self.fs.find(self.prefix)
            for name in sorted(found, key=lambda name: name != f"{self.prefix}/{SEALED}"):
                self.fs.rm_file(name)
        self.__dict__.pop("objects", None)

    @contextmanager
    def _reached(self, action: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # each service has its own errors
            raise MskdError(
                f"cannot {action} {self.url}: {type(error).__name__}: {error}\n"
                f"  way out: check network, credentials and bucket, then run the same command again"
            ) from error
