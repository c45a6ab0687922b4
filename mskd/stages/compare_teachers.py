"""Stage: what the teachers of a run say beside each other: conflicts per organ, and Dice on labelled cases."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mskd.cache.store import LOGITS, TargetStore
from mskd.cases import Case
from mskd.config.study import Study
from mskd.console import log, progress
from mskd.layout import Layout, target_place
from mskd.leaves import IGNORE_VALUE, compare_leaves, stage_code
from mskd.manifest import Manifest, read_manifest
from mskd.prepared import PreparedCase
from mskd.provenance import content_key
from mskd.stages.inputs import OF_TEACHER, cached_contents, cases_of, prepared_cases, training_datasets

STAGE = "compare_teachers"
ORGANS = "organs/"


def compare_teachers(study: Study, run: str) -> None:
    """Write, per organ, how much the teachers claim and contradict; per teacher and organ, Dice on labelled cases."""
    layout = Layout(study.root)
    wanted = cases_of(study, training_datasets(study), run, study.cache.splits)
    cases, prepared = prepared_cases(study, wanted)
    contents = {
        teacher: cached_contents(study, teacher, run, [c for c in cases if study.teacher_covers(teacher, c.dataset)])
        for teacher in study.teachers
    }
    labels = {case.id: prepared.entries[case.id]["labels"] for case in cases}
    key = content_key(leaves=compare_leaves(study), code=stage_code(STAGE), contents=contents, labels=labels)
    path = layout.manifest(STAGE, run)
    if path.is_file() and all(entry["key"] == key for entry in read_manifest(path).entries.values()):
        log(f"teachers of {run} are compared already")
        return
    volume_ml = float(np.prod(study.preprocessing.spacing_mm)) / 1000
    organs = {organ: {"claimed_ml": 0.0, "conflict_ml": 0.0, "disagreed_ml": 0.0} for organ in study.organs}
    scores: dict[tuple[str, str], list[float]] = {}
    with progress(f"compare teachers {run}", len(cases)) as advance:
        for case in cases:
            said = _said(study, run, case, contents)
            _count(study, said, organs, volume_ml)
            _score(study, case, said, scores)
            advance(1, case.name)
    entries: dict[str, dict[str, Any]] = {
        ORGANS + organ: {"key": key, **{name: round(value, 3) for name, value in of.items()}}
        for organ, of in organs.items()
    }
    for (teacher, organ), found in sorted(scores.items()):
        dice = round(float(np.mean(found)), 4)
        entries[f"{OF_TEACHER}{teacher}/{organ}"] = {"key": key, "validation_dice": dice, "cases": len(found)}
    Manifest(STAGE, entries, prepared.skipped).write(path)


def comparison_tables(study: Study) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return what the report shows: conflicts per run and organ, and the teachers with their validation Dice."""
    layout = Layout(study.root)
    conflicts, teachers = [], []
    for run in study.run_names:
        path = layout.manifest(STAGE, run)
        if not path.is_file():
            continue
        entries = read_manifest(path).entries
        for organ in study.organs:
            found = entries[ORGANS + organ]
            claimed = found["claimed_ml"]
            share = 100 * found["conflict_ml"] / claimed if claimed else 0.0
            conflicts.append(
                {
                    "run": run,
                    "organ": organ,
                    "claimed (ml)": round(claimed, 1),
                    "claimed by another organ too (ml)": round(found["conflict_ml"], 1),
                    "share (%)": round(share, 2),
                    "teachers disagree (ml)": round(found["disagreed_ml"], 1),
                }
            )
        for teacher, section in study.teachers.items():
            for organ in study.teacher_organs(teacher):
                scored = entries.get(f"{OF_TEACHER}{teacher}/{organ}", {})
                teachers.append(
                    {
                        "run": study.teacher_run(teacher, run),
                        "teacher": teacher,
                        "kind": section.kind,
                        "organ": organ,
                        "features": "no" if section.given else ", ".join(study.cache.taps) or "no",
                        "validation Dice (%)": round(100 * scored["validation_dice"], 1) if scored else "not known",
                        "cases": scored.get("cases", 0),
                    }
                )
    shown = pd.DataFrame(teachers)
    return pd.DataFrame(conflicts), shown.drop_duplicates() if len(shown) else shown


def _said(
    study: Study, run: str, case: Case, contents: dict[str, dict[str, str]]
) -> dict[str, list[tuple[str, npt.NDArray[np.bool_]]]]:
    """Return per organ what each of its teachers takes for it, (X, Y, Z); features and margins are not kept."""
    said: dict[str, list[tuple[str, npt.NDArray[np.bool_]]]] = {}
    for teacher, of_cases in contents.items():
        if case.id not in of_cases:
            continue
        where = study.teacher_run(teacher, run)
        place = target_place(study.cache_root, teacher, where, case.dataset, case.block, case.name)
        margins = TargetStore(place, case.id, of_cases[case.id]).read(LOGITS)
        for organ, margin in zip(study.teacher_organs(teacher), margins, strict=True):
            said.setdefault(organ, []).append((teacher, margin > 0))
    return said


def _count(
    study: Study,
    said: dict[str, list[tuple[str, npt.NDArray[np.bool_]]]],
    organs: dict[str, dict[str, float]],
    volume_ml: float,
) -> None:
    claims = {organ: np.logical_or.reduce([mask for _, mask in voices]) for organ, voices in said.items()}
    if not claims:
        return
    crowd = np.sum([claim.view(np.uint8) for claim in claims.values()], axis=0, dtype=np.uint8)
    for organ in study.organs:
        if organ not in claims:
            continue
        everybody = np.logical_and.reduce([mask for _, mask in said[organ]])
        claim = claims[organ]
        organs[organ]["claimed_ml"] += float(claim.sum()) * volume_ml
        organs[organ]["conflict_ml"] += float((claim & (crowd > 1)).sum()) * volume_ml
        organs[organ]["disagreed_ml"] += float((claim & ~everybody).sum()) * volume_ml


def _score(
    study: Study,
    case: Case,
    said: dict[str, list[tuple[str, npt.NDArray[np.bool_]]]],
    scores: dict[tuple[str, str], list[float]],
) -> None:
    """Add each teacher's Dice on a validation case; cases that networks learned from would flatter them."""
    labelled = [organ for organ in study.datasets[case.dataset].labelled_organs if organ in said]
    if case.split != "val" or not labelled:
        return
    prepared = PreparedCase(Layout(study.root).prepared(case.dataset, case.block, case.name), case.id)
    labels = prepared.read("labels")
    for organ in labelled:
        for teacher, mask in said[organ]:
            dice = reference_dice(labels, study.label_values[organ], mask)
            scores.setdefault((teacher, organ), []).append(dice)


def reference_dice(labels: npt.NDArray[np.uint8], value: int, mask: npt.NDArray[np.bool_]) -> float:
    """Return the Dice of an organ in the reference and a mask, where the reference says anything; 1 if both are empty.

    Args:
        labels: Study values, 255 = judged by nobody, (X, Y, Z).
        value: The organ's value.
        mask: What a teacher takes for it.
    """
    truth, claimed = labels == value, mask & (labels != IGNORE_VALUE)
    together = int(truth.sum()) + int(claimed.sum())
    return 2 * int((truth & claimed).sum()) / together if together else 1.0
