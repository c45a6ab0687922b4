"""Archives: what is safe is unpacked, everything else is refused and leaves nothing behind."""

from __future__ import annotations

import io
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from mskd.archives import is_archive, unpacked
from mskd.errors import DataError, MskdError


def make_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def make_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def tar_of(kind: bytes, link: str = "") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        with tarfile.open(folder / "x.tar", "w") as archive:
            info = tarfile.TarInfo("a")
            info.type, info.linkname = kind, link
            archive.addfile(info)
        return folder / "x.tar"

    return make


def zip_link(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "x.zip", "w") as archive:
        info = zipfile.ZipInfo("a")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    return folder / "x.zip"


def lying_zip(folder: Path) -> Path:
    """A zip whose directory claims a gigabyte for a member of some bytes."""
    path = make_zip(folder / "x.zip", {"a": b"some bytes"})
    data = bytearray(path.read_bytes())
    where = data.rindex(b"PK\x01\x02") + 24
    data[where : where + 4] = (2**30).to_bytes(4, "little")
    path.write_bytes(data)
    return path


def truncated(folder: Path) -> Path:
    path = make_tar(folder / "x.tar.gz", {"a": bytes(range(256)) * 100})
    path.write_bytes(path.read_bytes()[:-40])
    return path


def flipped(folder: Path) -> Path:
    path = make_zip(folder / "x.zip", {"a": b"some bytes"})
    data = bytearray(path.read_bytes())
    data[data.index(b"some bytes")] ^= 1
    path.write_bytes(data)
    return path


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place of its own for what is unpacked."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz", "x.TGZ"])
def test_what_is_packed_comes_out(tmp_path: Path, temporary: Path, name: str) -> None:
    make = make_zip if name.endswith("zip") else make_tar
    path = make(tmp_path / name, {"a.nii": b"1", "deep/er/b.nii": b"22", "deep/.hidden": b"3"})
    assert is_archive(path)
    with unpacked(path) as folder:
        found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert found == {"a.nii": b"1", "deep/er/b.nii": b"22", "deep/.hidden": b"3"}
    assert not list(temporary.iterdir())


REFUSED: dict[str, Callable[[Path], Path]] = {
    "above": lambda folder: make_zip(folder / "x.zip", {"../evil": b""}),
    "deep above": lambda folder: make_tar(folder / "x.tar", {"a/../../evil": b""}),
    "absolute": lambda folder: make_tar(folder / "x.tar", {"/tmp/evil": b""}),
    "drive": lambda folder: make_tar(folder / "x.tar", {"C:evil": b""}),
    "backslash": lambda folder: make_tar(folder / "x.tar", {"..\\evil": b""}),
    "control character": lambda folder: make_tar(folder / "x.tar", {"a\x1b[31m": b""}),
    "twice": lambda folder: make_tar(folder / "x.tar", {"a": b"1", "./a": b"2"}),
    "twice but for case": lambda folder: make_tar(folder / "x.tar", {"a": b"1", "A": b"2"}),
    "symbolic link": tar_of(tarfile.SYMTYPE, "/etc/passwd"),
    "hard link": tar_of(tarfile.LNKTYPE, "b"),
    "device": tar_of(tarfile.CHRTYPE),
    "pipe": tar_of(tarfile.FIFOTYPE),
    "link in a zip": zip_link,
    "a size that cannot be": lying_zip,
    "truncated": truncated,
    "flipped bit": flipped,
    "no archive": lambda folder: _write(folder / "x.zip", b"hello"),
    "no tar": lambda folder: _write(folder / "x.tar", b"hello"),
}


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_leaves_nothing_behind(tmp_path: Path, temporary: Path, name: str) -> None:
    path = REFUSED[name](tmp_path)
    with pytest.raises(DataError, match="x\\."), unpacked(path):
        pass
    assert not list(temporary.iterdir())
    assert not list(tmp_path.rglob("evil"))


def test_what_comes_out_is_counted(tmp_path: Path, temporary: Path) -> None:
    path = make_zip(tmp_path / "x.zip", {"a": bytes(600), "b": bytes(600)})
    with unpacked(path, max_bytes=1200):
        pass
    with pytest.raises(DataError, match="at most 1199 bytes"), unpacked(path, max_bytes=1199):
        pass
    assert not list(temporary.iterdir())


def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_zip(tmp_path / "x.zip", {"a": b"1"})

    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(MskdError, match="TMPDIR"), unpacked(path):
        pass
