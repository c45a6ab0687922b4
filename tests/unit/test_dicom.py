"""CT series in DICOM: what is written is what is read, in the same place; what is no volume is refused."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pydicom
import pytest

from mskd.datasets.listing import find_cases
from mskd.dicom import find_series, one_series, read_series, series_digest, series_grid, write_series
from mskd.dicom_segmentation import read_segmentation, write_segmentation
from mskd.errors import DataError
from mskd.scans import read_scan, read_scan_grid, scan_digest

AFFINE = np.array([[-0.8, 0, 0, 30], [0, -0.7, 0, 40], [0, 0, 2.5, -50], [0, 0, 0, 1.0]])
SHAPE = (5, 6, 4)


def volume(seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> npt.NDArray[np.int16]:
    return np.random.default_rng(seed).integers(-1000, 1500, shape).astype(np.int16)


def world(array: npt.NDArray[np.generic], affine: npt.NDArray[np.float64]) -> dict[tuple[float, ...], float]:
    """Return value by position of the voxel in mm."""
    indices = np.stack(np.meshgrid(*map(np.arange, array.shape), indexing="ij"), -1).reshape(-1, 3)
    places = np.round(nib.affines.apply_affine(affine, indices), 2) + 0.0
    return dict(zip(map(tuple, places), array.reshape(-1).tolist(), strict=True))


AXES = [(order, signs) for order in itertools.permutations(range(3)) for signs in itertools.product((1, -1), repeat=3)]


@pytest.mark.parametrize(("order", "signs"), AXES)
def test_every_order_and_direction_of_axes(tmp_path: Path, order: tuple[int, ...], signs: tuple[int, ...]) -> None:
    affine = np.eye(4)
    for axis, (to, sign) in enumerate(zip(order, signs, strict=True)):
        affine[:, axis] = 0
        affine[to, axis] = sign * (0.8, 0.9, 2.5)[axis]
    affine[:3, 3] = (10, -20, 30)
    series = write_series(tmp_path / "s", volume(), affine)
    array, found = read_series(series, "c")
    assert array.dtype == np.int16
    assert world(array, found) == world(volume(), affine)
    shape, grid = series_grid(series, "c")
    assert shape == array.shape
    np.testing.assert_array_equal(grid, found)


def test_an_oblique_series(tmp_path: Path) -> None:
    turn = np.eye(4)
    turn[:3, :3] = nib.eulerangles.euler2mat(0.2, -0.1, 0.3)
    affine = turn @ AFFINE
    array, found = read_series(write_series(tmp_path / "s", volume(), affine), "c")
    ours, theirs = world(array, found), world(volume(), affine)
    assert sorted(ours.values()) == sorted(theirs.values())
    for place, value in theirs.items():
        nearest = min(ours, key=lambda other: sum((a - b) ** 2 for a, b in zip(place, other, strict=True)))
        assert np.allclose(nearest, place, atol=0.02)
        assert ours[nearest] == value


def test_names_and_order_of_files_do_not_matter_but_positions_do(tmp_path: Path) -> None:
    series = write_series(tmp_path / "s", volume(), AFFINE)
    before = read_series(series, "c")
    digest = series_digest(series)
    for index, file in enumerate(series.files):
        file.rename(file.with_name(f"IM{9 - index}"))
    again = one_series(tmp_path / "s", "c")
    assert [file.name for file in again.files] == ["IM6", "IM7", "IM8", "IM9"]
    for one, two in zip(before, read_series(again, "c"), strict=True):
        np.testing.assert_array_equal(one, two)
    assert series_digest(again) == digest == scan_digest(tmp_path / "s", "c")


def edit(file: Path, change: Callable[[pydicom.Dataset], object]) -> None:
    dataset = pydicom.dcmread(file)
    change(dataset)
    dataset.save_as(file)


def test_slices_with_a_slope_of_their_own(tmp_path: Path) -> None:
    series = write_series(tmp_path / "s", volume(), AFFINE)
    plain, _ = read_series(series, "c")

    def scale(dataset: pydicom.Dataset) -> None:
        dataset.RescaleSlope, dataset.RescaleIntercept = "0.5", "-3"

    edit(series.files[1], scale)
    array, _ = read_series(series, "c")
    assert array.dtype == np.float32
    np.testing.assert_allclose(array[:, :, 1], plain[:, :, 1] * 0.5 - 3)
    np.testing.assert_array_equal(array[:, :, 0], plain[:, :, 0])


def test_a_compressed_series(tmp_path: Path) -> None:
    series = write_series(tmp_path / "s", volume(), AFFINE)
    plain, _ = read_series(series, "c")
    for file in series.files:
        edit(file, lambda dataset: dataset.compress(pydicom.uid.RLELossless))
    array, _ = read_series(series, "c")
    np.testing.assert_array_equal(array, plain)


def move(axis: int, mm: float) -> Callable[[pydicom.Dataset], None]:
    def change(dataset: pydicom.Dataset) -> None:
        place = [float(v) for v in dataset.ImagePositionPatient]
        place[axis] += mm
        dataset.ImagePositionPatient = place

    return change


def put(field: str, value: object) -> Callable[[pydicom.Dataset], None]:
    return lambda dataset: setattr(dataset, field, value)


FAULTS: dict[str, tuple[Callable[[list[Path]], object], str]] = {
    "missing slice": (lambda files: files[1].unlink(), "1 missing"),
    "uneven": (lambda files: edit(files[1], move(2, 0.5)), "distances from 2.000 to 3.000 mm"),
    "twice at one place": (lambda files: edit(files[1], move(2, 2.5)), "one slice at each position"),
    "tilted": (lambda files: [edit(f, move(1, 0.4 * i)) for i, f in enumerate(files)], "tilted gantry"),
    "another orientation": (
        lambda files: edit(files[2], put("ImageOrientationPatient", [0, 1, 0, 0, 0, 1])),
        "ImageOrientationPatient of the other slices",
    ),
    "another spacing": (lambda files: edit(files[2], put("PixelSpacing", [1, 1])), "PixelSpacing of the other slices"),
    "one slice": (lambda files: [file.unlink() for file in files[1:]], "two slices"),
    "truncated": (lambda files: files[1].write_bytes(files[1].read_bytes()[:-20]), "a whole slice"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_named(tmp_path: Path, name: str) -> None:
    series = write_series(tmp_path / "s", volume(), AFFINE)
    plant, expected = FAULTS[name]
    plant(list(series.files))
    with pytest.raises(DataError, match=expected) as error:
        read_scan(tmp_path / "s", "data/case")
    assert error.value.case == "data/case"


def test_what_is_no_ct_is_not_found(tmp_path: Path) -> None:
    write_series(tmp_path / "mr", volume(), AFFINE)
    for file in (tmp_path / "mr").iterdir():
        edit(file, put("SOPClassUID", "1.2.840.10008.5.1.4.1.1.4"))
    (tmp_path / "mr" / "DICOMDIR").write_bytes(b"nothing")
    (tmp_path / "mr" / "notes.txt").write_text("x")
    assert find_series(tmp_path) == []
    with pytest.raises(DataError, match="MR, PET"):
        read_scan(tmp_path / "mr", "c")


def test_studies_are_found_and_several_series_are_refused(tmp_path: Path) -> None:
    for number, place in enumerate(["p1/ct", "p2/ct"]):
        write_series(tmp_path / place, volume(number), AFFINE)
    other = write_series(tmp_path / "other", volume(7), AFFINE)
    for file in other.files:
        file.rename(tmp_path / "p2" / "ct" / f"b{file.name}")
    assert [series.name for series in find_series(tmp_path)] == ["p1/ct", "p2/ct-1", "p2/ct-2"]
    with pytest.raises(DataError, match=r"(?s)one CT series .* found: +2"):
        read_scan_grid(tmp_path / "p2", "c")


def test_a_written_series_says_nothing_of_a_patient(tmp_path: Path) -> None:
    one, two = (write_series(tmp_path / name, volume(), AFFINE) for name in ("a", "b"))
    header = pydicom.dcmread(one.files[0])
    assert str(header.PatientName) == "Anonymous^"
    assert header.StudyDate == ""
    assert [f.read_bytes() for f in one.files] == [f.read_bytes() for f in two.files]


@pytest.mark.parametrize(("order", "signs"), AXES[::7])
def test_a_segmentation_lies_on_its_series(tmp_path: Path, order: tuple[int, ...], signs: tuple[int, ...]) -> None:
    affine = np.eye(4)
    for axis, (to, sign) in enumerate(zip(order, signs, strict=True)):
        affine[:, axis] = 0
        affine[to, axis] = sign * (0.8, 0.9, 2.5)[axis]
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:4, 1:3, 1:3] = 1
    labels[0, 4, 2] = 3
    series = write_series(tmp_path / "s", volume(), affine)
    names = {"liver": 1, "kidney_left": 3, "thing": 7}
    write_segmentation(tmp_path / "x.dcm", labels, affine, names, series)
    found, grid, numbers = read_segmentation(tmp_path / "x.dcm")
    assert list(numbers) == ["liver", "kidney_left", "thing"]
    expected = {place: value for place, value in world(labels, affine).items() if value}
    back = {number: names[organ] for organ, number in numbers.items()}
    assert {place: back[int(v)] for place, v in world(found, grid).items() if v} == expected
    written = pydicom.dcmread(tmp_path / "x.dcm")
    assert written.ReferencedSeriesSequence[0].SeriesInstanceUID == pydicom.dcmread(series.files[0]).SeriesInstanceUID
    codes = [segment.SegmentedPropertyTypeCodeSequence[0].CodeMeaning for segment in written.SegmentSequence]
    assert codes == ["Liver", "Left kidney", "Organ"]


def test_a_file_that_is_no_segmentation(tmp_path: Path) -> None:
    (tmp_path / "x.dcm").write_bytes(b"nothing")
    with pytest.raises(DataError, match="a DICOM-SEG"):
        read_segmentation(tmp_path / "x.dcm")


class TestNihPancreas:
    """The layout as TCIA serves it: series below patients, labels apart, turned and in another place."""

    LABELS = "TCIA_pancreas_labels-02-05-2017"

    def write(self, root: Path, number: str, seed: int) -> npt.NDArray[np.int16]:
        hu = volume(seed, (8, 8, 6))
        write_series(root / "Pancreas-CT" / f"PANCREAS_{number}" / "11-24-2015" / "CT-1", hu, AFFINE)
        organ = (hu > 900).astype(np.uint8)
        flipped = nib.Nifti1Image(organ, AFFINE).as_reoriented(np.array([[1, -1], [0, 1], [2, -1]]))
        moved = flipped.affine.copy()
        moved[:3, 3] = 0
        (root / self.LABELS).mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(np.asarray(flipped.dataobj), moved), root / self.LABELS / f"label{number}.nii.gz")
        return hu

    def test_labels_come_to_lie_on_the_scan(self, tmp_path: Path) -> None:
        from mskd.cases import Case
        from mskd.reference import read_case_labels

        for seed, number in enumerate(["0001", "0002"]):
            self.write(tmp_path, number, seed)
        cases = find_cases("nih_pancreas", tmp_path)
        assert [case.name for case in cases] == ["PANCREAS_0001", "PANCREAS_0002"]
        for raw in cases:
            case = Case("nih", raw.name, "b00", raw.image, raw.labels, None, "train")
            scan, affine = read_scan(case.image, case.id)
            labels = read_case_labels(case, {1: 2}, {}, scan.shape, affine)
            assert labels is not None
            np.testing.assert_array_equal(labels == 2, scan > 900)

    def test_what_is_missing_is_named(self, tmp_path: Path) -> None:
        self.write(tmp_path, "0001", 0)
        self.write(tmp_path, "0002", 1)
        (tmp_path / self.LABELS / "label0001.nii.gz").unlink()
        for file in (tmp_path / "Pancreas-CT" / "PANCREAS_0002").rglob("*.dcm"):
            file.unlink()
        with pytest.raises(DataError) as error:
            find_cases("nih_pancreas", tmp_path)
        assert "label0001.nii.gz" in str(error.value)
        assert "PANCREAS_0002" in str(error.value)
