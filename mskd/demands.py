"""What a job asks of a scheduler: memory and run time, from the configuration, sizes of files and NIfTI headers.

Bounds, not forecasts (`mskd plan` makes those): both grow with the attempt, so that a job that needs more is started
again with more. Of a scan its first bytes are looked at, since thick slices become many voxels on a fine study grid: a
tenth of a millisecond each, so that thousands of jobs are planned in seconds. Imports nothing heavy.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from functools import cache
from math import ceil, prod
from pathlib import Path

from mskd.cases import Case
from mskd.config.study import Study
from mskd.config.training import Training
from mskd.methods.registry import method_facts

BASE_MB = 1000  # Python with torch, and the two Snakemake processes that Slurm's executor nests around a job
PACKED = 3  # a gzipped CT is about a third of its voxels
VOXEL_BYTES = {
    "make_phantoms": 40,
    "check_data": 12,
    "prepare": 20,
    "cache_targets": 30,
    "predict": 30,
    "compare_teachers": 20,
    "evaluate": 14,
}
MVOXEL_S = {
    "make_phantoms": 6.0,
    "check_data": 1.0,
    "prepare": 2.0,
    "cache_targets": 20.0,
    "predict": 20.0,
    "compare_teachers": 0.5,
    "evaluate": 4.0,
}
ON_STUDY_GRID = {"prepare", "cache_targets", "predict", "compare_teachers"}  # the others work on raw grids alone
DICOM_VOXEL_MM3 = 3.2  # of series, which are not opened: 0.8 × 0.8 × 5 mm
TRAINED_MVOXELS_PER_S = 0.2  # of patches, on one CPU core; a GPU is far faster
CHANNEL_BYTES = 12  # per voxel of what a teacher says in each channel: as it says it, on the study grid, being encoded
# Per voxel and feature value of a tap: two cases in memory, each as said, projected and being encoded. Measured: 18 to
# 21 (network of 4 channels, `decoder0`, 48 million voxels).
TAP_BYTES = 24
KEPT_MAPS = 40  # float32 maps of the finest level that a training step on a CPU keeps
LEAST_MIN = 10


@cache
def _header(image: Path) -> tuple[float, float] | None:
    """Return a NIfTI file's million voxels and the volume of one in mm³; None if its header does not tell."""
    try:
        with gzip.open(image) if image.suffix == ".gz" else image.open("rb") as stream:
            head = stream.read(168)
        for order in "<>":
            kind = struct.unpack(f"{order}i", head[:4])[0]
            if kind == 348:
                shape, steps = struct.unpack_from(f"{order}8h", head, 40), struct.unpack_from(f"{order}8f", head, 76)
            elif kind == 540:
                shape, steps = struct.unpack_from(f"{order}8q", head, 16), struct.unpack_from(f"{order}8d", head, 104)
            else:
                continue
            mvoxels, voxel_mm3 = prod(shape[1:4]) / 1e6, abs(prod(steps[1:4]))
            return (mvoxels, voxel_mm3) if min(shape[1:4]) > 0 and 0 < voxel_mm3 < 1e6 else None
    except (OSError, EOFError, zlib.error, struct.error):
        return None  # the job itself says what is wrong with the file
    return None


def raw_mvoxels(study: Study, case: Case) -> float:
    """Return about how many million voxels a raw scan has, from its header, or the size of its file."""
    phantom = study.datasets[case.dataset].phantom
    if phantom is not None:
        return prod(phantom.scanner.shape) / 1e6
    if not case.image.is_dir() and (known := _header(case.image)):
        return known[0]
    try:
        if case.image.is_dir():
            size = sum(file.stat().st_size for file in case.image.iterdir())
        else:
            size = case.image.stat().st_size
    except OSError:  # the job itself says what is wrong with the file
        return 0.0
    return size * (PACKED if case.image.suffix == ".gz" else 1) / 2 / 1e6


def grid_mvoxels(study: Study, case: Case) -> float:
    """Return about how many million voxels a scan has on the study grid, before it is cropped."""
    phantom = study.datasets[case.dataset].phantom
    if phantom is not None:
        voxel_mm3 = prod(phantom.scanner.spacing_mm)
    elif case.image.is_dir():
        voxel_mm3 = DICOM_VOXEL_MM3
    elif known := _header(case.image):
        voxel_mm3 = known[1]
    else:
        return raw_mvoxels(study, case)
    return raw_mvoxels(study, case) * voxel_mm3 / prod(study.preprocessing.spacing_mm)


def worked_mvoxels(stage: str, study: Study, case: Case) -> float:
    """Return the million voxels of the larger grid that a stage has a scan on."""
    raw = raw_mvoxels(study, case)
    return max(raw, grid_mvoxels(study, case)) if stage in ON_STUDY_GRID else raw


def volumes_mb(stage: str, study: Study, cases: list[Case], attempt: int) -> int:
    """Return the memory of a job that goes through volumes one by one, in MB."""
    largest = max((worked_mvoxels(stage, study, case) for case in cases), default=0.0)
    return ceil((BASE_MB + VOXEL_BYTES[stage] * largest) * attempt)


def checking_mb(study: Study, cases: list[Case], processes: int, attempt: int) -> int:
    """Return the memory of checking cases in several processes, in MB."""
    return processes * volumes_mb("check_data", study, cases, attempt)


def volumes_min(stage: str, study: Study, cases: list[Case], attempt: int) -> int:
    """Return the run time of a job that goes through volumes one by one, in minutes."""
    total = sum(worked_mvoxels(stage, study, case) for case in cases)
    return _minutes(study, MVOXEL_S[stage] * total, attempt)


def inference_mb(stage: str, study: Study, cases: list[Case], attempt: int) -> int:
    """Return the memory of a job that runs networks over volumes, one process per GPU, in MB."""
    return study.inference.gpus * volumes_mb(stage, study, cases, attempt)


def asking_mb(study: Study, teacher: str, cases: list[Case], attempt: int) -> int:
    """Return the memory of a job that asks a teacher about volumes, one process per GPU, in MB."""
    section, network = study.teachers[teacher], study.network
    channels = 1 + max(len(section.classes), len(study.teacher_organs(teacher)))
    said = float(CHANNEL_BYTES * max(0, channels - 2))
    for level in () if section.given else map(network.tap_level, study.cache.taps):
        said += TAP_BYTES * network.features[level] / prod(network.level_strides[level])
    largest = max((worked_mvoxels("cache_targets", study, case) for case in cases), default=0.0)
    one = volumes_mb("cache_targets", study, cases, 1)  # of a network that knows one organ, its scores alone
    return study.inference.gpus * ceil((one + said * largest) * attempt)


def comparing_mb(study: Study, cases: list[Case], attempt: int) -> int:
    """Return the memory of comparing what all teachers say of volumes, in MB: a mask for each organ of each of them."""
    masks = sum(len(study.teacher_organs(teacher)) for teacher in study.teachers)
    largest = max((worked_mvoxels("compare_teachers", study, case) for case in cases), default=0.0)
    return ceil((volumes_mb("compare_teachers", study, cases, 1) + masks * largest) * attempt)


def adopting_mb(files: list[Path], attempt: int) -> int:
    """Return the memory of loading a teacher that exists already, in MB."""
    size = sum(path.stat().st_size for path in files if path.is_file())
    return ceil((2 * BASE_MB + 4e-6 * size) * attempt)


def inference_cores(study: Study) -> int:
    """Return the cores of a job that runs networks over volumes."""
    return study.inference.gpus * study.inference.threads


def training_mb(study: Study, training: Training, attempt: int) -> int:
    """Return the memory of a training in MB: the volumes that it keeps, and a step on a CPU."""
    kept = 1024 * training.ram_cache_gib * max(1, training.workers)
    step = 4e-6 * prod(training.patch_size) * training.batch_size * study.network.features[0] * KEPT_MAPS
    return ceil((training.gpus * (BASE_MB + kept) + step) * attempt)


def training_cores(training: Training) -> int:
    """Return the cores of a training: per GPU its threads, and one for each process that reads patches."""
    return training.gpus * (training.threads + training.workers)


def student_gpus(study: Study, method: str) -> int:
    """Return the GPUs of making a method's network: one where it is only put together from teachers."""
    trains = method_facts(study.method_kind(method)).trains
    return study.method_training(method).gpus if trains else 1


def training_min(study: Study, training: Training, attempt: int) -> int:
    """Return the run time of a training in minutes; one that is stopped goes on where it was."""
    mvoxels = training.steps * training.batch_size * prod(training.patch_size) / 1e6
    return _minutes(study, mvoxels / TRAINED_MVOXELS_PER_S, attempt)


def _minutes(study: Study, seconds: float, attempt: int) -> int:
    return min(study.longest_job_min, attempt * (LEAST_MIN + ceil(seconds / 60)))
