"""Labels as DICOM-SEG and scans as DICOM series: read back they have the same voxels in the same places."""

from __future__ import annotations

import itertools
from pathlib import Path

import highdicom
import nibabel as nib
import numpy as np
import numpy.typing as npt
import pydicom
import pytest

from mskd.dicom import find_series, read_series
from mskd.dicom_segmentation import read_segmentation, write_segmentation, write_series
from mskd.errors import DataError
from mskd.geometry import reorient
from tests.unit.made_series import SECRET, made_hu, made_series

ROTATION = np.array([[0.96, -0.28, 0.0], [0.224, 0.768, -0.6], [0.168, 0.576, 0.8]])
SKEWED = np.array([[1, 2, 2], [2, 1, -2], [2, -2, 1]]) / 3  # mirrored, and far off every axis
ORDERS = [
    (order, flips) for order in itertools.permutations(range(3)) for flips in itertools.product((1, -1), repeat=3)
]
NAMES = {"liver": 1, "left_kidney": 2, "lesion 3": 4, "spleen": 7}


def affine_of(
    order: tuple[int, ...], flips: tuple[int, ...], rotation: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return an affine whose raw axes are permuted, flipped and rotated, with three spacings."""
    affine = np.eye(4)
    affine[:3, :3] = rotation[:, list(order)] * flips * np.array([0.75, 1.25, 3.0])
    affine[:3, 3] = (12.5, -40.125, 1000.0625)
    return affine


def made_labels(shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    labels = np.zeros(shape, np.uint8)
    labels[1:3, 1:4, 1:3] = 1
    labels[4:, :2, 0] = 2
    labels[0, -1, -1] = 7
    labels[3, 3, 3] = 4
    return labels


def by_world(array: npt.NDArray[np.generic], affine: npt.NDArray[np.float64]) -> dict[tuple[int, ...], float]:
    """Return values by world position in 1/50 mm, of voxels that are not 0."""
    index = np.argwhere(array)
    world = nib.affines.apply_affine(affine, index)
    return {tuple(np.rint(50 * w).astype(int)): float(array[tuple(i)]) for w, i in zip(world, index, strict=True)}


def worlds_by_value(array: npt.NDArray[np.generic], affine: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return values (each there once) in rising order, with the world position of each."""
    values = array.ravel()
    order = np.argsort(values)
    index = np.stack(np.unravel_index(order, array.shape), axis=1)
    return np.column_stack([values[order], nib.affines.apply_affine(affine, index)])


class TestWriteSeries:
    @pytest.mark.parametrize("rotation", [np.eye(3), ROTATION, SKEWED], ids=["straight", "oblique", "mirrored"])
    def test_every_order_and_flip_of_axes(self, tmp_path: Path, rotation: npt.NDArray[np.float64]) -> None:
        hu = made_hu((4, 3, 5))
        for order, flips in ORDERS:
            affine = affine_of(order, flips, rotation)
            write_series(tmp_path / "s", hu, affine, "a")
            array, found = read_series(tmp_path / "s", "a")
            assert np.linalg.det(found[:3, :3]) > 0
            np.testing.assert_allclose(worlds_by_value(array, found), worlds_by_value(hu, affine), atol=1e-6)
            back, back_affine = reorient(array, found, affine)
            np.testing.assert_array_equal(back, hu)
            np.testing.assert_allclose(back_affine, affine, atol=1e-6)

    def test_standard_axes(self, tmp_path: Path) -> None:
        """Columns to the left, rows to the back, slices to the head: what every viewer shows without turning."""
        write_series(tmp_path / "s", made_hu(), np.diag([0.75, 1.25, 3.0, 1.0]), "a")
        header = pydicom.dcmread(tmp_path / "s" / "slice0001.dcm")
        assert list(header.ImageOrientationPatient) == [1, 0, 0, 0, 1, 0]
        assert [float(v) for v in header.ImagePositionPatient] == [-4.5, -6.25, 0]
        assert [float(v) for v in header.PixelSpacing] == [1.25, 0.75]
        assert header.pixel_array[0, 0] == made_hu()[-1, -1, 0]

    def test_same_scan_same_files(self, tmp_path: Path) -> None:
        hu, affine = made_hu(), affine_of((2, 0, 1), (1, -1, 1), ROTATION)
        for folder in "ab":
            write_series(tmp_path / folder, hu, affine, folder)
        contents = [[file.read_bytes() for file in sorted((tmp_path / folder).iterdir())] for folder in "ab"]
        assert contents[0] == contents[1]
        write_series(tmp_path / "c", hu + 1, affine, "c")
        series = {pydicom.dcmread(tmp_path / f / "slice0001.dcm").SeriesInstanceUID for f in "abc"}
        assert len(series) == 2

    def test_anonymous(self, tmp_path: Path) -> None:
        write_series(tmp_path / "s", made_hu(), np.eye(4), "Doe")
        header = pydicom.dcmread(tmp_path / "s" / "slice0001.dcm")
        assert header.PatientName == "Anonymous"
        assert "Doe" not in str(header)
        assert not [e for e in header if e.VR in ("DA", "TM", "DT") and e.value]

    def test_fractions_and_range(self, tmp_path: Path) -> None:
        scan = np.array([-1000.4, 0.6, 40000.0, -50000.0]).reshape(2, 1, 2)
        write_series(tmp_path / "s", scan, np.diag([-1.0, -1.0, 1.0, 1.0]), "a")
        array = read_series(tmp_path / "s", "a")[0]
        assert array.ravel().tolist() == [-1000, 1, 32767, -32768]

    def test_sheared(self, tmp_path: Path) -> None:
        sheared = np.eye(4)
        sheared[0, 2] = 0.1
        with pytest.raises(DataError, match="right angles"):
            write_series(tmp_path / "s", made_hu(), sheared, "a")
        assert list(tmp_path.iterdir()) == []


class TestSegmentation:
    def test_on_its_own_series(self, tmp_path: Path) -> None:
        hu = made_hu()
        made_series(tmp_path / "ct", hu)
        series, labels = find_series(tmp_path / "ct")[0], made_labels(hu.shape)
        affine = read_series(series, "a")[1]
        write_segmentation(tmp_path / "seg.dcm", labels, affine, NAMES, series, "a")
        found = read_segmentation(tmp_path / "seg.dcm", series, "a")
        assert found.names == {"liver": 1, "left_kidney": 2, "lesion 3": 3, "spleen": 4}
        for organ, number in found.names.items():
            np.testing.assert_array_equal(found.labels == number, labels == NAMES[organ], err_msg=organ)
        np.testing.assert_array_equal(found.affine, affine)

    def test_geometry_as_highdicom_sees_it(self, tmp_path: Path) -> None:
        """Without the series: every voxel of the file at its place in the world."""
        hu = made_hu()
        affine = made_series(tmp_path / "ct", hu, orientation=(0.0, 0.8, -0.6, 1.0, 0.0, 0.0))
        labels = made_labels(hu.shape)
        write_segmentation(tmp_path / "seg.dcm", labels, affine, NAMES, tmp_path / "ct", "a")
        volume = highdicom.seg.segread(tmp_path / "seg.dcm").get_volume(combine_segments=True)
        ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine
        expected = {world: {1: 1, 2: 2, 4: 3, 7: 4}[value] for world, value in by_world(labels, affine).items()}
        assert by_world(volume.array, ras) == expected

    @pytest.mark.parametrize(("order", "flips"), ORDERS[::5])
    def test_of_a_nifti_scan(self, tmp_path: Path, order: tuple[int, ...], flips: tuple[int, ...]) -> None:
        hu, affine = made_hu(), affine_of(order, flips, ROTATION)
        labels = made_labels(hu.shape)
        series = write_series(tmp_path / "ct", hu, affine, "a")
        write_segmentation(tmp_path / "seg.dcm", labels, affine, NAMES, series, "a")
        found = read_segmentation(tmp_path / "seg.dcm", series, "a")
        back, _ = reorient(found.labels, found.affine, affine)
        for organ, number in found.names.items():
            np.testing.assert_array_equal(back == number, labels == NAMES[organ])

    def test_belongs_to_its_series(self, tmp_path: Path) -> None:
        hu = made_hu()
        affine = made_series(tmp_path / "ct", hu)
        write_segmentation(tmp_path / "seg.dcm", made_labels(hu.shape), affine, NAMES, tmp_path / "ct", "a")
        source, written = pydicom.dcmread(tmp_path / "ct" / "IM000"), pydicom.dcmread(tmp_path / "seg.dcm")
        for tag in ("StudyInstanceUID", "PatientID", "FrameOfReferenceUID", "StudyDate"):
            assert written[tag].value == source[tag].value
        assert written.PatientName == SECRET
        assert written.SeriesInstanceUID != source.SeriesInstanceUID
        assert written.SegmentationType == "BINARY"
        referred = {
            item.ReferencedSOPInstanceUID for item in written.ReferencedSeriesSequence[0].ReferencedInstanceSequence
        }
        assert source.SOPInstanceUID in referred
        assert len(referred) == 5
        assert [series.name for series in find_series(tmp_path)] == ["ct"]

    def test_codes(self, tmp_path: Path) -> None:
        names = ["liver", "left_kidney", "kidney_right", "Oesophagus", "right adrenal gland", "IVC", "tumour", "kidney"]
        hu = made_hu()
        affine = made_series(tmp_path / "ct", hu)
        values = {name: value for value, name in enumerate(names, 1)}
        write_segmentation(tmp_path / "seg.dcm", made_labels(hu.shape), affine, values, tmp_path / "ct", "a")
        found = {}
        for segment in pydicom.dcmread(tmp_path / "seg.dcm").SegmentSequence:
            kind = segment.SegmentedPropertyTypeCodeSequence[0]
            assert kind.CodingSchemeDesignator == "SCT"
            side = kind.get("SegmentedPropertyTypeModifierCodeSequence")
            found[segment.SegmentLabel] = (kind.CodeValue, side[0].CodeMeaning if side else None)
            assert segment.SegmentAlgorithmType == "AUTOMATIC"
        assert found == {
            "liver": ("10200004", None),
            "left_kidney": ("64033007", "Left"),
            "kidney_right": ("64033007", "Right"),
            "Oesophagus": ("32849002", None),
            "right adrenal gland": ("23451007", "Right"),
            "IVC": ("64131007", None),
            "tumour": ("85756007", None),
            "kidney": ("64033007", None),
        }

    @pytest.mark.parametrize("filled", [0, 1], ids=["nothing", "one voxel"])
    def test_hardly_anything(self, tmp_path: Path, filled: int) -> None:
        hu = made_hu()
        affine = made_series(tmp_path / "ct", hu)
        labels = np.zeros(hu.shape, np.uint8)
        labels[2, 3, 4] = filled
        write_segmentation(tmp_path / "seg.dcm", labels, affine, {"liver": 1, "spleen": 2}, tmp_path / "ct", "a")
        found = read_segmentation(tmp_path / "seg.dcm", tmp_path / "ct", "a")
        np.testing.assert_array_equal(found.labels, labels)
        assert found.names == {"liver": 1, "spleen": 2}

    def test_a_nifti_source(self, tmp_path: Path) -> None:
        nib.save(nib.Nifti1Image(made_hu(), np.eye(4)), tmp_path / "ct.nii.gz")
        with pytest.raises(DataError, match="write_series"):
            write_segmentation(
                tmp_path / "s.dcm", made_labels((7, 6, 5)), np.eye(4), NAMES, tmp_path / "ct.nii.gz", "a"
            )

    def test_another_grid(self, tmp_path: Path) -> None:
        hu = made_hu()
        affine = made_series(tmp_path / "ct", hu)
        labels = made_labels(hu.shape)
        affine[0, 3] += 1
        with pytest.raises(DataError, match="on the grid of the series"):
            write_segmentation(tmp_path / "s.dcm", labels, affine, NAMES, tmp_path / "ct", "a")
        affine[0, 3] -= 1
        with pytest.raises(DataError, match=r"shape \(6, 6, 5\)"):
            write_segmentation(tmp_path / "s.dcm", labels[1:], affine, NAMES, tmp_path / "ct", "a")

    def test_values_without_a_name(self, tmp_path: Path) -> None:
        hu = made_hu()
        affine = made_series(tmp_path / "ct", hu)
        with pytest.raises(DataError, match=r"values \[2, 4, 7\]"):
            write_segmentation(tmp_path / "s.dcm", made_labels(hu.shape), affine, {"liver": 1}, tmp_path / "ct", "a")
        assert not (tmp_path / "s.dcm").exists()

    def test_segmentation_of_another_series(self, tmp_path: Path) -> None:
        hu = made_hu()
        affine = made_series(tmp_path / "ct", hu)
        made_series(tmp_path / "other", hu)
        write_segmentation(tmp_path / "s.dcm", made_labels(hu.shape), affine, NAMES, tmp_path / "ct", "a")
        with pytest.raises(DataError, match="a DICOM segmentation of the series"):
            read_segmentation(tmp_path / "s.dcm", tmp_path / "other", "a")
        with pytest.raises(DataError, match="a DICOM segmentation of the series"):
            read_segmentation(tmp_path / "ct" / "IM000", tmp_path / "ct", "a")
