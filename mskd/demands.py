"""What a job asks of a scheduler: memory and run time, from the configuration and the sizes of files alone.

Bounds, not forecasts (`mskd plan` makes those): both grow with the attempt, so that a job that needs more is started
again with more. Nothing is opened, so that thousands of jobs are planned in seconds. Imports nothing heavy.
"""

from __future__ import annotations

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
TRAINED_MVOXELS_PER_S = 0.2  # of patches, on one CPU core; a GPU is far faster
CHANNEL_BYTES = 12  # per voxel of what a teacher says in each channel: as it says it, on the study grid, being encoded
KEPT_MAPS = 40  # float32 maps of the finest level that a training step on a CPU keeps
LEAST_MIN = 10


def raw_mvoxels(study: Study, case: Case) -> float:
    """Return about how many million voxels a raw scan has, from the size of its file."""
    phantom = study.datasets[case.dataset].phantom
    if phantom is not None:
        return prod(phantom.scanner.shape) / 1e6
    try:
        if case.image.is_dir():
            size = sum(file.stat().st_size for file in case.image.iterdir())
        else:
            size = case.image.stat().st_size
    except OSError:  # the job itself says what is wrong with the file
        return 0.0
    return size * (PACKED if case.image.suffix == ".gz" else 1) / 2 / 1e6


def volumes_mb(stage: str, study: Study, cases: list[Case], attempt: int) -> int:
    """Return the memory of a job that goes through volumes one by one, in MB."""
    largest = max((raw_mvoxels(study, case) for case in cases), default=0.0)
    return ceil((BASE_MB + VOXEL_BYTES[stage] * largest) * attempt)


def checking_mb(study: Study, cases: list[Case], processes: int, attempt: int) -> int:
    """Return the memory of checking cases in several processes, in MB."""
    return processes * volumes_mb("check_data", study, cases, attempt)


def volumes_min(stage: str, study: Study, cases: list[Case], attempt: int) -> int:
    """Return the run time of a job that goes through volumes one by one, in minutes."""
    total = sum(raw_mvoxels(study, case) for case in cases)
    return _minutes(study, MVOXEL_S[stage] * total, attempt)


def inference_mb(stage: str, study: Study, cases: list[Case], attempt: int) -> int:
    """Return the memory of a job that runs networks over volumes, one process per GPU, in MB."""
    return study.inference.gpus * volumes_mb(stage, study, cases, attempt)


def asking_mb(study: Study, teacher: str, cases: list[Case], attempt: int) -> int:
    """Return the memory of a job that asks a teacher about volumes, one process per GPU, in MB."""
    section = study.teachers[teacher]
    channels = 1 + max(len(section.classes), len(study.teacher_organs(teacher)))
    said = CHANNEL_BYTES * max(0, channels - 2) * max((raw_mvoxels(study, case) for case in cases), default=0.0)
    one = volumes_mb("cache_targets", study, cases, 1)  # of a network that knows one organ
    return study.inference.gpus * ceil((one + said) * attempt)


def comparing_mb(study: Study, cases: list[Case], attempt: int) -> int:
    """Return the memory of comparing what all teachers say of volumes, in MB: a mask for each organ of each of them."""
    masks = sum(len(study.teacher_organs(teacher)) for teacher in study.teachers)
    largest = max((raw_mvoxels(study, case) for case in cases), default=0.0)
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
