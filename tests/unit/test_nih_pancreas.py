"""NIH Pancreas-CT: scans in DICOM, labels in NIfTI that lie on them by orientation alone."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest

from mskd.cases import Case, list_cases
from mskd.config.loading import parse_study
from mskd.dag import Graph
from mskd.datasets.case import LabelFile, RawCase
from mskd.datasets.collection import ListingError
from mskd.datasets.listing import find_cases
from mskd.errors import DataError
from mskd.layout import Layout
from mskd.prepared import PreparedCase
from mskd.reference import read_case_labels
from mskd.scans import read_scan
from mskd.stages.prepare import prepare
from tests.unit.made_series import made_hu, made_series

LABELS = "TCIA_pancreas_labels-02-05-2017"
SHAPE = (7, 6, 5)


def pancreas() -> npt.NDArray[np.uint8]:
    """Return labels (X, Y, Z) on the series' grid that look different from every side."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:4, 2, 3] = 1
    labels[1, 2:5, 3] = 1
    labels[6, 5, 4] = 1
    return labels


def write_case(root: Path, number: int, *, scan: bool = True, label: bool = True) -> npt.NDArray[np.float64] | None:
    """Write a case as TCIA serves it; its label file has axes P, R, I (all but the scan's), and another origin."""
    affine = None
    if scan:
        series = root / "Pancreas-CT" / f"PANCREAS_{number:04d}" / "11-24-2015-PANCREAS-18957" / "Pancreas-63502"
        affine = made_series(series, made_hu(SHAPE), names=[f"1-{5 - index:03d}.dcm" for index in range(5)])
    if label:
        (root / LABELS).mkdir(parents=True, exist_ok=True)
        # The scan's axes run to L, P, S with 0.75, 0.5, 2.5 mm; the label's to P, R, I.
        turned = pancreas().transpose(1, 0, 2)[:, ::-1, ::-1]
        header = np.array([[0, 0.75, 0, 3], [-0.5, 0, 0, 1], [0, 0, -2.5, 0], [0, 0, 0, 1.0]])
        nib.save(nib.Nifti1Image(turned, header), root / LABELS / f"label{number:04d}.nii.gz")
    return affine


def case_of(raw: RawCase) -> Case:
    return Case("pancreas", raw.name, "b00", raw.image, raw.labels, None, "train")


def faults(root: Path) -> ListingError:
    with pytest.raises(ListingError) as caught:
        find_cases("nih_pancreas", root)
    return caught.value


def test_from_listing_to_voxels(tmp_path: Path) -> None:
    affine = write_case(tmp_path, 1)
    write_case(tmp_path, 12)
    (tmp_path / "Pancreas-CT" / "LICENSE").touch()
    (tmp_path / LABELS / "._label0001.nii.gz").touch()
    cases = find_cases("nih_pancreas", tmp_path)
    assert [case.name for case in cases] == ["PANCREAS_0001", "PANCREAS_0012"]
    assert cases[0].labels == (LabelFile(tmp_path / LABELS / "label0001.nii.gz", grid="orientation"),)
    assert cases[0].native_split is None
    scan, found = read_scan(cases[0].image, "a")
    np.testing.assert_array_equal(scan, made_hu(SHAPE))
    np.testing.assert_allclose(found, affine)
    labels = read_case_labels(case_of(cases[0]), {1: 3}, {}, scan.shape, found)
    np.testing.assert_array_equal(labels, 3 * pancreas())


@pytest.mark.parametrize("scans", ["", "Pancreas-CT", "DOI", "manifest-1599750808610/Pancreas-CT"])
@pytest.mark.parametrize("labels", [LABELS, f"{LABELS}/{LABELS}", "TCIA_pancreas_labels"])
def test_places(tmp_path: Path, scans: str, labels: str) -> None:
    write_case(tmp_path / "from", 2)
    root = tmp_path / "root"
    (root / scans).mkdir(parents=True)
    (tmp_path / "from/Pancreas-CT/PANCREAS_0002").rename(root / scans / "PANCREAS_0002")
    (root / labels).parent.mkdir(exist_ok=True)
    (tmp_path / "from" / LABELS).rename(root / labels)
    (case,) = find_cases("nih_pancreas", root)
    assert case.name == "PANCREAS_0002"
    assert case.labels[0].path == root / labels / "label0002.nii.gz"


def test_labels_elsewhere(tmp_path: Path) -> None:
    write_case(tmp_path, 2)
    (tmp_path / LABELS).rename(tmp_path / "masks")
    with pytest.raises(DataError, match=r"TCIA_pancreas_labels[\s\S]*option 'labels'"):
        find_cases("nih_pancreas", tmp_path)
    assert len(find_cases("nih_pancreas", tmp_path, {"labels": "masks"})) == 1


@pytest.mark.parametrize("scan", [True, False])
def test_withdrawn_duplicates_are_left_out(tmp_path: Path, scan: bool) -> None:
    for number in (25, 70):
        write_case(tmp_path, number, scan=scan)
    write_case(tmp_path, 26)
    assert [case.name for case in find_cases("nih_pancreas", tmp_path)] == ["PANCREAS_0026"]


def test_every_fault_is_named(tmp_path: Path) -> None:
    write_case(tmp_path, 1)
    write_case(tmp_path, 2, label=False)
    write_case(tmp_path, 3, scan=False)
    (tmp_path / "Pancreas-CT" / "PANCREAS_0004" / "study").mkdir(parents=True)
    write_case(tmp_path, 4, scan=False)
    write_case(tmp_path, 5)
    made_series(tmp_path / "Pancreas-CT/PANCREAS_0005/again", made_hu(SHAPE), names=[f"{i}.dcm" for i in range(5)])
    error = faults(tmp_path)
    assert [problem.case for problem in error.problems] == [f"PANCREAS_{n:04d}" for n in (2, 3, 4, 5)]
    assert [case.name for case in error.cases] == ["PANCREAS_0001"]
    assert "label0002.nii.gz" in error.problems[0].expected
    assert error.problems[2].found == "study"
    assert "again" in error.problems[3].found


@pytest.mark.parametrize("change", ["shape", "spacing"])
def test_labels_of_another_scan(tmp_path: Path, change: str) -> None:
    write_case(tmp_path, 1)
    path = tmp_path / LABELS / "label0001.nii.gz"
    image = nib.load(path)
    array, affine = np.asarray(image.dataobj), image.affine.copy()
    if change == "shape":
        array = array[1:]
    else:
        affine[:3, 2] *= 1.2
    nib.save(nib.Nifti1Image(array, affine), path)
    (case,) = find_cases("nih_pancreas", tmp_path)
    scan, found = read_scan(case.image, "a")
    with pytest.raises(DataError, match=rf"{change if change == 'shape' else 'steps'}[\s\S]*belong together"):
        read_case_labels(case_of(case), {1: 1}, {}, scan.shape, found)


def test_other_layouts_still_need_the_affine_of_the_scan(tmp_path: Path) -> None:
    write_case(tmp_path, 1)
    (case,) = find_cases("nih_pancreas", tmp_path)
    scan, found = read_scan(case.image, "a")
    strict = RawCase(case.name, case.image, (LabelFile(case.labels[0].path),))
    with pytest.raises(DataError, match="affine of its scan"):
        read_case_labels(case_of(strict), {1: 1}, {}, scan.shape, found)


def test_the_way_labels_are_read_is_part_of_their_role(tmp_path: Path) -> None:
    assert LabelFile(tmp_path).role == "label:"
    assert LabelFile(tmp_path, "liver").role == "label:liver"
    assert LabelFile(tmp_path, grid="orientation").role == "label:@orientation"


def test_from_raw_files_to_prepared_stores(tmp_path: Path) -> None:
    write_case(tmp_path / "data", 1)
    section = {"adapter": "nih_pancreas", "path": str(tmp_path / "data"), "label_map": {1: "pancreas"}, "blocks": 1}
    study = parse_study(
        {
            "results": str(tmp_path / "results"),
            "organs": ["pancreas"],
            "datasets": {"pancreas": {**section, "split": {"kind": "all", "into": "train"}}},
            "preprocessing": {"spacing_mm": [0.75, 0.5, 2.5], "crop_to_body": False, "hu_clip": [-1000, 1000]},
        }
    )
    (case,) = list_cases(study, "pancreas")
    files = Graph(study).raw_files("pancreas", "b00")
    assert files == [*sorted(case.image.iterdir()), case.labels[0].path]
    prepare(study, "pancreas", "b00")
    path = Layout(study.root).prepared("pancreas", "b00", "PANCREAS_0001")
    stored = PreparedCase(path, "a")
    np.testing.assert_array_equal(stored.read("labels"), pancreas()[::-1, ::-1])  # L, P, S → R, A, S
    np.testing.assert_array_equal(stored.read("image"), made_hu(SHAPE)[::-1, ::-1])

    manifest = Layout(study.root).manifest("prepare", "pancreas", "b00")
    before = manifest.read_text()
    prepare(study, "pancreas", "b00")
    assert manifest.read_text() == before
    made_series(case.image, made_hu(SHAPE) + 1, names=[file.name for file in sorted(case.image.iterdir())[::-1]])
    prepare(study, "pancreas", "b00")
    assert manifest.read_text() != before
    np.testing.assert_array_equal(PreparedCase(path, "a").read("image"), made_hu(SHAPE)[::-1, ::-1] + 1)
