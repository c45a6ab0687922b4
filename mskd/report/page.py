"""`index.html`: everything inlined, so that the page opens from disk and can be sent as one file."""

from __future__ import annotations

import base64
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import pandas as pd
from matplotlib.figure import Figure

from mskd.evaluation.figures import box_plot, save_figure
from mskd.evaluation.frames import MEAN_ORGAN
from mskd.evaluation.layout import COUNTS, MEASURES, UPPER_BOUND, best_methods, long_form, of_dataset
from mskd.evaluation.tables import dataset_titles
from mskd.report.curves import curves_figure
from mskd.report.inputs import ExtraTable, ReportInputs
from mskd.storage import write_text

HONEST_WORDS = (
    "MS-KD is reconstructed from the paper's description (arXiv 2108.02559); open choices are configuration "
    "keys and are ablated. Not for clinical use."
)
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
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mskd.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    titles = dataset_titles(inputs.table)
    primary = _primary(inputs, titles)
    ordered = sorted(titles, key=lambda title: title != primary)
    curves = curves_figure(inputs.curves) if inputs.curves else None
    text = environment.get_template("index.html.j2").render(
        study=inputs.study,
        honest_words=HONEST_WORDS,
        summary=None if primary is None else _summary(inputs, *primary),
        sections=[_dataset_section(inputs, dataset, role) for dataset, role in ordered],
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


def _primary(inputs: ReportInputs, titles: Sequence[tuple[str, str]]) -> tuple[str, str] | None:
    """Return the dataset and role that decide the winner."""
    if inputs.primary in titles:
        return inputs.primary
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
    if len(ranked) > 1:
        lead = percent[first] - percent[ranked[1]]
        sentences.append(f"{lead:.2f} Dice points ahead of {names[ranked[1]]}.")
    if UPPER_BOUND in percent:
        gap = percent[UPPER_BOUND] - percent[first]
        side = "below" if gap >= 0 else "above"
        sentences.append(f"{abs(gap):.2f} points {side} {names[UPPER_BOUND]}, the upper bound.")
    if role == "resubstitution":
        sentences.append("Scored on training cases: a proof that files go through, no claim of accuracy.")
    best = f"{percent[first]:.2f}"
    return Summary(f"{names[first]}: {best} % mean Dice", sentences, bars, best)


def _dataset_section(inputs: ReportInputs, dataset: str, role: str) -> Section:
    """Gather the table and the plots of one dataset."""
    rows = of_dataset(inputs.table, dataset, role)
    shown = long_form(rows, inputs.labels)
    keys = {heading: rows[column] for heading, column in COUNTS.items()}
    keys |= {heading: rows[column] for heading, column, *_ in MEASURES}
    best = {heading: best_methods(rows, column, highest=factor == 100.0) for heading, column, _, factor, _ in MEASURES}
    cells = []
    for index, texts in enumerate(shown.to_dict("records")):
        method, organ = str(rows["method"][index]), str(rows["organ"][index])
        line = [
            Cell(str(text), _key(keys[heading][index]), True, method in best.get(heading, {}).get(organ, set()))
            if heading in keys
            else Cell(str(text), str(text))
            for heading, text in texts.items()
        ]
        cells.append((organ == MEAN_ORGAN, line))
    plots = []
    for measure, name in _PLOTTED.items():
        organs = list(inputs.organs) or None
        figure = box_plot(inputs.metrics, dataset, role, measure=measure, organs=organs, labels=inputs.labels)
        plots.append((f"Box plots of {name} per organ and method on {dataset}", _data_uri(figure)))
    caption = "Scored on training cases; claims no accuracy." if role == "resubstitution" else ""
    return Section(f"{dataset} ({role})", caption, list(shown.columns), cells, plots)


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
