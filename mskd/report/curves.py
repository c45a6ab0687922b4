"""Training curves of all models on one figure: loss and validation Dice against steps, teachers above students."""

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
    """Draw the curves: a row per group, a column per quantity that any model recorded; None where nothing is there.

    Runs of one model share its colour, so that a line that is not flat at the end can be told by its name.

    Raises:
        DataError: a progress file cannot be read.
    """
    rows = [(curve, read_progress(curve.path)) for curve in curves]
    keys = [key for key in PANELS if any(_is_number(row, key) for _, read in rows for row in read)]
    groups = list(dict.fromkeys(curve.group for curve in curves))
    if not keys:
        return None
    figure = new_figure(4.4 * len(keys) + 2.2, 2.9 * len(groups) + 0.3)
    with mpl.rc_context(DRAWING_STYLE):
        panels = figure.subplots(len(groups), len(keys), squeeze=False)
        for group, of_group in zip(groups, panels, strict=True):
            members = [(curve, read) for curve, read in rows if curve.group == group]
            labels = list(dict.fromkeys(curve.label for curve, _ in members))
            lines: dict[str, Any] = {}
            for panel, key in zip(of_group, keys, strict=True):
                for curve, read in members:
                    points = [(row["step"], row[key]) for row in read if _is_number(row, key)]
                    if not points:
                        continue
                    steps, values = zip(*points, strict=True)
                    rank = labels.index(curve.label)
                    colour, style = f"C{rank % 10}", _LINE_STYLES[rank // 10 % len(_LINE_STYLES)]
                    marker = "o" if len(steps) < 3 else None
                    (lines[curve.label],) = panel.plot(
                        steps, values, style, color=colour, linewidth=1.1, marker=marker, alpha=0.85
                    )
                title = f"{PANELS[key]}, {group}" if group else PANELS[key]
                panel.set_title(plain_text(title), loc="left", fontsize=10)
                panel.set_xlabel("step")
                panel.grid(linewidth=0.5, alpha=0.4)
                panel.spines[["top", "right"]].set_visible(False)
            drawn = [label for label in labels if label in lines]
            of_group[-1].legend(
                [lines[label] for label in drawn],
                [plain_text(label) for label in drawn],
                loc="center left",
                bbox_to_anchor=(1.02, 0.5),
                frameon=False,
                fontsize=8,
            )
    return figure


def _is_number(row: dict[str, Any], key: str) -> bool:
    return all(isinstance(row.get(name), int | float) for name in ("step", key))
