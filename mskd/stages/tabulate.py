"""Stage: every score of the study in one file, then tables, figures and the report."""

from __future__ import annotations

import pandas as pd

from mskd.cases import by_block, list_cases
from mskd.config.study import Study
from mskd.cost import STAGE_NOTE, cost_table, stage_table
from mskd.evaluation.figures import box_plot, difference_plot, save_figure
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
from mskd.layout import Layout
from mskd.manifest import read_manifest
from mskd.methods.registry import method_facts
from mskd.report.page import write_report
from mskd.stages.report_inputs import Tables, report_inputs
from mskd.storage import write_text

STAGE = "tabulate"


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
    tables, differences = {}, {}
    for name in ("comparison", "ablation"):
        chosen = {method for method, spec in study.methods.items() if spec.table == name}
        if chosen:
            # what is left out is read against the whole method, so the ablation shows it too
            chosen |= {procedure.reference} & set(study.methods)
            rows = metrics[metrics["method"].isin(chosen)]
            table = comparison_table(
                rows, methods=list(study.methods), datasets=list(study.datasets), organs=study.organs
            )
            tables[name] = add_statistics(table, rows, procedure)
            differences[name] = difference_table(rows, procedure).assign(table=name)
            write_tables(tables[name], layout.tables, stem=name, notes=notes, labels=labels)
    gap, cost, stages = gap_table(metrics, procedure), cost_table(study), stage_table(study)
    for name, frame in (("differences", pd.concat(differences.values())), ("gap", gap)):
        write_text(layout.tables / f"{name}.csv", frame.to_csv(index=False, lineterminator="\n", float_format="%.6f"))
    write_text(layout.tables / "cost.csv", cost.to_csv(index=False, lineterminator="\n"))
    write_text(layout.tables / "cost.md", cost.to_markdown(index=False) + "\n")
    write_text(layout.tables / "stages.csv", stages.to_csv(index=False, lineterminator="\n"))
    write_text(layout.tables / "stages.md", f"{stages.to_markdown(index=False)}\n\n{STAGE_NOTE}\n")
    none = pd.DataFrame()
    ablated = differences.get("ablation", none)
    _figures(study, metrics, ablated, labels)
    ablation = tables.get("ablation", none)
    gathered = Tables(
        tables.get("comparison", ablation), ablation, differences.get("comparison", none), ablated, gap, cost, stages
    )
    write_report(layout.report.parent, report_inputs(study, metrics, gathered, notes=notes, labels=labels))


def _figures(study: Study, metrics: pd.DataFrame, ablated: pd.DataFrame, labels: dict[str, str]) -> None:
    """Draw the Dice per organ and method, and the ablation, of every dataset."""
    figures, reference = Layout(study.root).figures, study.statistics.reference
    of_table = {
        name: [method for method, spec in study.methods.items() if spec.table == name]
        for name in ("comparison", "ablation")
    }
    for dataset, role in dataset_titles(comparison_table(metrics)):
        methods = of_table["comparison"] or of_table["ablation"]
        figure = box_plot(metrics, dataset, role, methods=methods, organs=study.organs, labels=labels)
        save_figure(figure, figures / f"dice-{dataset}-{role}")
        drawn = difference_plot(
            *(ablated, dataset, role),
            methods=of_table["ablation"],
            reference_label=labels.get(reference, reference),
            labels=labels,
        )
        if drawn is not None:
            save_figure(drawn, figures / f"ablation-{dataset}-{role}")


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


def method_titles(study: Study) -> dict[str, str]:
    """Return what tables call each row."""
    return {
        name: method_facts(study.method_kind(name)).title if study.method_kind(name) == name else name
        for name in study.methods
    }


def skipped_cases(study: Study) -> dict[str, str]:
    """Return the cases that the study goes on without, and why, in one line each."""
    layout = Layout(study.root)
    skipped: dict[str, str] = {}
    blocks = [(name, block) for name in study.datasets for block in by_block(list_cases(study, name))]
    for manifest in [layout.manifest("check_data", "study"), *(layout.manifest("prepare", *at) for at in blocks)]:
        skipped |= read_manifest(manifest).skipped if manifest.is_file() else {}
    return {case: " ".join(reason.split()) for case, reason in sorted(skipped.items())}


def study_notes(study: Study) -> list[str]:
    """Return the sentences under every table."""
    notes = table_notes(study.evaluation.hd95, study.evaluation.nsd_tolerance_mm, study.label_values)
    for name, dataset in study.datasets.items():
        shown = ", ".join(f"{value} → {organ}" for value, organ in dataset.label_map.items())
        notes.append(f"File values of {name}: {shown}.")
        if dataset.metrics_role == "resubstitution":
            notes.append(f"{name} was also trained on: its scores show that files go through, not accuracy.")
    if left_out := skipped_cases(study):
        named = "; ".join(f"{case} ({reason})" for case, reason in left_out.items())
        notes.append(f"Left out (on_bad_case: skip), {len(left_out)} of the study's cases: {named}.")
    return notes
