"""What jobs ask a scheduler for: from sizes of files and the configuration alone, more with each attempt."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from mskd import demands
from mskd.cases import Case
from mskd.config.study import Study
from mskd.config.training import Training


def study_of(folder: Path, **changes: Any) -> Study:
    return Study.model_validate(
        {
            "results": folder,
            "organs": ["liver"],
            "datasets": {"d": {"path": str(folder), "label_map": {1: "liver"}}},
            "methods": {"mskd": {}},
            **changes,
        }
    )


def case_of(folder: Path, name: str, size: int) -> Case:
    path = folder / name
    with path.open("wb") as stream:
        stream.truncate(size)  # sizes alone are looked at
    return Case("d", name, "b00", path, (), None, "train")


@pytest.mark.parametrize("stage", sorted(demands.VOXEL_BYTES))
def test_memory_follows_the_largest_scan_and_the_attempt(tmp_path: Path, stage: str) -> None:
    study = study_of(tmp_path)
    small, large = case_of(tmp_path, "a.nii", 2_000_000), case_of(tmp_path, "b.nii", 200_000_000)  # 1 and 100 Mvoxels
    asked = demands.volumes_mb(stage, study, [small, large], 1)
    assert asked == demands.BASE_MB + 100 * demands.VOXEL_BYTES[stage]
    assert demands.volumes_mb(stage, study, [small, large], 3) == 3 * asked
    assert demands.volumes_mb(stage, study, [small], 1) < asked


def test_a_packed_scan_counts_for_what_it_holds(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    plain, packed = case_of(tmp_path, "a.nii", 30_000_000), case_of(tmp_path, "b.nii.gz", 10_000_000)
    assert demands.raw_mvoxels(study, plain) == demands.raw_mvoxels(study, packed) == 15
    missing = Case("d", "c", "b00", tmp_path / "c.nii.gz", (), None, "train")
    assert demands.raw_mvoxels(study, missing) == 0  # the job itself says what is wrong


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("order", "<>")
def test_thick_slices_count_for_what_they_become(tmp_path: Path, kind: Any, suffix: str, order: str) -> None:
    header = kind.header_class(endianness=order)
    image = kind(np.zeros((40, 50, 20), np.int16), np.diag([-0.8, 0.8, 5.0, 1.0]), header)
    nib.save(image, tmp_path / f"a{suffix}")
    study = study_of(tmp_path, preprocessing={"spacing_mm": [0.8, 0.8, 1.0]})
    case = Case("d", "a", "b00", tmp_path / f"a{suffix}", (), None, "train")
    assert demands.raw_mvoxels(study, case) == pytest.approx(0.04)
    assert demands.grid_mvoxels(study, case) == pytest.approx(0.2)
    assert demands.worked_mvoxels("cache_targets", study, case) == pytest.approx(0.2)
    assert demands.worked_mvoxels("evaluate", study, case) == pytest.approx(0.04)
    coarse = study_of(tmp_path, preprocessing={"spacing_mm": [8.0, 8.0, 8.0]})
    assert demands.worked_mvoxels("prepare", coarse, case) == pytest.approx(0.04)


def test_a_header_that_tells_nothing_is_no_error(tmp_path: Path) -> None:
    study, empty = study_of(tmp_path), struct.pack("<i", 348) + bytes(400)
    for name, content in (("a.nii", b"abc"), ("b.nii.gz", b"\x1f\x8b" + 40 * b"x"), ("c.nii", empty)):
        (tmp_path / name).write_bytes(content)
        case = Case("d", name, "b00", tmp_path / name, (), None, "train")
        assert demands.grid_mvoxels(study, case) == demands.raw_mvoxels(study, case) < 0.001


def test_memory_of_asking_follows_what_a_teacher_knows(tmp_path: Path) -> None:
    organs = [f"o{number}" for number in range(20)]
    seen = {"kind": "labels", "path": "/seen", "classes": dict(enumerate(organs, start=1))}
    one = {"kind": "labels", "path": "/one", "classes": {1: "o0", 2: "o0", 3: "o0"}}
    labelled = {"d": {"path": str(tmp_path), "label_map": {1: "o0"}}}
    study = study_of(tmp_path, organs=organs, datasets=labelled, teachers={"d": {}, "seen": seen, "one": one})
    cases = [case_of(tmp_path, "a.nii", 2_000_000), case_of(tmp_path, "b.nii", 200_000_000)]  # 1 and 100 Mvoxels
    alone = demands.volumes_mb("cache_targets", study, cases, 1)
    # decoder2 has 128 channels at stride 4: two values per voxel
    assert demands.asking_mb(study, "d", cases, 1) == alone + 2 * 100 * demands.TAP_BYTES
    assert demands.asking_mb(study, "seen", cases, 1) == alone + 19 * 100 * demands.CHANNEL_BYTES
    assert demands.asking_mb(study, "one", cases, 1) == alone + 2 * 100 * demands.CHANNEL_BYTES
    assert demands.asking_mb(study, "d", cases, 2) == 2 * demands.asking_mb(study, "d", cases, 1)
    masks = demands.comparing_mb(study, cases, 1) - demands.volumes_mb("compare_teachers", study, cases, 1)
    assert masks == 22 * 100  # a byte per voxel for each organ of each teacher


def test_run_time_grows_with_the_attempt_up_to_the_longest(tmp_path: Path) -> None:
    cases = [case_of(tmp_path, f"{n}.nii", 120_000_000) for n in range(2)]  # 120 Mvoxels
    study = study_of(tmp_path)
    assert demands.volumes_min("prepare", study, cases, 1) == 10 + 4
    assert demands.volumes_min("prepare", study, cases, 2) == 28
    short = study_of(tmp_path, longest_job_min=20)
    assert [demands.volumes_min("prepare", short, cases, attempt) for attempt in (1, 2, 3)] == [14, 20, 20]


def test_a_training_asks_by_its_steps_and_for_each_gpu(tmp_path: Path) -> None:
    study = study_of(tmp_path, longest_job_min=100_000)
    one = Training(steps=1000, batch_size=2, patch_size=(100, 100, 100))
    assert demands.training_min(study, one, 1) == 10 + 167  # 2000 Mvoxels at 0.2 per second
    assert demands.training_min(study, one.model_copy(update={"steps": 2000}), 1) == 10 + 334
    two = one.model_copy(update={"gpus": 2, "workers": 3, "threads": 2})
    assert demands.training_cores(two) == 10
    assert demands.training_mb(study, two, 1) > demands.training_mb(study, one, 1)
