"""Segmentations that exist already as teachers."""

from __future__ import annotations

import re
import tracemalloc
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
import torch

from mskd.cases import Case
from mskd.config.model import Preprocessing
from mskd.config.study import Study
from mskd.config.teachers import Teacher
from mskd.errors import ConfigError, DataError
from mskd.geometry import Geometry
from mskd.preparation import prepare_arrays
from mskd.prepared import PreparedCase, write_prepared
from mskd.teachers import labels
from mskd.teachers.labels import LabelTeacher, signed_distance_mm
from mskd.teachers.registry import case_files, load_teacher, look_at_cases

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


@pytest.mark.parametrize("values", [[0, 255], [0, 1, 3]])
def test_whatever_is_above_0_in_a_file_of_a_class_is_the_class(tmp_path: Path, values: list[int]) -> None:
    study, case, raw = made(tmp_path, {"classes": {"spleen": "spleen"}, "files": "{case}/{class}.nii.gz"})
    mask = np.zeros(SHAPE, np.uint8)
    for value, x in zip(values[1:], (slice(5, 9), slice(9, 14)), strict=False):
        mask[x, 5:14, 5:14] = value
    save(tmp_path / "scan/spleen.nii.gz", mask)
    np.testing.assert_array_equal(said(study, case, raw)[0] > 0, np.flip(mask > 0, axis=0))


def test_fractions_are_no_mask(tmp_path: Path) -> None:
    study, case, raw = made(tmp_path, {"classes": {"spleen": "spleen"}, "files": "{case}/{class}.nii.gz"})
    (tmp_path / "scan").mkdir()
    nib.save(nib.Nifti1Image(0.7 * ball(16.0).astype(np.float32), AFFINE), tmp_path / "scan/spleen.nii.gz")
    with pytest.raises(DataError, match="fractional values"):
        said(study, case, raw)


class TestClassesThatDoNotOccur:
    SECTION: ClassVar[dict[str, Any]] = {"classes": {1: "spleen", 4: "liver"}, "files": "{case}.seg.nii.gz"}

    def looked(self, folder: Path, values: list[int]) -> None:
        """Look at a case per value, whose segmentation is a ball of it."""
        study, _, raw = made(folder, self.SECTION)
        cases = [replace(raw, name=f"c{index}") for index in range(len(values))]
        for one, value in zip(cases, values, strict=True):
            save(folder / f"{one.name}.seg.nii.gz", value * ball(10.0))
        look_at_cases(study.teachers["seen"], [replace(raw, name="not there"), *cases])

    def test_a_teacher_without_any_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"none of the classes 1, 4 occurs in any of 2 cases[\s\S]*files: 7, 9"):
            self.looked(tmp_path, [7, 9])

    def test_one_without_some_is_told(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.looked(tmp_path, [7, 1])
        assert "4 of the classes occur in none of 2 cases; found: 1, 7" in "".join(capsys.readouterr())

    def test_a_rare_class_is_not_looked_for_in_every_case(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(labels, "MOST_LOOKED_AT", 2)
        self.looked(tmp_path, [7, 7, 1, 4])  # the first two hold none, and one has to be found
        assert "4 of the classes occur in none of 3 cases" in "".join(capsys.readouterr())

    def test_nothing_is_said_where_all_occur(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.looked(tmp_path, [1, 4, 7])
        assert "classes" not in "".join(capsys.readouterr())

    def test_masks_that_are_all_empty_are_refused(self, tmp_path: Path) -> None:
        study, _, raw = made(tmp_path, {"classes": {"spleen": "spleen"}, "files": "{case}/{class}.nii.gz"})
        save(tmp_path / "scan/spleen.nii.gz", np.zeros(SHAPE))
        with pytest.raises(ConfigError, match=r"spleen occurs in any of 1 cases[\s\S]*nothing but 0"):
            look_at_cases(study.teachers["seen"], [raw])

    def test_a_case_without_any_is_told(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        study, case, raw = made(tmp_path, self.SECTION)
        save(tmp_path / "scan.seg.nii.gz", 7 * ball(16.0))
        assert (said(study, case, raw) < 0).all()
        assert re.search(r"d/scan: no voxel of 1, 4; .*holds \[0, 7\]", "".join(capsys.readouterr()))


def test_the_far_corner_may_not_drift(tmp_path: Path) -> None:
    """Same shape and origin, 2.19 mm instead of 2: the last voxel would lie three voxels off."""
    study, case, raw = made(tmp_path, {"classes": {7: "spleen"}, "files": "{case}.seg.nii.gz"})
    save(tmp_path / "scan.seg.nii.gz", 7 * ball(16.0), np.diag([-2.19, 2.0, 2.0, 1.0]))
    with pytest.raises(DataError, match=r"2\.76 voxels off"):
        said(study, case, raw)
    rounded = np.diag([-2.01, 2.0, 2.0, 1.0])  # as a header with few digits: 0.15 voxels in the corner
    save(tmp_path / "scan.seg.nii.gz", 7 * ball(16.0), rounded)
    assert (said(study, case, raw) > 0).any()


@pytest.mark.parametrize("organs", [2, 20])
def test_memory_does_not_grow_with_the_organs(tmp_path: Path, organs: int) -> None:
    shape, affine = (96, 48, 32), np.diag([1.0, 1.0, 1.0, 1.0])
    geometry = Geometry.of_raw(shape, affine, (4.0, 4.0, 4.0))
    values = np.zeros(shape, np.uint8)
    for value in range(1, organs + 1):
        values[4 * value : 4 * value + 3, 20:25, 15:17] = value
    save(tmp_path / "scan.seg.nii.gz", values, affine)
    names = [f"o{value}" for value in range(1, organs + 1)]
    classes: dict[int | str, str] = dict(enumerate(names, start=1))
    teacher = LabelTeacher(
        Teacher(kind="labels", path=tmp_path, files="scan.seg.nii.gz", classes=classes), names, "digest"
    )
    raw = Case("d", "scan", "b00", tmp_path / "scan.nii.gz", (), None, "train")
    tracemalloc.start()
    margins = teacher.targets(cast(PreparedCase, SimpleNamespace(geometry=geometry)), raw).margins
    peak = tracemalloc.get_traced_memory()[1] - margins.nbytes
    tracemalloc.stop()
    assert len(margins) == organs
    assert peak < 20 * values.nbytes  # of 20 masks kept at once it would be at least 25


def closed_form(spacing_mm: Any, low: Any, high: Any, shape: Any) -> npt.NDArray[Any]:
    """The signed distance of voxel centres to a box of voxels low … high − 1, by hand."""
    axes = [np.arange(n) * s for n, s in zip(shape, spacing_mm, strict=True)]
    at = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    first, last = ((np.asarray(edge) - 0.5) * spacing_mm for edge in (low, high))
    outside = np.linalg.norm(np.maximum(np.maximum(first - at, at - last), 0), axis=-1)
    inside = np.minimum(at - first, last - at).min(axis=-1)
    return np.asarray(np.where(outside > 0, -outside, inside))


@pytest.mark.parametrize("spacing_mm", [(0.8, 0.8, 5.0), (5.0, 1.0, 0.7), (2.0, 2.0, 2.0)])
@pytest.mark.parametrize(("low", "high"), [((6, 5, 3), (16, 14, 8)), ((9, 9, 5), (10, 10, 6))])
def test_distances_to_a_box_along_thick_slices(spacing_mm: Any, low: Any, high: Any) -> None:
    shape = (22, 20, 11)
    mask = np.zeros(shape, bool)
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    expected = closed_form(np.asarray(spacing_mm), low, high, shape)
    found = signed_distance_mm(mask, np.asarray(spacing_mm), 12.0)
    off = np.abs(found - np.clip(expected, -12, 12))
    assert off.max() < 0.37 * min(spacing_mm)  # edges and corners: (√3 − 1) / 2 of a voxel at most
    places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    beside = ((places < low) | (places >= high)).sum(axis=-1) <= 1  # nearest is a face: exact
    assert off[beside].max() < 1e-4


def test_distances_of_a_slab_by_hand() -> None:
    mask = np.zeros((9, 3, 3), bool)
    mask[3:6] = True
    distance = signed_distance_mm(mask, np.array([2.0, 2.0, 2.0]), 5.0)
    np.testing.assert_allclose(distance[:, 1, 1], [-5, -3, -1, 1, 3, 1, -1, -3, -5])
    assert (signed_distance_mm(np.ones((2, 2, 2), bool), np.ones(3), 5.0) == 5).all()
    assert (signed_distance_mm(np.zeros((2, 2, 2), bool), np.ones(3), 5.0) == -5).all()
