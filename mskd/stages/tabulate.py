"""Stage: every score of the study in one file, then tables, figures and the report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from mskd.cases import list_cases
from mskd.config.loading import dump_study
from mskd.config.study import Study
from mskd.cost import cost_table
from mskd.evaluation.figures import box_plot, save_figure
from mskd.evaluation.folders import table_notes
from mskd.evaluation.formats import write_tables
from mskd.evaluation.frames import read_all_metrics, write_metrics
from mskd.evaluation.layout import terminal_table
from mskd.evaluation.statistics import (
    Procedure,
    add_statistics,
    difference_table,
    gap_table,
    statistics_notes,
)
from mskd.evaluation.tables import comparison_table, dataset_titles
from mskd.geometry import Geometry
from mskd.layout import Layout
from mskd.leaves import evaluate_leaves
from mskd.methods.registry import method_facts
from mskd.provenance import made_by
from mskd.reference import read_case_labels
from mskd.report.inputs import ExtraTable, ReportInputs, TrainingCurve, WorstCase
from mskd.report.overlay import overlay_figure
from mskd.report.page import write_report
from mskd.report.worst import WorstScore, worst_scores
from mskd.scans import read_labels, read_scan
from mskd.storage import write_text
from mskd.training.journal import METRICS

STAGE = "tabulate"
SHOWN_WORST = 4


def tabulate(study: Study) -> None:
    """Write `metrics.csv`, `tables/`, `figures/` and `report/` from the metrics of every method, run and dataset."""
    layout = Layout(study.root)
    metrics = read_all_metrics(
        layout.metrics(method, run, dataset)
        for method in study.methods
        for run in study.run_names
        for dataset in tested_datasets(study)
    )
    write_metrics(metrics, layout.all_metrics)
    labels, procedure = method_titles(study), study_procedure(study)
    notes = study_notes(study) + statistics_notes(metrics, procedure, labels.get(procedure.reference, ""))
    tables = {}
    for name in ("comparison", "ablation"):
        rows = metrics[metrics["method"].isin([m for m, spec in study.methods.items() if spec.table == name])]
        if len(rows):
            table = comparison_table(
                rows, methods=list(study.methods), datasets=list(study.datasets), organs=study.organs
            )
            tables[name] = add_statistics(table, with_reference(rows, metrics, procedure), procedure)
            write_tables(tables[name], layout.tables, stem=name, notes=notes, labels=labels)
    differences, gap = difference_table(metrics, procedure), gap_table(metrics, procedure)
    for name, frame in (("differences", differences), ("gap", gap)):
        write_text(layout.tables / f"{name}.csv", frame.to_csv(index=False, lineterminator="\n", float_format="%.6f"))
    for dataset, role in dataset_titles(comparison_table(metrics)):
        figure = box_plot(metrics, dataset, role, methods=list(study.methods), organs=study.organs, labels=labels)
        save_figure(figure, layout.figures / f"dice-{dataset}-{role}")
    cost = cost_table(study)
    write_text(layout.tables / "cost.csv", cost.to_csv(index=False, lineterminator="\n"))
    write_text(layout.tables / "cost.md", cost.to_markdown(index=False) + "\n")
    _report(study, metrics, tables, notes, labels, cost)


def show_tables(study: Study) -> None:
    """Print the comparison on every dataset, and where the report is."""
    from rich.console import Console

    layout = Layout(study.root)
    metrics = read_all_metrics([layout.all_metrics])
    table = comparison_table(metrics, methods=list(study.methods), datasets=list(study.datasets), organs=study.organs)
    console = Console(width=None if Console().is_terminal else 110)
    for dataset, role in dataset_titles(table):
        console.print(terminal_table(table, dataset, role, method_titles(study)))
    print(f"tables: {layout.tables}\nreport: {layout.report}")


def tested_datasets(study: Study) -> list[str]:
    """Return the datasets that have test cases in some run."""
    return [
        name
        for name in study.datasets
        if any(case.split == "test" for fold in range(study.runs.folds) for case in list_cases(study, name, fold))
    ]


def study_procedure(study: Study) -> Procedure:
    """Return how the study's statistics are computed."""
    return Procedure(study.statistics.reference, study.statistics.resamples, study.statistics.seed)


def with_reference(rows: pd.DataFrame, metrics: pd.DataFrame, procedure: Procedure) -> pd.DataFrame:
    """Return the rows of a table, and those of the reference method, which may stand in another table."""
    missing = procedure.reference not in set(rows["method"])
    return pd.concat([rows, metrics[metrics["method"] == procedure.reference]]) if missing else rows


def method_titles(study: Study) -> dict[str, str]:
    """Return what tables call each row."""
    return {
        name: method_facts(study.method_kind(name)).title if study.method_kind(name) == name else name
        for name in study.methods
    }


def study_notes(study: Study) -> list[str]:
    """Return the sentences under every table."""
    notes = table_notes(study.evaluation.hd95, study.evaluation.nsd_tolerance_mm, study.label_values)
    for name, dataset in study.datasets.items():
        shown = ", ".join(f"{value} → {organ}" for value, organ in dataset.label_map.items())
        notes.append(f"File values of {name}: {shown}.")
        if dataset.metrics_role == "resubstitution":
            notes.append(f"{name} was also trained on: its scores show that files go through, not accuracy.")
    return notes


def _report(
    study: Study,
    metrics: pd.DataFrame,
    tables: dict[str, pd.DataFrame],
    notes: list[str],
    labels: dict[str, str],
    cost: pd.DataFrame,
) -> None:
    layout = Layout(study.root)
    curves = [
        TrainingCurve(f"teacher {teacher} {run}", layout.teacher(teacher, run) / METRICS)
        for teacher in study.teachers
        for run in study.run_names
    ] + [
        TrainingCurve(f"{labels[method]} {run}", layout.student(method, run) / METRICS)
        for method in study.methods
        for run in study.run_names
        if method_facts(study.method_kind(method)).trains
    ]
    shown = "mskd" if "mskd" in study.methods else next(iter(study.methods))
    worst = [
        _overlay(study, score, layout.report.parent / "cases")
        for score in worst_scores(metrics, shown, count=SHOWN_WORST)
    ]
    table = tables.get("comparison")
    extra = [ExtraTable("Cost", "Time and memory as measured while the study ran; weights as stored.", cost)]
    write_report(
        layout.report.parent,
        ReportInputs(
            study=study.title or study.study,
            metrics=metrics,
            table=table if table is not None else tables["ablation"],
            notes=notes,
            labels=labels,
            organs=study.organs,
            curves=[curve for curve in curves if curve.path.is_file()],
            worst_cases=worst,
            extra_tables=extra,
            configuration_yaml=dump_study(study),
            versions=made_by(),
        ),
    )


def _overlay(study: Study, score: WorstScore, folder: Path) -> WorstCase:
    """Draw the raw scan with the contours of reference and prediction."""
    run = f"fold{score.fold}-seed{score.seed}"
    case = next(c for c in list_cases(study, score.dataset, score.fold) if c.name == score.case)
    leaves = evaluate_leaves(study, score.dataset)
    scan, affine = read_scan(case.image, case.id)
    reference = read_case_labels(case, leaves["label_map"], leaves["structures"], scan.shape, affine)
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
        {organ: study.label_values[organ] for organ in leaves["labelled"]},
        picture,
        title=f"{case.id}, {score.method}, {run}",
    )
    return WorstCase(
        title=f"{case.id}: {score.organ}",
        caption=f"{score.method}, {run}: Dice {score.dice:.3f} ({score.status})",
        image=picture,
    )
