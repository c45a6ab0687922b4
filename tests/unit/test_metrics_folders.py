"""`mskd evaluate` on two folders: pairing, checks of the grids, and what is written."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mskd.errors import ConfigError, DataError
from mskd.evaluation.folders import evaluate_folders
from mskd.evaluation.frames import read_metrics

AFFINE = np.diag([-0.8, -0.8, 2.5, 1.0])
LABELS = {"liver": 1, "spleen": 2}


def save(folder: Path, name: str, labels: np.ndarray, affine: np.ndarray = AFFINE, dtype: type = np.uint8) -> None:
    folder.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(labels.astype(dtype), affine), folder / name)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path, Path]:
    labels = np.zeros((12, 10, 8), np.uint8)
    labels[2:8, 2:8, 2:6] = 1
    save(tmp_path / "ref", "case_b.nii.gz", labels)
    save(tmp_path / "ref", "case_a.nii", labels)
    save(tmp_path / "pred", "case_a.nii.gz", labels, dtype=np.float32)
    labels[8:10, 2:8, 2:6] = 1
    labels[0, 0, 0] = 2
    save(tmp_path / "pred", "case_b.nii.gz", labels)
    save(tmp_path / "pred", "case_c.nii.gz", labels)
    return tmp_path / "ref", tmp_path / "pred", tmp_path / "out"


def test_two_folders_become_metrics_and_tables(folders: tuple[Path, Path, Path]) -> None:
    reference, prediction, output = folders
    metrics = evaluate_folders(reference, prediction, LABELS, output, dataset="mine")
    read = read_metrics(output / "metrics.csv")
    assert list(read["case"]) == ["case_a", "case_a", "case_b", "case_b"]
    assert list(read["status"]) == ["scored", "absent", "scored", "spurious"]
    assert read["dice"][0] == 1.0
    assert read["dice"][2] == pytest.approx(2 * 6 / (6 + 8))
    assert read["hd95_mm"][2] == pytest.approx(1.6)
    assert read["scan_diagonal_mm"][0] == pytest.approx(np.sqrt(9.6**2 + 8**2 + 20**2), abs=0.01)
    assert len(metrics) == len(read)
    assert sorted(path.name for path in output.iterdir()) == [
        *(f"comparison.{suffix}" for suffix in ("csv", "html", "md", "tex")),
        "metrics.csv",
    ]
    assert "liver = 1, spleen = 2" in (output / "comparison.md").read_text()


def test_all_missing_predictions_are_named(folders: tuple[Path, Path, Path]) -> None:
    reference, prediction, output = folders
    for file in prediction.glob("case_[ab]*"):
        file.unlink()
    with pytest.raises(DataError, match=r"case_a, case_b(.|\n)*none for 2; names that are there: case_c"):
        evaluate_folders(reference, prediction, LABELS, output)
    assert not output.exists()


def test_different_grids_are_refused(folders: tuple[Path, Path, Path]) -> None:
    reference, prediction, output = folders
    save(prediction, "case_a.nii.gz", np.zeros((12, 10, 7)))
    with pytest.raises(DataError, match=r"case case_a(.|\n)*shape \(12, 10, 8\)(.|\n)*shape \(12, 10, 7\)"):
        evaluate_folders(reference, prediction, LABELS, output)
    moved = AFFINE.copy()
    moved[0, 3] = 0.5
    save(prediction, "case_a.nii.gz", np.zeros((12, 10, 8)), moved)
    with pytest.raises(DataError, match=r"corners are up to 0.5 mm apart"):
        evaluate_folders(reference, prediction, LABELS, output)
    moved[0, 3] = 1e-4
    save(prediction, "case_a.nii.gz", np.zeros((12, 10, 8)), moved)
    evaluate_folders(reference, prediction, LABELS, output)


@pytest.mark.parametrize(
    ("values", "message"),
    [(np.full((12, 10, 8), 0.5), "whole numbers"), (np.zeros((12, 10, 8, 2)), "three axes")],
)
def test_files_without_labels_are_refused(folders: tuple[Path, Path, Path], values: np.ndarray, message: str) -> None:
    reference, prediction, output = folders
    save(prediction, "case_a.nii.gz", values, dtype=np.float32)
    with pytest.raises(DataError, match=message):
        evaluate_folders(reference, prediction, LABELS, output)


def test_unreadable_and_doubled_files_are_refused(folders: tuple[Path, Path, Path]) -> None:
    reference, prediction, output = folders
    whole = (prediction / "case_b.nii.gz").read_bytes()
    for broken in (b"no nifti", whole[: len(whole) // 2], b""):
        (prediction / "case_b.nii.gz").write_bytes(broken)
        with pytest.raises(DataError, match="a NIfTI file"):
            evaluate_folders(reference, prediction, LABELS, output)
    save(prediction, "case_b.nii", np.zeros((12, 10, 8)))
    with pytest.raises(DataError, match="one file per case"):
        evaluate_folders(reference, prediction, LABELS, output)


def test_empty_and_missing_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        evaluate_folders(tmp_path / "none", tmp_path, LABELS, tmp_path / "out")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match="1 other entries"):
        evaluate_folders(tmp_path, tmp_path, LABELS, tmp_path / "out")


@pytest.mark.parametrize(
    ("labels", "tolerance", "message"),
    [
        ({}, 2.0, "names no organ"),
        ({"liver": 0}, 2.0, "from 1 on"),
        ({"liver": 1, "spleen": 1}, 2.0, "share a value"),
        (LABELS, {"liver": 1.0}, r"lacks \['spleen'\]"),
        (LABELS, -1.0, "0 mm or more"),
    ],
)
def test_label_maps_and_tolerances_are_checked(
    tmp_path: Path, labels: dict[str, int], tolerance: float | dict[str, float], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate_folders(tmp_path, tmp_path, labels, tmp_path / "out", nsd_tolerance_mm=tolerance)
