"""Writes that are whole or not there, manifests and content keys that do not change by themselves."""

from __future__ import annotations

import errno
import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from mskd.config.model import Preprocessing
from mskd.errors import MissingArtefactError, MskdError
from mskd.manifest import Manifest, merge, read_manifest
from mskd.provenance import array_digest, content_key, file_digest, made_by
from mskd.storage import atomic_path, write_json, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class TestAtomicPath:
    def test_a_new_file_and_its_folder(self, tmp_path: Path) -> None:
        path = tmp_path / "new" / "deep" / "a.txt"
        with atomic_path(path) as part:
            assert part.parent == path.parent
            part.write_text("x")
            assert not path.exists()
        assert path.read_text() == "x"
        assert names(path.parent) == ["a.txt"]

    def test_the_old_file_stays_until_the_end(self, tmp_path: Path) -> None:
        path = tmp_path / "a.txt"
        path.write_text("old")
        with atomic_path(path) as part:
            part.write_text("new")
            assert path.read_text() == "old"
        assert path.read_text() == "new"

    @pytest.mark.parametrize("folder", [False, True])
    def test_an_error_keeps_the_old_and_leaves_nothing(self, tmp_path: Path, folder: bool) -> None:
        path = tmp_path / "a"
        if folder:
            path.mkdir()
            (path / "inside").write_text("old")
        else:
            path.write_text("old")
        with pytest.raises(RuntimeError, match="half way"), atomic_path(path) as part:  # noqa: PT012
            if folder:
                part.mkdir()
                (part / "inside").write_text("new")
            else:
                part.write_text("new")
            raise RuntimeError("half way")
        assert names(tmp_path) == ["a"]
        assert (path / "inside" if folder else path).read_text() == "old"

    def test_an_interrupt_leaves_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / "a") as part:  # noqa: PT012
            part.write_text("half")
            raise KeyboardInterrupt
        assert names(tmp_path) == []

    def test_a_folder_is_replaced_as_a_whole(self, tmp_path: Path) -> None:
        path = tmp_path / "a"
        path.mkdir()
        (path / "old").write_text("1")
        with atomic_path(path) as part:
            part.mkdir()
            (part / "new").write_text("2")
            assert names(path) == ["old"]
        assert names(path) == ["new"]
        assert names(tmp_path) == ["a"]

    def test_a_folder_takes_the_place_of_a_file(self, tmp_path: Path) -> None:
        path = tmp_path / "a"
        path.write_text("a file")
        with atomic_path(path) as part:
            part.mkdir()
            (part / "new").write_text("2")
        assert names(path) == ["new"]
        assert names(tmp_path) == ["a"]

    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
    def test_disk_errors_name_path_and_way_out(self, tmp_path: Path, code: int) -> None:
        path = tmp_path / "a"
        path.write_text("old")
        with pytest.raises(MskdError, match="way out") as caught, atomic_path(path) as part:  # noqa: PT012
            part.write_text("half")
            raise OSError(code, "the disk says no")
        assert str(path) in str(caught.value)
        assert "the disk says no" in str(caught.value)
        assert names(tmp_path) == ["a"]
        assert path.read_text() == "old"

    def test_a_parent_that_is_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_text("not a folder")
        with pytest.raises(MskdError, match="cannot write"):
            write_text(tmp_path / "a" / "b.txt", "x")
        assert (tmp_path / "a").read_text() == "not a folder"

    def test_cleaning_up_that_fails_hides_no_error(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def read_only(self: Path, missing_ok: bool = False) -> None:
            raise OSError(errno.EROFS, "Read-only file system")

        monkeypatch.setattr(Path, "unlink", read_only)
        with pytest.raises(MskdError, match="cannot write"), atomic_path(tmp_path / "a"):
            raise OSError(errno.EROFS, "Read-only file system")

    def test_nothing_written_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_text("old")
        with pytest.raises(MskdError), atomic_path(tmp_path / "a"):
            pass
        assert (tmp_path / "a").read_text() == "old"

    def test_two_writers_do_not_meet(self, tmp_path: Path) -> None:
        path = tmp_path / "a"
        with atomic_path(path) as one, atomic_path(path) as two:
            one.write_text("one")
            two.write_text("two")
        assert path.read_text() == "one"  # the outer block ends last
        assert names(tmp_path) == ["a"]


def test_json_is_the_same_whatever_the_order(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": {"y": [1, 2], "x": "ü"}})
    write_json(tmp_path / "b.json", {"a": {"x": "ü", "y": [1, 2]}, "b": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {
        "a": {"x": "ü", "y": [1, 2]},
        "b": 1,
    }


class TestManifest:
    def test_round_trip_and_equal_bytes(self, tmp_path: Path) -> None:
        entries = {"d/b": {"key": "2", "digests": {"z": "1", "a": "0"}}, "d/a": {"key": "1"}}
        one = Manifest("prepare", entries, {"d/c": "no label"})
        two = Manifest("prepare", dict(reversed(entries.items())), {"d/c": "no label"})
        one.write(tmp_path / "m" / "1.json")
        two.write(tmp_path / "m" / "2.json")
        assert (tmp_path / "m" / "1.json").read_bytes() == (tmp_path / "m" / "2.json").read_bytes()
        assert read_manifest(tmp_path / "m" / "1.json") == one

    @pytest.mark.parametrize("content", [None, "", '{"stage": "pre', "[]", '{"stage": "x"}', "3"])
    def test_missing_or_torn(self, tmp_path: Path, content: str | None) -> None:
        if content is not None:
            (tmp_path / "m.json").write_text(content)
        with pytest.raises(MissingArtefactError, match=r"m\.json"):
            read_manifest(tmp_path / "m.json")

    def test_merge(self) -> None:
        one = Manifest("prepare", {"d/a": {"key": "1"}}, {"d/x": "why"})
        two = Manifest("prepare", {"d/b": {"key": "2"}})
        assert merge([one, two]) == Manifest("prepare", {"d/a": {"key": "1"}, "d/b": {"key": "2"}}, {"d/x": "why"})
        assert merge([]).entries == {}


class TestContentKey:
    def test_is_stable_between_versions(self) -> None:
        # the bytes that are hashed, written down: another key makes every artefact of every user again
        text = b'{"a":1,"b":[1.5,"x"],"c":{"y":null}}'
        assert content_key(c={"y": None}, b=[1.5, "x"], a=1) == hashlib.sha256(text).hexdigest()[:32]

    def test_does_not_depend_on_order(self) -> None:
        assert content_key(a=1, b={"x": 1, "y": 2}) == content_key(b={"y": 2, "x": 1}, a=1)
        assert content_key(a={"q", "p"}) == content_key(a=["p", "q"])

    @pytest.mark.parametrize(
        "other", [{"a": 2}, {"b": 1}, {"a": "1"}, {"a": [1]}, {"a": None}, {"a": 1, "b": None}, {}]
    )
    def test_depends_on_all_else(self, other: dict[str, object]) -> None:
        assert content_key(**other) != content_key(a=1)

    def test_takes_configuration_and_paths(self) -> None:
        key = content_key(p=Preprocessing(), path=Path("/x"))
        assert key == content_key(p=Preprocessing(), path="/x")
        assert key != content_key(p=Preprocessing(crop_margin_mm=11), path="/x")

    def test_refuses_what_has_no_text(self) -> None:
        with pytest.raises(TypeError, match="object"):
            content_key(a=object())


class TestDigests:
    def test_arrays_by_value_shape_and_type(self) -> None:
        array = np.arange(6, dtype=np.int16).reshape(2, 3)
        first = array_digest(array)
        assert array_digest(np.asfortranarray(array)) == first
        assert array_digest(array.reshape(3, 2)) != first
        assert array_digest(array.astype(np.int32)) != first
        assert array_digest(array + 1) != first
        assert array_digest(array, array) != first
        assert array_digest(np.zeros((0, 4), np.int32)) != array_digest(np.zeros((0, 3), np.int32))

    def test_files(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b"abc")
        # SHA-256 of "abc", from FIPS 180-2
        expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        assert file_digest(tmp_path / "a") == expected

    def test_made_by_names_versions_and_nothing_else(self) -> None:
        found = made_by()
        assert {"mskd", "python", "numpy", "torch", "zarr"} <= set(found)
        assert "not installed" not in found.values()
        assert made_by() == found


def test_errors_survive_a_process_boundary() -> None:
    error = MissingArtefactError(case="d/a", file=Path("/x"), expected="e", found="f", fix="g")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert type(again) is MissingArtefactError
    assert str(again) == str(error)
    assert again.fix == "g"
