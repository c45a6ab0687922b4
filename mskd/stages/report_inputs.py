"""What the report shows of a study: curves, cases to look at, tables; gathered from the stages before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mskd.cases import Case, list_cases
from mskd.config.loading import dump_study
from mskd.config.study import Study
from mskd.cost import STAGE_NOTE
from mskd.evaluation.tables import dataset_titles
from mskd.geometry import Geometry
from mskd.layout import Layout
from mskd.leaves import evaluate_leaves
from mskd.methods.registry import method_facts
from mskd.provenance import made_by
from mskd.reference import read_reference
from mskd.report.inputs import ExtraTable, ReportInputs, TrainingCurve, WorstCase
from mskd.report.overlay import overlay_figure
from mskd.report.page import primary_dataset
from mskd.report.viewer import ViewerCase, thinned, thinning, write_viewer
from mskd.report.worst import WorstScore, spread_of_cases, worst_scores
from mskd.scans import read_labels, read_scan
from mskd.stages.audit import audit_table
from mskd.stages.compare_teachers import comparison_tables
from mskd.stages.inspect_cache import all_runs, cache_info
from mskd.training.journal import METRICS

SHOWN_WORST = 4
AUDITED = 20  # rows of the audit


@dataclass(frozen=True)
class Tables:
    """The tables of a study.

    Attributes:
        comparison: Methods, or the ablation's rows where a study has no others.
        ablation: Rows that differ from the method in one choice; empty: none.
        differences: Differences of the comparison to the reference row.
        ablation_differences: Those of the ablation.
        gap: Shares of the gap between separate nets and full labels.
        cost: Time and memory of each method.
        stages: Time, memory and GPUs of each stage; empty where no job kept a record.
    """

    comparison: pd.DataFrame
    ablation: pd.DataFrame
    differences: pd.DataFrame
    ablation_differences: pd.DataFrame
    gap: pd.DataFrame
    cost: pd.DataFrame
    stages: pd.DataFrame


def report_inputs(
    study: Study, metrics: pd.DataFrame, tables: Tables, *, notes: Sequence[str], labels: Mapping[str, str]
) -> ReportInputs:
    """Return everything that the report shows; writes the pictures of the worst cases and the viewer beside it.

    Args:
        study: The study.
        metrics: Rows as in `metrics.csv`.
        tables: Its tables.
        notes: Sentences under the tables.
        labels: What tables call each row.
    """
    layout = Layout(study.root)
    folder = layout.report.parent
    reference = study.statistics.reference
    shown = reference if reference in study.methods else next(iter(study.methods))
    titles = dataset_titles(tables.comparison)
    viewed = primary_dataset(titles)
    cases = [] if viewed is None else [_volumes(study, s, labels) for s in spread_of_cases(metrics, shown, *viewed)]
    viewer = write_viewer(folder, cases, study.label_values, study=study.title or study.study)
    worst = [_overlay(study, score, folder / "cases") for score in worst_scores(metrics, shown, count=SHOWN_WORST)]
    return ReportInputs(
        study=study.title or study.study,
        metrics=metrics,
        table=tables.comparison,
        notes=notes,
        labels=labels,
        organs=study.organs,
        ablation=tables.ablation,
        differences=tables.differences,
        ablation_differences=tables.ablation_differences,
        gap=tables.gap,
        reference=reference,
        viewer=None if viewer is None else viewer.name,
        curves=_curves(study, labels),
        worst_cases=worst,
        extra_tables=_accounts(study, tables.cost, tables.stages),
        configuration_yaml=dump_study(study),
        versions=made_by(),
    )


def _accounts(study: Study, cost: pd.DataFrame, stages: pd.DataFrame) -> list[ExtraTable]:
    """Return what the study cost in time and memory, and what its cache holds."""
    tables = [ExtraTable("Cost", "Time and memory as measured while the study ran; weights as stored.", cost)]
    if len(stages):
        tables.append(ExtraTable("Stages", STAGE_NOTE, stages))
    conflicts, teachers = comparison_tables(study)
    if len(teachers):
        caption = (
            "Who teaches which organ, and its Dice on validation cases whose dataset labels the organ, where targets "
            "of validation cases are cached (cache.splits). Teachers without features have no part in the feature term."
        )
        tables.append(ExtraTable("Teachers", caption, teachers))
        caption = "Volumes over all cached cases on which teachers of different organs, or of one organ, contradict."
        tables.append(ExtraTable("Conflicts between teachers", caption, conflicts))
    if (audited := audit_table(study, AUDITED)) is not None:
        caption = (
            "References that teachers contradict with confidence, the most suspicious first (docs/audit.md); contours "
            "are in audit/figures of the results."
        )
        tables.append(ExtraTable("Audit of the labels", caption, audited))
    cache = cache_info(study).round({"bytes_per_voxel": 4, "ratio": 1})
    if cache["cases"].sum():
        caption = "What is stored of the teachers' targets; ratio: to float32 logits and features of the same taps."
        tables.append(ExtraTable("Target cache", caption, cache))
    return tables


def _curves(study: Study, labels: Mapping[str, str]) -> list[TrainingCurve]:
    """Return the progress of every model that was trained here."""
    layout = Layout(study.root)
    curves = [
        TrainingCurve(teacher, layout.teacher(teacher, run) / METRICS, "teachers")
        for teacher in study.trained_teachers
        for run in all_runs(study)
    ] + [
        TrainingCurve(labels[method], layout.student(method, run) / METRICS, "students")
        for method in study.methods
        for run in study.run_names
        if method_facts(study.method_kind(method)).trains
    ]
    return [curve for curve in curves if curve.path.is_file()]


def _prediction(study: Study, method: str, run: str, case: Case, shape: tuple[int, ...]) -> npt.NDArray[Any] | None:
    path = Layout(study.root).prediction(method, run, case.dataset, case.block, case.name)
    if not path.is_file():
        return None
    return read_labels(path, case.id, {v: v for v in study.label_values.values()}, shape)


def _volumes(study: Study, score: WorstScore, labels: Mapping[str, str]) -> ViewerCase:
    """Return a case with its reference and every method's prediction of one run."""
    run = f"fold{score.fold}-seed{score.seed}"
    case = _case(study, score)
    scan, affine = read_scan(case.image, case.id)
    shape, every = scan.shape, thinning(scan.shape)
    image = thinned(scan, every)
    del scan
    reference, _ = read_reference(case, evaluate_leaves(study, case.dataset), study.label_values, shape, affine)
    volumes = {"reference": np.zeros(image.shape, np.uint8) if reference is None else thinned(reference, every)}
    compared = [name for name, row in study.methods.items() if row.table == "comparison"] or list(study.methods)
    for method in sorted(compared, key=lambda name: name != score.method):
        prediction = _prediction(study, method, run, case, shape)
        if prediction is not None:
            volumes[labels[method]] = thinned(prediction, every)
    title = f"{case.id}: mean Dice {score.dice:.3f} ({labels[score.method]}, {run})"
    return ViewerCase(title, image, affine @ np.diag([*map(float, every), 1.0]), volumes)


def _case(study: Study, score: WorstScore) -> Case:
    return next(case for case in list_cases(study, score.dataset, score.fold) if case.name == score.case)


def _overlay(study: Study, score: WorstScore, folder: Path) -> WorstCase:
    """Draw the raw scan with the contours of reference and prediction."""
    run = f"fold{score.fold}-seed{score.seed}"
    case = _case(study, score)
    scan, affine = read_scan(case.image, case.id)
    leaves = evaluate_leaves(study, case.dataset)
    reference, labelled = read_reference(case, leaves, study.label_values, scan.shape, affine)
    path = Layout(study.root).prediction(score.method, run, score.dataset, case.block, case.name)
    prediction = read_labels(path, case.id, {v: v for v in study.label_values.values()}, scan.shape)
    shape = (int(scan.shape[0]), int(scan.shape[1]), int(scan.shape[2]))
    geometry = Geometry.of_raw(shape, affine, study.preprocessing.spacing_mm)
    picture = folder / f"{score.method}-{run}-{score.dataset}-{score.case}.png"
    overlay_figure(
        geometry.to_canonical(scan),
        geometry.to_canonical(reference if reference is not None else np.zeros_like(prediction)),
        geometry.to_canonical(prediction),
        geometry.raw_spacing_mm,
        {organ: study.label_values[organ] for organ in labelled},
        picture,
        title=f"{case.id}, {score.method}, {run}",
    )
    return WorstCase(
        title=f"{case.id}: {score.organ}",
        caption=f"{score.method}, {run}: Dice {score.dice:.3f} ({score.status})",
        image=picture,
    )
