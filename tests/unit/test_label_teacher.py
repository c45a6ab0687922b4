"""Segmentations that exist already as teachers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
import torch

from mskd.cases import Case
from mskd.config.model import Preprocessing
from mskd.config.study import Study
from mskd.errors import DataError
from mskd.preparation import prepare_arrays
from mskd.prepared import PreparedCase, write_prepared
from mskd.teachers.labels import signed_distance_mm
from mskd.teachers.registry import case_files, load_teacher

SHAPE = (30, 28, 26)
AFFINE = np.diag([-2.0, 2.0, 2.0, 1.0])  # stored from right to left
CPU = torch.device("cpu")


def ball(radius_mm: float, centre: tuple[float, ...] = (30.0, 28.0, 26.0)) -> npt.NDArray[np.bool_]:
    at = np.stack(np.meshgrid(*(2.0 * np.arange(n) for n in SHAPE), indexing="ij"), axis=-1)
    return np.asarray(np.linalg.norm(at - np.asarray(centre), axis=-1) <= radius_mm)


def made(folder: Path, section: dict[str, Any]) -> tuple[Study, PreparedCase, Case]:
    study = Study.model_validate(
        {
            "results": folder,
            "organs": ["liver", "spleen"],
            "datasets": {"d": {"path": str(folder), "label_map": {1: "liver"}}},
            "teachers": {"d": {}, "seen": {"kind": "labels", "path": str(folder), **section}},
            "preprocessing": {"spacing_mm": [2, 2, 2], "crop_to_body": False},
            "methods": {"mskd": {}},
        }
    )
    image = folder / "scan.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, np.int16), AFFINE), image)
    preprocessing = Preprocessing(spacing_mm=(2, 2, 2), crop_to_body=False)
    arrays = prepare_arrays(np.zeros(SHAPE, np.int16), AFFINE, None, None, preprocessing)
    write_prepared(folder / "case.zarr", arrays, key="k", attributes={"case": "d/scan"})
    raw = Case("d", "scan", "b00", image, (), None, "train")
    return study, PreparedCase(folder / "case.zarr", "d/scan"), raw


def said(study: Study, case: PreparedCase, raw: Case) -> npt.NDArray[Any]:
    return np.asarray(load_teacher(study, "seen", "given", CPU).targets(case, raw).margins)


def save(path: Path, values: npt.NDArray[Any], affine: npt.NDArray[Any] = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values.astype(np.uint8), affine), path)


def test_the_margin_of_a_ball_is_its_distance(tmp_path: Path) -> None:
    section = {"classes": {7: "spleen", 9: "liver"}, "files": "{case}.seg.nii.gz", "width_mm": 4.0}
    study, case, raw = made(tmp_path, section)
    save(tmp_path / "scan.seg.nii.gz", 7 * ball(16.0))
    margins = said(study, case, raw)
    organs = load_teacher(study, "seen", "given", CPU).organs
    assert organs == ["liver", "spleen"]
    assert (margins[0] == -10).all()  # no liver anywhere: as far as it goes
    at = np.stack(np.meshgrid(*(2.0 * np.arange(n) for n in SHAPE), indexing="ij"), axis=-1)
    distance_mm = 16.0 - np.linalg.norm(at - (30.0, 28.0, 26.0), axis=-1)
    expected = np.flip(np.clip(distance_mm / 4.0, -10, 10), axis=0)  # RAS
    assert np.abs(margins[1] - expected).max() < 2.5 / 4  # the surface of voxels is not that of a ball
    assert np.abs((margins[1] - expected).mean()) < 0.1
    np.testing.assert_array_equal(margins[1] > 0, np.flip(ball(16.0), axis=0))


def test_a_file_per_class_and_two_classes_of_an_organ(tmp_path: Path) -> None:
    section = {
        "classes": {"spleen": "spleen", "liver_left": "liver", "liver_right": "liver"},
        "files": "{dataset}/{case}/{class}.nii.gz",
    }
    study, case, raw = made(tmp_path, section)
    left, right = ball(8.0, (14.0, 20.0, 20.0)), ball(8.0, (40.0, 30.0, 30.0))
    for name, mask in (("spleen", ball(5.0)), ("liver_left", left), ("liver_right", right)):
        save(tmp_path / f"d/scan/{name}.nii.gz", mask)
    margins = said(study, case, raw)
    np.testing.assert_array_equal(margins[0] > 0, np.flip(left | right, axis=0))
    np.testing.assert_array_equal(margins[1] > 0, np.flip(ball(5.0), axis=0))
    assert [path.name for path in case_files(study.teachers["seen"], [raw])] == [
        "spleen.nii.gz",
        "liver_left.nii.gz",
        "liver_right.nii.gz",
    ]


def test_a_missing_file_names_the_case_and_the_way_out(tmp_path: Path) -> None:
    study, case, raw = made(tmp_path, {"classes": {7: "spleen"}, "files": "{case}.seg.nii.gz"})
    with pytest.raises(DataError, match=r"d/scan[\s\S]*scan\.seg\.nii\.gz[\s\S]*correct `files`"):
        said(study, case, raw)


def test_a_segmentation_of_another_grid_is_refused(tmp_path: Path) -> None:
    study, case, raw = made(tmp_path, {"classes": {7: "spleen"}, "files": "{case}.seg.nii.gz"})
    save(tmp_path / "scan.seg.nii.gz", 7 * ball(16.0), np.diag([2.0, 2.0, 2.0, 1.0]))
    with pytest.raises(DataError, match=r"scan\.seg\.nii\.gz"):
        said(study, case, raw)


def test_distances_of_a_slab_by_hand() -> None:
    mask = np.zeros((9, 3, 3), bool)
    mask[3:6] = True
    distance = signed_distance_mm(mask, np.array([2.0, 2.0, 2.0]), 5.0)
    np.testing.assert_allclose(distance[:, 1, 1], [-5, -3, -1, 1, 3, 1, -1, -3, -5])
    assert (signed_distance_mm(np.ones((2, 2, 2), bool), np.ones(3), 5.0) == 5).all()
    assert (signed_distance_mm(np.zeros((2, 2, 2), bool), np.ones(3), 5.0) == -5).all()
