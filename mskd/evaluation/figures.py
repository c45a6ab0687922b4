"""Box plots of the scores per organ and method; drawn without a display, equal data give equal files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mskd.evaluation.frames import MEAN_ORGAN
from mskd.evaluation.layout import SIGNIFICANT
from mskd.evaluation.tables import METHOD_ORDER, case_scores

# Okabe and Ito's colours, told apart by colour-blind readers; ours is the vermilion.
_PALETTE = (
    *("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9"),
    *("#999999", "#F0E442", "#8C6BB1", "#8C510A", "#333333"),
)
_OURS, _OURS_COLOUR = "mskd", "#D55E00"
_FAR_OFF_POINTS = 10.0  # and four times the usual difference: such a row would leave no room for the others
# Nothing of the machine, of the time, or of a random salt goes into the files.
DRAWING_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "mskd",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
}
_METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
}
PNG_DPI = 160


def save_figure(figure: Figure, stem: Path, suffixes: Sequence[str] = ("png", "svg")) -> list[Path]:
    """Write a figure as `<stem>.png` and `<stem>.svg`, each in one step, and return the paths."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = []
    for suffix in suffixes:
        path = stem.with_name(f"{stem.name}.{suffix}")
        temporary = stem.with_name(f".{stem.name}.tmp.{suffix}")
        with mpl.rc_context(DRAWING_STYLE):
            figure.savefig(temporary, format=suffix, dpi=PNG_DPI, metadata=_METADATA[suffix])
        temporary.replace(path)
        paths.append(path)
    return paths


def new_figure(width_inch: float, height_inch: float) -> Figure:
    """Return an empty figure that belongs to no window and no global state."""
    with mpl.rc_context(DRAWING_STYLE):
        figure = Figure(figsize=(width_inch, height_inch), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def method_colours(methods: Sequence[str]) -> dict[str, str]:
    """Return one colour per method; a method of `METHOD_ORDER` keeps its colour whatever else is shown."""
    known = [method for method in METHOD_ORDER if method != _OURS]
    order = known + sorted(set(methods) - set(METHOD_ORDER))
    colours = {method: _PALETTE[rank % len(_PALETTE)] for rank, method in enumerate(order)}
    return {method: colours.get(method, _OURS_COLOUR) for method in methods}


def box_plot(
    metrics: pd.DataFrame,
    dataset: str,
    role: str,
    *,
    measure: str = "dice",
    methods: Sequence[str] | None = None,
    organs: Sequence[str] | None = None,
    labels: Mapping[str, str] | None = None,
) -> Figure:
    """Draw one measure per organ, a box per method over the cases (runs averaged per case; every case a dot).

    Args:
        metrics: rows as in `metrics.csv`.
        dataset: which dataset to draw.
        role: in which role.
        measure: `dice`, `hd95_mm` or `nsd`.
        methods: which, in this order; default: all, in `METHOD_ORDER`.
        organs: which, in this order; default: all by name.
        labels: names to show instead of method ids.
    """
    chosen = metrics[(metrics["dataset"] == dataset) & (metrics["role"] == role)]
    cases = case_scores(chosen)
    cases = cases[cases["present"] & cases[measure].notna()]
    found = set(cases["method"])
    full_order = list(methods or [*METHOD_ORDER, *sorted(found - set(METHOD_ORDER))])
    method_order = [method for method in full_order if method in found]
    organ_order = [organ for organ in (organs or sorted(set(cases["organ"]))) if organ in set(cases["organ"])]
    figure = new_figure(max(6.5, 0.9 + len(organ_order) * (0.5 + 0.22 * len(method_order))), 3.6)
    with mpl.rc_context(DRAWING_STYLE):
        axes = figure.add_subplot()
        _draw_boxes(axes, cases, measure, method_order, organ_order, labels or {})
        title = {"dice": "Dice", "hd95_mm": "HD95 (mm), found organs", "nsd": "Normalised surface Dice"}[measure]
        axes.set_ylabel(title)
        axes.set_title(plain_text(f"{dataset} ({role})"), loc="left", fontsize=10)
    return figure


def _draw_boxes(
    axes: Any,
    cases: pd.DataFrame,
    measure: str,
    methods: Sequence[str],
    organs: Sequence[str],
    labels: Mapping[str, str],
) -> None:
    """Draw the boxes, one group of methods per organ, and the legend."""
    colours = method_colours(methods)
    width = 0.8 / max(len(methods), 4)
    handles = []
    for rank, method in enumerate(methods):
        values = [
            cases.loc[(cases["method"] == method) & (cases["organ"] == organ), measure].to_numpy() for organ in organs
        ]
        offset = (rank - (len(methods) - 1) / 2) * width
        places = [place + offset for place in range(len(organs))]
        drawn = axes.boxplot(
            values,
            positions=places,
            widths=width * 0.8,
            patch_artist=True,
            showfliers=False,
            manage_ticks=False,
            medianprops={"color": "black", "linewidth": 1.2},
            boxprops={"facecolor": colours[method], "alpha": 0.65, "linewidth": 0.8},
        )
        for place, points in zip(places, values, strict=True):
            axes.plot([place] * len(points), points, "o", color="black", markersize=2, alpha=0.5)
        if drawn["boxes"]:
            handles.append((drawn["boxes"][0], plain_text(labels.get(method, method))))
    axes.set_xticks(range(len(organs)), [plain_text(organ) for organ in organs])
    axes.grid(axis="y", linewidth=0.5, alpha=0.4)
    axes.spines[["top", "right"]].set_visible(False)
    if handles:
        boxes, names = zip(*handles, strict=True)
        axes.figure.legend(boxes, names, loc="outside lower center", ncols=min(5, len(names)), frameon=False)


def difference_plot(
    differences: pd.DataFrame,
    dataset: str,
    role: str,
    *,
    methods: Sequence[str],
    reference_label: str,
    labels: Mapping[str, str] | None = None,
) -> Figure | None:
    """Draw the difference in mean Dice of rows to the reference row with its interval; None where there is none.

    A row that is far off, as where a network learned next to nothing, stands at the edge with its number, so that the
    others stay readable.

    Args:
        differences: As `mskd.evaluation.statistics.difference_table` gives it.
        dataset: Which dataset to draw.
        role: In which role.
        methods: Which rows, from top to bottom.
        reference_label: What the zero line is.
        labels: Names to show instead of row names.
    """
    if differences.empty:
        return None
    where = (differences["dataset"] == dataset) & (differences["role"] == role) & (differences["measure"] == "dice")
    of_mean = differences[where & (differences["organ"] == MEAN_ORGAN)]
    rows = {str(row["method"]): row for row in of_mean.to_dict("records")}
    shown = [method for method in methods if method in rows]
    if not shown:
        return None
    figure = new_figure(6.5, 1.1 + 0.28 * len(shown))
    with mpl.rc_context(DRAWING_STYLE):
        axes = figure.add_subplot()
        points = [[100 * rows[method][name] for name in ("difference", "ci_low", "ci_high")] for method in shown]
        far = max(_FAR_OFF_POINTS, 4 * float(np.median(np.abs(points).max(1))))
        for place, (method, (middle, low, high)) in enumerate(zip(shown, points, strict=True)):
            colour = _OURS_COLOUR if rows[method]["p_holm"] < SIGNIFICANT else "#555555"
            if abs(middle) > far:
                sign, side = (1, "right") if middle > 0 else (-1, "left")
                axes.plot(sign * far, place, ">" if sign > 0 else "<", color=colour, markersize=6)
                axes.annotate(
                    f"{middle:+.1f}".replace("-", "\N{MINUS SIGN}"),
                    (sign * far, place),
                    (-8 * sign, 0),
                    textcoords="offset points",
                    ha=side,
                    va="center",
                    fontsize=9,
                )
            else:
                axes.plot([low, high], [place, place], "-", color=colour, linewidth=1.6)
                axes.plot(middle, place, "o", color=colour, markersize=5)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_yticks(range(len(shown)), [plain_text((labels or {}).get(method, method)) for method in shown])
        axes.invert_yaxis()
        axes.set_xlabel(f"Dice points against {plain_text(reference_label)}, with 95 % interval over cases")
        axes.set_title(plain_text(f"{dataset} ({role}); coloured: significant"), loc="left", fontsize=10)
        axes.grid(axis="x", linewidth=0.5, alpha=0.4)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def plain_text(text: str) -> str:
    """Keep matplotlib from reading mathematics between two dollar signs of a name."""
    return text.replace("$", r"\$")
