"""Raw scan to prepared store: crops, foreground, digests, and files that are not what they should be."""

from __future__ import annotations

import gzip
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from mskd.config.model import Preprocessing
from mskd.errors import DataError, MissingArtefactError
from mskd.preparation import bounding_box, find_body, prepare_arrays, sample_foreground
from mskd.prepared import PreparedArrays, PreparedCase, normalise, stored_digests, write_prepared
from mskd.scans import read_labels, read_scan, write_labels

AFFINE = np.diag([-2.0, -2.0, 2.5, 1.0])  # LPS axes
SETTINGS = Preprocessing(spacing_mm=(2.0, 2.0, 2.5), crop_margin_mm=4.0, foreground_voxels=20)
BODY = (slice(8, 20), slice(6, 18), slice(3, 11))
ORGAN = (slice(10, 14), slice(8, 13), slice(5, 9))


def scan(shape: tuple[int, int, int] = (30, 26, 14)) -> NDArray[np.int16]:
    """Air with a body, a lung inside it, an organ, and a table that does not touch the body."""
    hu = np.full(shape, -1000, np.int16)
    hu[BODY] = 20
    hu[14:17, 12:15, 5:9] = -850
    hu[ORGAN] = 110
    hu[3:27, 22:24, :] = 80  # the table is longer than the body, but thinner
    return hu


def organ_labels() -> NDArray[np.uint8]:
    labels = np.zeros((30, 26, 14), np.uint8)
    labels[ORGAN] = 2
    labels[18, 16, 9] = 255
    return labels


def prepare(**changes: Any) -> PreparedArrays:
    arguments: dict[str, Any] = {"scan_hu": scan(), "affine": AFFINE, "labels": organ_labels(), "withheld": None}
    return prepare_arrays(**{**arguments, "settings": SETTINGS, **changes})


def test_the_crop_is_the_body_with_its_margin() -> None:
    arrays = prepare()
    # both in-plane axes run backwards in the file: canonical x = 29 − x, y = 25 − y
    # body x 10…21, y 8…19, z 3…10; margin 4 mm = 2, 2, round(1.6) = 2 voxels
    assert arrays.geometry.crop_start == (8, 6, 1)
    assert arrays.geometry.shape == arrays.image.shape == (16, 16, 12)
    canonical = scan()[::-1, ::-1]
    np.testing.assert_array_equal(arrays.image, np.clip(canonical[8:24, 6:22, 1:13], -325, 325))
    assert arrays.image.dtype == np.int16
    body = np.zeros((16, 16, 12), bool)
    body[2:14, 2:14, 2:10] = True  # the lung is filled, the table is gone
    assert (arrays.body & ~body).sum() == 0
    assert arrays.body[4:12, 4:12, 2:10].all()
    np.testing.assert_array_equal(arrays.labels, organ_labels()[::-1, ::-1][8:24, 6:22, 1:13])


def test_without_crop_the_whole_scan_stays() -> None:
    arrays = prepare(settings=SETTINGS.model_copy(update={"crop_to_body": False}))
    assert arrays.geometry.crop_start == (0, 0, 0)
    assert arrays.image.shape == arrays.body.shape == arrays.labels.shape == (30, 26, 14)


def test_body_is_the_largest_dense_part_with_its_holes() -> None:
    hu = np.full((24, 24, 8), -1000, np.float32)
    hu[4:16, 4:16, :] = 0
    hu[7:11, 7:11, 2:6] = -900  # gas, closed in the axial plane
    hu[20:23, :, :] = 0  # a smaller dense part
    expected = np.zeros(hu.shape, bool)
    expected[4:16, 4:16, :] = True
    found = find_body(hu, -500)
    assert not found[17:].any()
    # opening rounds corners and the first and last slice at most
    assert (found & ~expected).sum() == 0
    assert found[5:15, 5:15, 1:7].all()


def test_bounding_box_stays_inside() -> None:
    mask = np.zeros((6, 7, 8), bool)
    mask[1, 3, 7] = mask[2, 4, 7] = True
    assert bounding_box(mask, [2, 1, 3]) == (slice(0, 5), slice(2, 6), slice(4, 8))
    assert bounding_box(np.zeros((6, 7, 8), bool), [2, 1, 3]) == (slice(0, 6), slice(0, 7), slice(0, 8))


def test_a_volume_of_air_is_kept_as_a_whole() -> None:
    arrays = prepare(scan_hu=np.full((9, 8, 7), -1024, np.int16), labels=None)
    assert arrays.image.shape == (9, 8, 7)
    assert (arrays.image == -325).all()
    assert arrays.body.all()
    assert arrays.foreground.shape == (0, 4)


@pytest.mark.parametrize("spacing_mm", [(2.0, 2.0, 2.5), (1.5, 1.5, 1.0), (3.0, 3.0, 9.0)])
def test_a_single_slice_goes_through(spacing_mm: tuple[float, float, float]) -> None:
    settings = SETTINGS.model_copy(update={"spacing_mm": spacing_mm})
    arrays = prepare(scan_hu=scan()[:, :, 6:7], labels=organ_labels()[:, :, 6:7], settings=settings)
    assert arrays.image.shape[2] == max(1, round(2.5 / spacing_mm[2]))
    for z in range(arrays.image.shape[2]):
        np.testing.assert_array_equal(arrays.image[:, :, z], arrays.image[:, :, 0])
    assert (arrays.labels == 2).any()


def test_fractions_of_hu_are_rounded_and_clipped() -> None:
    hu = np.array([-500.0, -325.4, -0.6, 0.4, 12.6, 400.0]).reshape(6, 1, 1)
    settings = SETTINGS.model_copy(update={"spacing_mm": (1.0, 1.0, 1.0), "crop_to_body": False})
    arrays = prepare_arrays(hu, np.eye(4), None, None, settings)
    np.testing.assert_array_equal(arrays.image[:, 0, 0], [-325, -325, -1, 0, 13, 325])


def test_normalise_brings_the_clip_range_to_one() -> None:
    found = normalise(np.array([-2000, -325, 0, 162, 325, 3000], np.int16), (-325, 325))
    np.testing.assert_allclose(found, [-1, -1, 0, 162 / 325, 1, 1], rtol=1e-6)
    assert found.dtype == np.float32


class TestForeground:
    labels = np.zeros((6, 5, 4), np.uint8)
    labels[0:3, 1:4, 2] = 3
    labels[5, 4, 3] = 1
    labels[4, :, 0] = 255

    def test_rows_are_voxels_of_their_organ(self) -> None:
        rows = sample_foreground(self.labels, 5, seed=1)
        assert rows.dtype == np.int32
        np.testing.assert_array_equal(rows[:, 0], [1, 3, 3, 3, 3, 3])  # 255 is nobody's foreground
        for value, *voxel in rows:
            assert self.labels[tuple(voxel)] == value
        assert len({tuple(row) for row in rows}) == len(rows)

    def test_all_voxels_where_there_are_few(self) -> None:
        assert len(sample_foreground(self.labels, 100, seed=1)) == 9 + 1

    def test_the_seed_chooses(self) -> None:
        one, again, other = (sample_foreground(self.labels, 4, seed=s) for s in (1, 1, 2))
        np.testing.assert_array_equal(one, again)
        assert not np.array_equal(one, other)

    def test_no_organ_no_rows(self) -> None:
        assert sample_foreground(np.zeros((3, 3, 3), np.uint8), 4, seed=1).shape == (0, 4)


class TestDigests:
    def test_cover_exactly_their_part(self) -> None:
        arrays = prepare(withheld=organ_labels())
        first = arrays.digests()
        assert set(first) == {"image", "labels", "withheld"}

        def changed(**parts: Any) -> set[str]:
            found = replace(arrays, **parts).digests()
            return {name for name in first if found.get(name) != first[name]}

        def poked(name: str) -> NDArray[Any]:
            copy = np.array(getattr(arrays, name))
            copy.flat[7] = 0 if copy.flat[7] else 1
            return copy

        assert changed() == set()
        assert changed(image=poked("image")) == {"image"}
        assert changed(body=poked("body")) == {"image"}
        assert changed(labels=poked("labels")) == {"labels"}
        assert changed(foreground=poked("foreground")) == {"labels"}
        assert changed(withheld_labels=poked("withheld_labels")) == {"withheld"}
        assert changed(withheld_labels=None) == {"withheld"}
        moved = arrays.geometry.cropped((0, 1, 2), arrays.geometry.shape)
        assert changed(geometry=moved) == {"image"}

    def test_are_the_same_in_another_run(self) -> None:
        assert prepare().digests() == prepare().digests()

    def test_labels_matter_to_no_image(self) -> None:
        labelled, unlabelled = prepare().digests(), prepare(labels=None).digests()
        assert labelled["image"] == unlabelled["image"]
        assert labelled["labels"] != unlabelled["labels"]


class TestStore:
    def test_round_trip(self, tmp_path: Path) -> None:
        arrays = prepare(withheld=organ_labels())
        path = tmp_path / "block" / "a.zarr"
        attributes = {"note": 1}
        digests = write_prepared(path, arrays, key="k1", attributes=attributes)
        case = PreparedCase(path, "d/a")
        for name in ("image", "body", "labels", "withheld_labels"):
            stored = case.read(name)
            np.testing.assert_array_equal(stored, getattr(arrays, name))
            assert stored.dtype == getattr(arrays, name).dtype
            box = (slice(1, 5), slice(0, 3), slice(2, 9))
            np.testing.assert_array_equal(case.read(name, box), getattr(arrays, name)[box])
        assert case.geometry == arrays.geometry
        assert case.shape == arrays.image.shape
        assert case.attributes["note"] == 1
        assert set(case.foreground) == {2}
        np.testing.assert_array_equal(case.foreground[2], arrays.foreground[:, 1:])
        np.testing.assert_allclose(case.attributes["affine"], arrays.geometry.affine)
        assert digests == arrays.digests() == stored_digests(path, "k1")
        assert [p.name for p in path.parent.iterdir()] == ["a.zarr"]

    def test_another_key_or_no_store_gives_none(self, tmp_path: Path) -> None:
        write_prepared(tmp_path / "a.zarr", prepare(), key="k1", attributes={})
        assert stored_digests(tmp_path / "a.zarr", "k2") is None
        assert stored_digests(tmp_path / "b.zarr", "k1") is None
        (tmp_path / "a.zarr" / "zarr.json").write_text('{"zarr_for')
        assert stored_digests(tmp_path / "a.zarr", "k1") is None

    def test_is_replaced_as_a_whole(self, tmp_path: Path) -> None:
        path = tmp_path / "a.zarr"
        write_prepared(path, prepare(withheld=organ_labels()), key="k1", attributes={})
        write_prepared(path, prepare(labels=None), key="k2", attributes={})
        case = PreparedCase(path, "d/a")
        assert not case.read("labels").any()
        assert case.foreground == {}
        with pytest.raises(MissingArtefactError, match="withheld_labels"):
            case.read("withheld_labels")

    @pytest.mark.parametrize("name", ["image", "labels", "body"])
    @pytest.mark.parametrize("damage", ["lost", "empty", "cut off"])
    def test_a_file_that_is_lost_is_no_scan_of_zeros(self, tmp_path: Path, name: str, damage: str) -> None:
        """Zarr reads chunks that are not there as zeros."""
        path = tmp_path / "liver" / "b00" / "a.zarr"
        write_prepared(path, prepare(), key="k1", attributes={})
        (shard,) = (file for file in (path / name / "c").rglob("*") if file.is_file())
        content = shard.read_bytes()
        if damage == "lost":
            shard.unlink()
        else:
            shard.write_bytes(content[: len(content) // 2 if damage == "cut off" else 0])
        with pytest.raises(
            MissingArtefactError, match=rf"{name}/c/(.|\n)*prepare --study STUDY --dataset liver --block b00"
        ):
            PreparedCase(path, "liver/a")
        assert stored_digests(path, "k1") is None

    def test_a_flipped_bit_is_seen_when_it_is_read(self, tmp_path: Path) -> None:
        path = tmp_path / "liver" / "b00" / "a.zarr"
        write_prepared(path, prepare(), key="k1", attributes={})
        (shard,) = (file for file in (path / "image" / "c").rglob("*") if file.is_file())
        content = bytearray(shard.read_bytes())
        content[len(content) // 3] ^= 1
        shard.write_bytes(content)
        with pytest.raises(MissingArtefactError, match=r"liver/a(.|\n)*delete it"):
            PreparedCase(path, "liver/a").read("image")

    @pytest.mark.parametrize("damage", ["missing", "torn", "empty", "a file"])
    def test_what_is_no_store_is_an_error(self, tmp_path: Path, damage: str) -> None:
        path = tmp_path / "a.zarr"
        if damage == "torn":
            write_prepared(path, prepare(), key="k1", attributes={})
            (path / "zarr.json").write_text('{"zarr_for')
        elif damage == "empty":
            path.mkdir()
        elif damage == "a file":
            path.write_text("x")
        with pytest.raises(MissingArtefactError, match="d/a"):
            PreparedCase(path, "d/a")
        assert stored_digests(path, "k1") is None


def save(path: Path, data: NDArray[Any], affine: NDArray[np.float64] = AFFINE) -> Path:
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


class TestScans:
    def test_reads_axes_affine_and_slope_as_they_are(self, tmp_path: Path) -> None:
        hu = np.arange(60, dtype=np.int16).reshape(3, 4, 5) - 30
        found, affine = read_scan(save(tmp_path / "a.nii.gz", hu), "d/a")
        np.testing.assert_array_equal(found, hu)
        np.testing.assert_array_equal(affine, AFFINE)
        image = nib.Nifti1Image(hu, AFFINE)
        image.header.set_slope_inter(2, -1024)
        image.header.set_data_dtype(np.int16)
        nib.save(image, tmp_path / "b.nii")
        found, _ = read_scan(tmp_path / "b.nii", "d/b")
        np.testing.assert_array_equal(found, hu * 2 - 1024)

    def test_trailing_single_axes_are_dropped(self, tmp_path: Path) -> None:
        hu = np.arange(24, dtype=np.int16).reshape(2, 3, 4, 1)
        found, _ = read_scan(save(tmp_path / "a.nii", hu), "d/a")
        np.testing.assert_array_equal(found, hu[..., 0])

    def refused(self, path: Path) -> DataError:
        with pytest.raises(DataError) as caught:
            read_scan(path, "d/a")
        text = str(caught.value)
        assert "d/a" in text
        assert str(path) in text
        assert "expected" in text
        assert "way out" in text
        return caught.value

    def test_missing(self, tmp_path: Path) -> None:
        assert "no such file" in self.refused(tmp_path / "a.nii.gz").found

    def test_truncated_gzip(self, tmp_path: Path) -> None:
        data = np.random.default_rng(0).integers(-1000, 1000, (20, 20, 20)).astype(np.int16)
        whole = save(tmp_path / "a.nii.gz", data).read_bytes()
        for length in (0, 5, 60, 300, len(whole) // 2, len(whole) - 64):
            (tmp_path / "a.nii.gz").write_bytes(whole[:length])
            self.refused(tmp_path / "a.nii.gz")

    def test_truncated_plain(self, tmp_path: Path) -> None:
        path = save(tmp_path / "a.nii", np.zeros((9, 9, 9), np.int16))
        path.write_bytes(path.read_bytes()[:-100])
        self.refused(path)

    def test_bytes_that_are_no_nifti(self, tmp_path: Path) -> None:
        for name in ("a.nii", "a.nii.gz"):
            (tmp_path / name).write_bytes(b"not an image at all" * 40)
            self.refused(tmp_path / name)
        (tmp_path / "b.nii.gz").write_bytes(gzip.compress(b"no header"))
        self.refused(tmp_path / "b.nii.gz")

    def test_flipped_bits_in_the_middle(self, tmp_path: Path) -> None:
        data = np.random.default_rng(0).integers(-1000, 1000, (20, 20, 20)).astype(np.int16)
        path = save(tmp_path / "a.nii.gz", data)
        content = bytearray(path.read_bytes())
        for position in range(len(content) // 2, len(content) // 2 + 50):
            content[position] ^= 0xFF
        path.write_bytes(bytes(content))
        self.refused(path)

    def test_a_header_with_an_unknown_data_type(self, tmp_path: Path) -> None:
        path = save(tmp_path / "a.nii", np.zeros((4, 4, 4), np.int16))
        content = bytearray(path.read_bytes())
        content[70:72] = struct.pack("<h", 7)  # datatype
        path.write_bytes(bytes(content))
        self.refused(path)

    def test_a_header_that_claims_too_much(self, tmp_path: Path) -> None:
        path = save(tmp_path / "a.nii", np.zeros((4, 4, 4), np.int16))
        content = bytearray(path.read_bytes())
        content[42:48] = struct.pack("<3h", 30000, 30000, 30000)
        path.write_bytes(bytes(content))
        assert "30000" in self.refused(path).found

    @pytest.mark.parametrize("shape", [(4, 4, 4, 2), (4, 4)])
    def test_other_than_three_dimensions(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        assert str(shape) in self.refused(save(tmp_path / "a.nii", np.zeros(shape, np.int16))).found

    def test_colours_are_no_hounsfield_units(self, tmp_path: Path) -> None:
        rgb = np.zeros((4, 4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
        self.refused(save(tmp_path / "a.nii", rgb))

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_not_finite(self, tmp_path: Path, bad: float) -> None:
        data = np.zeros((4, 4, 4), np.float32)
        data[1, 2, 3] = data[0, 0, 0] = bad
        assert self.refused(save(tmp_path / "a.nii", data)).found.startswith("2 voxels")

    def test_no_usable_affine(self, tmp_path: Path) -> None:
        image = nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4))
        image.set_sform(np.diag([1.0, 1.0, 0.0, 1.0]), code=1)
        nib.save(image, tmp_path / "a.nii")
        self.refused(tmp_path / "a.nii")


class TestLabels:
    def test_values_are_mapped_and_the_rest_is_background(self, tmp_path: Path) -> None:
        file = np.array([0, 1, 2, 3, 4, 5], np.uint8).reshape(6, 1, 1)
        found = read_labels(save(tmp_path / "l.nii", file), "d/a", {1: 2, 3: 2, 4: 255, 5: 0}, (6, 1, 1))
        np.testing.assert_array_equal(found.ravel(), [0, 2, 0, 2, 255, 0])
        assert found.dtype == np.uint8

    def test_whole_numbers_stored_as_floats(self, tmp_path: Path) -> None:
        file = np.array([0, 1, 300], np.float32).reshape(3, 1, 1)
        found = read_labels(save(tmp_path / "l.nii", file), "d/a", {1: 1, 300: 2}, (3, 1, 1))
        np.testing.assert_array_equal(found.ravel(), [0, 1, 2])

    @pytest.mark.parametrize("value", [0.5, np.nan, 1.001])
    def test_fractional_values(self, tmp_path: Path, value: float) -> None:
        file = np.array([0, 1, value], np.float32).reshape(3, 1, 1)
        with pytest.raises(DataError, match="whole-number"):
            read_labels(save(tmp_path / "l.nii", file), "d/a", {1: 1}, (3, 1, 1))

    def test_another_shape_than_the_scan(self, tmp_path: Path) -> None:
        path = save(tmp_path / "l.nii", np.zeros((3, 4, 5), np.uint8))
        with pytest.raises(DataError, match=r"\(3, 4, 5\)") as caught:
            read_labels(path, "d/a", {1: 1}, (5, 4, 3))
        assert "(5, 4, 3)" in caught.value.expected


class TestWriteLabels:
    def test_come_back_with_their_geometry(self, tmp_path: Path) -> None:
        labels = np.random.default_rng(0).integers(0, 4, (5, 6, 7)).astype(np.uint8)
        turned = np.array([[0, -1.5, 0.2, 4], [1.4, 0, 0, -3], [0.1, 0, 2, 9], [0, 0, 0, 1]])
        write_labels(tmp_path / "p.nii.gz", labels, turned)
        image = nib.load(tmp_path / "p.nii.gz")
        np.testing.assert_array_equal(np.asarray(image.dataobj), labels)
        assert image.get_data_dtype() == np.uint8
        np.testing.assert_allclose(image.affine, turned, atol=1e-6)
        assert image.header.get_xyzt_units()[0] == "mm"
        assert int(image.header["qform_code"]) == int(image.header["sform_code"]) == 1

    def test_qform_and_sform_agree(self, tmp_path: Path) -> None:
        write_labels(tmp_path / "p.nii.gz", np.zeros((5, 6, 7), np.uint8), AFFINE)
        header = nib.load(tmp_path / "p.nii.gz").header
        np.testing.assert_allclose(header.get_qform(), AFFINE, atol=1e-6)
        np.testing.assert_allclose(header.get_sform(), AFFINE, atol=1e-6)
        np.testing.assert_allclose(header.get_zooms(), (2, 2, 2.5))

    def test_equal_labels_give_equal_bytes(self, tmp_path: Path) -> None:
        labels = np.random.default_rng(0).integers(0, 4, (5, 6, 7)).astype(np.uint8)
        for name in ("a.nii.gz", "another.nii.gz"):
            write_labels(tmp_path / name, labels, AFFINE)
        content = (tmp_path / "a.nii.gz").read_bytes()
        assert content == (tmp_path / "another.nii.gz").read_bytes()
        assert content[4:8] == b"\0\0\0\0"  # gzip's modification time
        assert not content[3] & 0x08  # gzip's file name
