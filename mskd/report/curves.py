"""Training curves of all models on one figure: loss and validation Dice against steps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from mskd.errors import DataError
from mskd.evaluation.figures import DRAWING_STYLE, new_figure, plain_text
from mskd.report.inputs import TrainingCurve

PANELS = {"loss": "Training loss", "val_dice": "Validation Dice"}
_LINE_STYLES = ("-", "--", ":", "-.")


def read_progress(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a progress file; a last line that was cut off (a killed job) is left out.

    Raises:
        DataError: the file is missing, or a line before the last is no JSON object.
    """
    if not path.is_file():
        raise DataError(
            case=path.parent.name,
            file=path,
            expected="the progress of a training",
            found="no such file",
            fix="train the model, or leave its curve out",
        )
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            row = None
        if isinstance(row, dict):
            rows.append(row)
        elif number < len(lines) and line.strip():
            raise DataError(
                case=path.parent.name,
                file=path,
                expected="one JSON object per line",
                found=f"line {number}: {line[:60]!r}",
                fix="delete the line",
            )
    return rows


def curves_figure(curves: Sequence[TrainingCurve]) -> Figure | None:
    """Draw the curves, one panel per quantity that any model recorded; None where there is nothing to draw.

    Raises:
        DataError: a progress file cannot be read.
    """
    series = {curve.label: read_progress(curve.path) for curve in curves}
    points = {
        (label, key): [(row["step"], row[key]) for row in rows if _is_number(row, key)]
        for label, rows in series.items()
        for key in PANELS
    }
    keys = [key for key in PANELS if any(points[label, key] for label in series)]
    if not keys:
        return None
    legend_lines = -(-len(series) // 4)
    figure = new_figure(4.4 * len(keys) + 0.4, 3.4 + 0.2 * legend_lines)
    with mpl.rc_context(DRAWING_STYLE):
        panels = figure.subplots(1, len(keys), squeeze=False)[0]
        lines = {}
        for panel, key in zip(panels, keys, strict=True):
            for rank, label in enumerate(series):
                if not points[label, key]:
                    continue
                steps, values = zip(*points[label, key], strict=True)
                colour, style = f"C{rank % 10}", _LINE_STYLES[rank // 10 % len(_LINE_STYLES)]
                marker = "o" if len(steps) < 3 else None
                (lines[label],) = panel.plot(steps, values, style, color=colour, linewidth=1.3, marker=marker)
            panel.set_title(PANELS[key], loc="left", fontsize=10)
            panel.set_xlabel("step")
            panel.grid(linewidth=0.5, alpha=0.4)
            panel.spines[["top", "right"]].set_visible(False)
        names = [plain_text(label) for label in lines]
        figure.legend(list(lines.values()), names, loc="outside lower center", ncols=4, frameon=False)
    return figure


def _is_number(row: dict[str, Any], key: str) -> bool:
    return all(isinstance(row.get(name), int | float) for name in ("step", key))
