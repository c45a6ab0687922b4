"""`mskd evaluate` on two folders: pairing, checks of the grids, and what is written."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from mskd.errors import ConfigError, DataError
from mskd.evaluation.folders import LabelMap, evaluate_folders
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
    with pytest.raises(DataError, match=r"affine of the reference(.|\n)*up to 0.625 voxels off"):
        evaluate_folders(reference, prediction, LABELS, output)
    moved[0, 3] = 0.02  # rounded headers of other tools
    save(prediction, "case_a.nii.gz", np.zeros((12, 10, 8)), moved)
    evaluate_folders(reference, prediction, LABELS, output)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((12, 10, 8), 0.5), "fractional values such as 0.5"),
        (np.where(np.arange(8) == 3, np.nan, np.ones((12, 10, 8))), "120 voxels that are NaN or infinite"),
        (np.full((12, 10, 8), np.inf), "960 voxels that are NaN or infinite"),
        (np.zeros((12, 10, 8, 2)), "three dimensions"),
    ],
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
        with pytest.raises(DataError, match="a complete NIfTI file"):
            evaluate_folders(reference, prediction, LABELS, output)
    save(prediction, "case_b.nii", np.zeros((12, 10, 8)))
    with pytest.raises(DataError, match="one file per case"):
        evaluate_folders(reference, prediction, LABELS, output)


def test_a_flipped_bit_is_seen(folders: tuple[Path, Path, Path]) -> None:
    reference, prediction, output = folders
    whole = bytearray((prediction / "case_b.nii.gz").read_bytes())
    whole[len(whole) // 2] ^= 1
    (prediction / "case_b.nii.gz").write_bytes(whole)
    with pytest.raises(DataError, match=r"case case_b(.|\n)*a complete NIfTI file"):
        evaluate_folders(reference, prediction, LABELS, output)


def test_axes_in_another_order_are_put_in_the_references(folders: tuple[Path, Path, Path]) -> None:
    reference, prediction, output = folders
    turned = nib.load(reference / "case_a.nii").as_reoriented(nib.orientations.axcodes2ornt(("S", "P", "R")))
    nib.save(turned, prediction / "case_a.nii.gz")
    metrics = evaluate_folders(reference, prediction, LABELS, output)
    first = metrics.iloc[0]
    assert (first["dice"], first["hd95_mm"], first["nsd"]) == (1.0, 0.0, 1.0)


def test_255_is_an_organs_value_where_the_map_says_so(folders: tuple[Path, Path, Path]) -> None:
    reference, prediction, output = folders
    for folder in (reference, prediction):
        for file in folder.iterdir():
            values = np.asarray(nib.load(file).dataobj).astype(np.uint8)
            nib.save(nib.Nifti1Image(np.where(values == 1, 255, 0).astype(np.uint8), AFFINE), file)
    metrics = evaluate_folders(reference, prediction, {"liver": 255}, output)
    assert list(metrics["dice"]) == pytest.approx([1.0, 2 * 6 / (6 + 8)])
    with pytest.raises(ConfigError, match="value of an organ"):
        evaluate_folders(reference, prediction, {"liver": 255}, output, ignore_value=255)


def test_ignored_voxels_are_told(folders: tuple[Path, Path, Path]) -> None:
    reference, prediction, output = folders
    labels = np.asarray(nib.load(reference / "case_b.nii.gz").dataobj).copy()
    labels[8:10, 2:8, 2:6] = 255  # what the prediction has too much
    save(reference, "case_b.nii.gz", labels)
    assert evaluate_folders(reference, prediction, LABELS, output)["dice"][2] == 1.0
    assert "Voxels of value 255 in a reference count on neither side (cases with some: 1)." in (
        (output / "comparison.md").read_text()
    )
    strict = evaluate_folders(reference, prediction, LABELS, output, ignore_value=0)
    assert strict["dice"][2] == pytest.approx(2 * 6 / (6 + 8))


def test_several_values_are_one_organ(folders: tuple[Path, Path, Path]) -> None:
    reference, prediction, output = folders
    labels = np.asarray(nib.load(reference / "case_a.nii").dataobj).copy()
    labels[4:8, 2:8, 2:6] = 3
    save(reference, "case_a.nii", labels)
    metrics = evaluate_folders(reference, prediction, {"liver": [1, 3], "spleen": 300}, output)
    assert metrics["dice"][0] == 1.0
    assert "liver = 1 + 3, spleen = 300" in (output / "comparison.md").read_text()


def test_what_no_reference_has_is_told(folders: tuple[Path, Path, Path]) -> None:
    reference, prediction, output = folders
    evaluate_folders(reference, prediction, LABELS, output)
    text = (output / "comparison.md").read_text()
    assert "In no reference, so without scores: spleen." in text
    assert "Predictions without a reference are left out: case\\_c." in text
    rows = pd.read_csv(output / "comparison.csv").set_index("organ")
    assert list(rows.index) == ["liver", "spleen", "mean"]
    assert list(rows["n_spurious"]) == [0, 1, 1]
    assert list(rows["n"]) == [2, 0, 2]
    with pytest.raises(DataError, match=r"liver = 7(.|\n)*other values alone: 1"):
        evaluate_folders(reference, prediction, {"liver": 7}, output / "none")
    assert not (output / "none").exists()


def test_a_name_that_is_no_text_is_refused(folders: tuple[Path, Path, Path]) -> None:
    reference, prediction, output = folders
    save(reference, os.fsdecode(b"caf\xe9.nii"), np.zeros((12, 10, 8)))
    with pytest.raises(DataError, match=r"udce9(.|\n)*rename the file"):
        evaluate_folders(reference, prediction, LABELS, output)
    assert not output.exists()


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
        ({"1": "liver"}, 2.0, r"found value → organ(.|\n)*write organ → value"),
        ({"liver": 1.7}, 2.0, "whole numbers"),
        ({"liver": True}, 2.0, "whole numbers"),
        ({"liver": None}, 2.0, "whole numbers"),
        ({"kidney": []}, 2.0, "one or a list"),
        ({"kidney": [2, "3"]}, 2.0, "one or a list"),
        ({"kidney": [2, 3], "spleen": 3}, 2.0, "share a value"),
        ({"mean": 1}, 2.0, "row of all organs"),
        ({" ": 1}, 2.0, "needs a name"),
        ({"liver": 0}, 2.0, "from 1 to 65535"),
        ({"liver": 1, "spleen": 1}, 2.0, "share a value"),
        (LABELS, {"liver": 1.0}, r"lacks \['spleen'\]"),
        (LABELS, -1.0, "0 mm or more"),
    ],
)
def test_label_maps_and_tolerances_are_checked(
    tmp_path: Path, labels: LabelMap, tolerance: float | dict[str, float], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate_folders(tmp_path, tmp_path, labels, tmp_path / "out", nsd_tolerance_mm=tolerance)
