"""`index.html`: everything inlined, so that the page opens from disk and can be sent as one file."""

from __future__ import annotations

import base64
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from mskd.evaluation.figures import box_plot, difference_plot, save_figure
from mskd.evaluation.frames import MEAN_ORGAN
from mskd.evaluation.layout import (
    COUNTS,
    MEASURES,
    UPPER_BOUND,
    best_methods,
    interval_text,
    long_form,
    of_dataset,
    p_text,
    shown_statistics,
)
from mskd.evaluation.tables import case_scores, dataset_titles
from mskd.report.curves import curves_figure
from mskd.report.inputs import ExtraTable, ReportInputs
from mskd.report.rendering import template
from mskd.storage import write_text

HONEST_WORDS = (
    "MS-KD is reconstructed from the paper's description (arXiv 2108.02559); open choices are configuration "
    "keys and are ablated. Not for clinical use."
)
_TIE = 0.005  # points: what two decimals do not show
_PLOTTED = {"dice": "Dice", "hd95_mm": "HD95"}


@dataclass(frozen=True)
class Cell:
    """One cell of a sortable table: what is shown and by what it sorts (empty: last)."""

    text: str
    key: str
    is_number: bool = False
    is_best: bool = False


@dataclass(frozen=True)
class Section:
    """A dataset with its table and its plots, or a further table."""

    title: str
    caption: str
    head: list[str]
    rows: list[tuple[bool, list[Cell]]]  # (is the mean row, cells)
    plots: list[tuple[str, str]]  # (alternative text, data URI)
    narrow: bool = False  # whether two plots fit beside each other


@dataclass(frozen=True)
class Summary:
    """The first lines of the page: who is ahead, on what, by how much."""

    headline: str
    sentences: list[str]
    ranking: list[tuple[str, str, float, bool]]  # (method, Dice in %, length of the bar in %, upper bound)
    best_percent: str = ""


def write_report(folder: Path, inputs: ReportInputs) -> Path:
    """Write `index.html` into `folder` and return its path; equal inputs give equal bytes.

    Raises:
        DataError: a progress file cannot be read.
        FileNotFoundError: the picture of a worst case is missing.
    """
    titles = dataset_titles(inputs.table)
    primary = inputs.primary if inputs.primary in titles else primary_dataset(titles)
    ordered = sorted(titles, key=lambda title: title != primary)
    curves = curves_figure(inputs.curves) if inputs.curves else None
    text = template("index.html.j2").render(
        study=inputs.study,
        honest_words=HONEST_WORDS,
        summary=None if primary is None else _summary(inputs, *primary),
        sections=[_dataset_section(inputs, inputs.table, dataset, role) for dataset, role in ordered],
        ablation=_ablation(inputs, primary),
        scatter=_scatter(inputs, ordered),
        viewer=inputs.viewer,
        extra_sections=[_extra_section(extra) for extra in inputs.extra_tables],
        notes=list(inputs.notes),
        curves=None if curves is None else _data_uri(curves),
        worst_cases=[(case.title, case.caption, _png_uri(case.image.read_bytes())) for case in inputs.worst_cases],
        configuration_yaml=inputs.configuration_yaml,
        versions=dict(inputs.versions),
    )
    path = folder / "index.html"
    write_text(path, text)
    return path


def primary_dataset(titles: Sequence[tuple[str, str]]) -> tuple[str, str] | None:
    """Return the dataset and role that decide the winner: the first external one, else the first."""
    external = [title for title in titles if title[1] == "external"]
    return next(iter([*external, *titles]), None)


def _summary(inputs: ReportInputs, dataset: str, role: str) -> Summary:
    """Say who has the highest mean Dice on one dataset, and by how much; the upper bound takes no part."""
    rows = of_dataset(inputs.table, dataset, role)
    means = rows[rows["organ"] == MEAN_ORGAN].sort_values("dice_mean", ascending=False, kind="stable")
    percent = {str(m): 100.0 * float(d) for m, d in zip(means["method"], means["dice_mean"], strict=True)}
    names = {method: inputs.labels.get(method, method) for method in percent}
    ranked = [method for method in percent if method != UPPER_BOUND]
    bars = [
        (names[method], f"{value:.2f}", round(max(value, 0.0), 2), method == UPPER_BOUND)
        for method, value in percent.items()
    ]
    if not ranked:
        return Summary(f"{names[UPPER_BOUND]}: {percent[UPPER_BOUND]:.2f} % mean Dice", [], bars)
    first = ranked[0]
    n = int(means.loc[means["method"] == first, "n"].iloc[0])
    sentences = [
        f"Mean over organs on {dataset} ({role}), n = {n} case{'' if n == 1 else 's'}; "
        "runs are averaged per case first."
    ]
    tied = [names[method] for method in ranked if percent[first] - percent[method] < _TIE]
    if len(tied) > 1:
        sentences.append("Level to two decimals.")
    elif len(ranked) > 1:
        lead = percent[first] - percent[ranked[1]]
        sentences.append(f"{lead:.2f} Dice points ahead of {names[ranked[1]]}.")
    if UPPER_BOUND in percent:
        gap = percent[UPPER_BOUND] - percent[first]
        side = "below" if gap >= 0 else "above"
        sentences.append(f"{abs(gap):.2f} points {side} {names[UPPER_BOUND]}.")
    sentences += _evidence(inputs, dataset, role, names)
    if role == "resubstitution":
        sentences.append("Scored on training cases: a proof that files go through, no claim of accuracy.")
    best = f"{percent[first]:.2f}"
    return Summary(f"{', '.join(tied or [names[first]])}: {best} % mean Dice", sentences, bars, best)


def _evidence(inputs: ReportInputs, dataset: str, role: str, names: Mapping[str, str]) -> Iterator[str]:
    """Say what the reference row's lead is worth, and how much of the gap to full labels it closes."""
    own = names.get(inputs.reference, inputs.reference)
    if len(inputs.differences):
        rows = inputs.differences
        rows = rows[(rows["dataset"] == dataset) & (rows["role"] == role) & (rows["measure"] == "dice")]
        of_mean = {str(row["method"]): row for row in rows[rows["organ"] == MEAN_ORGAN].to_dict("records")}
        for method in (name for name in ("individual", "self_training") if name in of_mean):
            row = of_mean[method]
            ends = interval_text(-row["ci_high"], -row["ci_low"], 100.0, 2)
            p = f"p = {p_text(row['p_holm'])}".replace("= <", "<")
            points = f"{0.0 - round(100 * row['difference'], 2):+.2f} Dice points, 95 % interval {ends}"
            yield f"{own} against {names.get(method, method)}: {points}, {p} (Wilcoxon, Holm)."
    if len(inputs.gap):
        rows = inputs.gap
        rows = rows[(rows["dataset"] == dataset) & (rows["role"] == role) & (rows["organ"] == MEAN_ORGAN)]
        rows = rows[(rows["method"] == inputs.reference) & rows["closed"].notna()]
        for row in rows.to_dict("records"):
            ends = interval_text(row["closed_ci_low"], row["closed_ci_high"], 100.0, 0)
            yield (
                f"Of the {100 * row['gap']:.2f} points between separate nets and full labels {own} closes "
                f"{100 * row['closed']:.0f} %, 95 % interval {ends}."
            )


def _ablation(inputs: ReportInputs, primary: tuple[str, str] | None) -> list[Section]:
    """Gather the ablation of each dataset, the deciding one first."""
    if not len(inputs.ablation):
        return []
    found = []
    for dataset, role in sorted(dataset_titles(inputs.ablation), key=lambda title: title != primary):
        section = _dataset_section(inputs, inputs.ablation, dataset, role, plotted={})
        rows = [str(name) for name in dict.fromkeys(inputs.ablation["method"]) if name != inputs.reference]
        label = inputs.labels.get(inputs.reference, inputs.reference)
        figure = difference_plot(
            *(inputs.ablation_differences, dataset, role), methods=rows, reference_label=label, labels=inputs.labels
        )
        if figure is not None:
            section.plots.append((f"Difference of each row to {label} on {dataset}", _data_uri(figure)))
        found.append(section)
    return found


def _scatter(inputs: ReportInputs, titles: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """Return per dataset the Dice of every case, organ and method, for the scatter that the page draws."""
    methods = [str(name) for name in dict.fromkeys(inputs.table["method"])]
    cases = case_scores(inputs.metrics)
    cases = cases[cases["present"]]
    found = []
    for dataset, role in titles:
        rows = cases[(cases["dataset"] == dataset) & (cases["role"] == role)]
        wide = rows.pivot(index=["case", "organ"], columns="method", values="dice")
        shown = [name for name in methods if name in wide.columns]
        if len(shown) < 2:
            continue
        found.append(
            {
                "title": f"{dataset} ({role})",
                "methods": [inputs.labels.get(name, name) for name in shown],
                "across": next((i for i, name in enumerate(shown) if name == "individual"), 0),
                "up": next((i for i, name in enumerate(shown) if name == inputs.reference), len(shown) - 1),
                "cases": [str(case) for case, _ in wide.index],
                "organs": [str(organ) for _, organ in wide.index],
                "dice": [[None if math.isnan(v) else round(float(v), 4) for v in wide[name]] for name in shown],
            }
        )
    return found


def _dataset_section(
    inputs: ReportInputs, table: pd.DataFrame, dataset: str, role: str, plotted: Mapping[str, str] = _PLOTTED
) -> Section:
    """Gather the table and the plots of one dataset."""
    rows = of_dataset(table, dataset, role)
    shown = long_form(rows, inputs.labels)
    keys = {heading: rows[column] for heading, column in COUNTS.items()}
    keys |= {heading: rows[column] for heading, column, *_ in MEASURES}
    keys |= {heading: rows[column] for heading, column in shown_statistics(rows).items()}
    best = {heading: best_methods(rows, column, highest=factor == 100.0) for heading, column, _, factor, _ in MEASURES}
    cells = []
    single = rows.loc[rows["organ"] != MEAN_ORGAN, "organ"].nunique() == 1  # its mean row would repeat it
    for index, texts in enumerate(shown.to_dict("records")):
        method, organ = str(rows["method"][index]), str(rows["organ"][index])
        line = [
            Cell(str(text), _key(keys[heading][index]), True, method in best.get(heading, {}).get(organ, set()))
            if heading in keys
            else Cell(str(text), str(text))
            for heading, text in texts.items()
        ]
        if not (single and organ == MEAN_ORGAN):
            cells.append((organ == MEAN_ORGAN, line))
    plots = []
    for measure, name in plotted.items():
        organs = list(inputs.organs) or None
        methods = [str(name) for name in dict.fromkeys(rows["method"])]
        figure = box_plot(
            *(inputs.metrics, dataset, role), measure=measure, methods=methods, organs=organs, labels=inputs.labels
        )
        plots.append((f"Box plots of {name} per organ and method on {dataset}", _data_uri(figure)))
    caption = "Scored on training cases; claims no accuracy." if role == "resubstitution" else ""
    return Section(f"{dataset} ({role})", caption, list(shown.columns), cells, plots, narrow=single)


def _extra_section(extra: ExtraTable) -> Section:
    """Turn a further table into a section without plots."""
    numeric = {name: pd.api.types.is_numeric_dtype(extra.frame[name]) for name in extra.frame.columns}
    rows = [
        (
            False,
            [
                Cell(
                    "–" if pd.isna(value) else str(value),
                    _key(value) if numeric[name] else str(value),
                    numeric[name],
                )
                for name, value in zip(numeric, record, strict=True)
            ],
        )
        for record in extra.frame.itertuples(index=False, name=None)
    ]
    return Section(extra.title, extra.caption, [str(name) for name in extra.frame.columns], rows, [])


def _key(value: float) -> str:
    """Return the sorting key of a number; empty where there is none."""
    return "" if math.isnan(value) else repr(float(value))


def _data_uri(figure: Figure) -> str:
    """Return a figure as an inlined PNG."""
    with tempfile.TemporaryDirectory() as folder:
        (path,) = save_figure(figure, Path(folder) / "figure", suffixes=("png",))
        return _png_uri(path.read_bytes())


def _png_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
