"""What each method and each stage cost: time and memory as measured, parameters and passes as stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from mskd.config.study import Study
from mskd.job_record import Attempt, all_attempts, read_attempts
from mskd.layout import Layout
from mskd.methods.registry import method_facts
from mskd.models import read_card
from mskd.plan.jobs import STAGES

COLUMNS = [
    "method",
    "training_s",
    "teachers_s",
    "caching_s",
    "training_memory_mib",
    "predict_s_per_scan",
    "predict_memory_mib",
    "parameters",
    "forward_passes",
]
STAGE_COLUMNS = [
    "stage",
    "jobs_done",
    "attempts",
    "hours",
    "longest_attempt_s",
    "memory_mib",
    "gpu_hours",
    "gpu_memory_mib",
]
STAGE_NOTE = (
    "What the jobs of each stage took, by the records that they keep in jobs/; those of rows that the study no longer "
    "has count too. hours: all attempts; one that was killed counts up to its last sign of life, and only once its job "
    "has begun again. memory_mib: the largest process of a job, on its first node. gpu_hours: time × GPUs where the "
    "device was CUDA; gpu_memory_mib: what PyTorch held in the first process. Snakemake's own figures, of the last "
    "attempt of each job, lie in benchmarks/."
)


def cost_table(study: Study) -> pd.DataFrame:
    """Return one row per method, means over runs.

    `teachers_s` and `caching_s` are what the method needs beforehand: all teachers of a run (those of its parts too,
    where targets are cross-fitted), and their targets. All by the records that jobs keep of themselves: a training that
    was interrupted counts with all its attempts, a job that found its result standing not at all. Empty where there is
    no record.
    """
    layout = Layout(study.root)
    runs = study.run_names
    teachers_s = _mean([_total(layout, "train_teacher", f"*/{run}") for run in runs])
    cached_s = _mean([_total(layout, "cache_targets", f"*/{run}/*/*") for run in runs])
    fitted_s = _mean([_total(layout, "fit_projection", f"*/{run}") for run in runs])
    caching_s = None if cached_s is None else cached_s + (fitted_s or 0.0)
    parts_s = _mean([_total(layout, "train_teacher", f"*/{run}-part*") for run in runs]) or 0.0
    asked_s = _mean([_total(layout, "cache_targets", f"*/{run}-part*/*/*") for run in runs]) or 0.0
    rows = []
    for method in study.methods:
        facts = method_facts(study.method_kind(method))
        card = read_card(layout.student(method, runs[0]))
        scans = len(list((study.root / "predictions" / method).rglob("*.nii.gz")))
        predict_s = _total(layout, "predict", f"{method}/*/*/*")
        beforehand = {"teachers_s": teachers_s if {"teachers", "targets"} & facts.needs else 0.0}
        beforehand["caching_s"] = caching_s if "targets" in facts.needs else 0.0
        if study.method_cross_fits(method):
            extra = {"teachers_s": parts_s, "caching_s": asked_s}
            beforehand = {name: None if s is None else s + extra[name] for name, s in beforehand.items()}
        rows.append(
            {
                "method": method,
                "training_s": _mean([_total(layout, "train_student", f"{method}/{run}") for run in runs]),
                **beforehand,
                "training_memory_mib": _peak(layout, "train_student", f"{method}/*"),
                "predict_s_per_scan": predict_s / scans if predict_s is not None and scans else None,
                "predict_memory_mib": _peak(layout, "predict", f"{method}/*/*/*"),
                "parameters": int(card["parameters"]),
                "forward_passes": len(card["network"].get("members", {"": None})),
            }
        )
    return pd.DataFrame(rows, columns=COLUMNS).round(1)


def stage_table(study: Study) -> pd.DataFrame:
    """Return one row per stage of which jobs kept a record; `STAGE_NOTE` says what the columns mean."""
    by_stage: dict[str, list[list[Attempt]]] = {}
    for stage, attempts in all_attempts(study.root):
        by_stage.setdefault(stage, []).append(attempts)
    rows = [_stage_row(stage, by_stage[stage]) for stage in STAGES if stage in by_stage]
    return pd.DataFrame(rows, columns=STAGE_COLUMNS).astype({"memory_mib": float, "gpu_memory_mib": float})


def _stage_row(stage: str, jobs: Sequence[Sequence[Attempt]]) -> Mapping[str, object]:
    attempts = [attempt for job in jobs for attempt in job]
    return {
        "stage": stage,
        "jobs_done": sum(any(attempt.outcome == "done" for attempt in job) for job in jobs),
        "attempts": len(attempts),
        "hours": round(sum(attempt.seconds for attempt in attempts) / 3600, 3),
        "longest_attempt_s": round(max(attempt.seconds for attempt in attempts), 1),
        "memory_mib": max((one.memory_mib for one in attempts if one.memory_mib is not None), default=None),
        "gpu_hours": round(sum(attempt.seconds * attempt.gpus for attempt in attempts) / 3600, 3),
        "gpu_memory_mib": max((one.gpu_memory_mib for one in attempts if one.gpu_memory_mib is not None), default=None),
    }


@dataclass(frozen=True)
class _Cost:
    """What a job's result took: seconds, of all that is done, and the peak of its memory."""

    seconds: float
    memory_mib: float | None


def _cost(stage: str, attempts: Sequence[Attempt]) -> _Cost | None:
    """Return what the result that stands took; None if no attempt at it ended.

    A training counts from the attempt that began with its first step. Of another job the attempts count since it was
    done before; where some cases stood, the others are taken as their like. Attempts that made nothing do not count.
    """
    made = [attempt for attempt in attempts if attempt.made]
    if not made:  # a job of one piece, which tells of no progress
        whole = [attempt for attempt in attempts if attempt.outcome == "done"][-1:]
        return _Cost(whole[0].seconds, whole[0].memory_mib) if whole else None
    training = stage in ("train_teacher", "train_student")
    first = len(made) - 1
    while first > 0 and (made[first].stood if training else made[first - 1].outcome != "done"):
        first -= 1
    counted = made[first:]
    seconds = sum(attempt.seconds for attempt in counted)
    if not training:
        seconds *= (counted[-1].total or 0) / sum(attempt.made for attempt in counted)
    return _Cost(seconds, max((one.memory_mib for one in counted if one.memory_mib is not None), default=None))


def _costs(layout: Layout, stage: str, pattern: str) -> list[_Cost]:
    files = sorted((layout.root / "jobs" / stage).glob(f"{pattern}.jsonl"))
    found = [_cost(stage, read_attempts(path.with_suffix(".json"))) for path in files]
    return [cost for cost in found if cost is not None]


def _total(layout: Layout, stage: str, pattern: str) -> float | None:
    costs = _costs(layout, stage, pattern)
    return sum(cost.seconds for cost in costs) if costs else None


def _peak(layout: Layout, stage: str, pattern: str) -> float | None:
    return max((c.memory_mib for c in _costs(layout, stage, pattern) if c.memory_mib is not None), default=None)


def _mean(values: list[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return sum(found) / len(found) if found else None
