"""What each method cost: time and memory as the workflow measured them, parameters and passes as stored."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from mskd.config.study import Study
from mskd.layout import Layout
from mskd.methods.registry import method_facts
from mskd.models import read_card

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


def cost_table(study: Study) -> pd.DataFrame:
    """Return one row per method, means over runs.

    `teachers_s` and `caching_s` are what the method needs beforehand: all teachers of a run (those of its parts too,
    where targets are cross-fitted), and their targets. Empty where no benchmark file of the workflow is there (a stage
    was run by hand).
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


def _files(layout: Layout, stage: str, pattern: str) -> list[Path]:
    return sorted((layout.root / "benchmarks" / stage).glob(f"{pattern}.tsv"))


def _total(layout: Layout, stage: str, pattern: str) -> float | None:
    values = [_read(path, "s") for path in _files(layout, stage, pattern)]
    found = [value for value in values if value is not None]
    return sum(found) if found else None


def _peak(layout: Layout, stage: str, pattern: str) -> float | None:
    values = [_read(path, "max_rss") for path in _files(layout, stage, pattern)]
    return max((value for value in values if value is not None), default=None)


def _read(path: Path, column: str) -> float | None:
    value = pd.to_numeric(pd.read_csv(path, sep="\t")[column], errors="coerce").iloc[-1]
    return None if pd.isna(value) else float(value)


def _mean(values: list[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return sum(found) / len(found) if found else None
