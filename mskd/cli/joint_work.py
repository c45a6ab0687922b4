"""Commands that are jobs of a study: they keep a record, and several processes may share the work.

Heavy imports come late.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mskd.errors import ConfigError
from mskd.processes import joined, start, world

if TYPE_CHECKING:
    import torch

    from mskd.config.study import Study


# What the parts of each job are; of other stages nothing is checked.
_PARTS = {
    "make_phantoms": ("dataset",),
    "prepare": ("dataset", "block"),
    "adopt_teacher": ("teacher", "run"),
    "train_teacher": ("teacher", "run"),
    "fit_projection": ("teacher", "run"),
    "cache_targets": ("teacher", "run", "dataset", "block"),
    "compare_teachers": ("run",),
    "train_student": ("method", "run"),
    "predict": ("method", "run", "dataset", "block"),
    "evaluate": ("method", "run", "dataset"),
}


def check_parts(study: Study, stage: str, parts: tuple[str, ...]) -> None:
    """Refuse names that a study does not have.

    Args:
        study: The study.
        stage: The job's rule.
        parts: The rule's wildcards.

    Raises:
        ConfigError: Names the option and what the study has.
    """
    given = dict(zip(_PARTS.get(stage, ()), parts, strict=False))
    known = {"dataset": list(study.datasets), "teacher": list(study.teachers), "method": list(study.methods)}
    known["run"] = study.teacher_runs(given["teacher"]) if given.get("teacher") in study.teachers else study.run_names
    for kind, name in given.items():
        if not name or (kind in known and name not in known[kind]):
            has = f"; the study has {', '.join(known[kind])}" if kind in known else ""
            raise ConfigError(f"--{kind}: {f'no {kind} {name!r}' if name else 'is missing'}{has}")


@contextmanager
def study_job(study_file: Path, stage: str, *parts: str) -> Iterator[Study]:
    """Run a command as a job of a study; yield the study.

    Args:
        study_file: The study.
        stage: The job's rule.
        *parts: The rule's wildcards, as in `plan.jobs.Job`.
    """
    from mskd.config.loading import load_study
    from mskd.job_record import job_record

    study = load_study(study_file)
    check_parts(study, stage, parts)
    with job_record(study.root, stage, *parts):
        yield study


@contextmanager
def network_job(
    study_file: Path, stage: str, *parts: str, device: str, processes: int = 1
) -> Iterator[tuple[Study, torch.device]]:
    """Run a command as a job in which networks compute; yield the study and the device of this process.

    Args:
        study_file: The study.
        stage: The job's rule.
        *parts: The rule's wildcards, as in `plan.jobs.Job`.
        device: As `--device` says.
        processes: As `--processes` says: so many run the block, once they have found each other.
    """
    start(processes)
    from mskd.config.loading import load_study
    from mskd.job_record import job_record

    study = load_study(study_file)
    check_parts(study, stage, parts)
    with job_record(study.root, stage, *parts) as record:
        from mskd.device import pick_device

        place = pick_device(device)
        record.gpus = world() if place.type == "cuda" else 0
        with joined(place):
            yield study, place
