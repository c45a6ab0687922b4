"""The journal of a training: metrics.jsonl, TensorBoard, progress.png."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mskd.storage import atomic_path, write_text

METRICS, PLOT = "metrics.jsonl", "progress.png"


class Journal:
    """Rows of a training; a resumed one forgets what came after its checkpoint."""

    def __init__(self, folder: Path, *, first_step: int) -> None:
        """Open the journal.

        Args:
            folder: Model folder.
            first_step: Rows of later steps (of an attempt that was cut off) are dropped, and the validation after this
                step: it is done again.
        """
        self.folder = folder
        self.rows = [
            row
            for row in read_rows(folder / METRICS)
            if row["step"] < first_step or (row["step"] == first_step and "val_dice" not in row)
        ]
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / METRICS, "".join(json.dumps(row) + "\n" for row in self.rows))
        from torch.utils.tensorboard import SummaryWriter

        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step + 1)

    def add(self, step: int, **values: float) -> None:
        """Append a row."""
        row = {"step": step, **values}
        self.rows.append(row)
        with (self.folder / METRICS).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
        for name, value in values.items():
            self.board.add_scalar(name, value, step)

    def plot(self, title: str) -> None:
        """Draw losses and validation Dice against steps."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 4.5), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        names = sorted({key for row in self.rows for key in row if key.startswith("loss")})
        for name in names:
            points = [(row["step"], row[name]) for row in self.rows if name in row]
            axes.plot(*zip(*points, strict=True), label=name, linewidth=1.8 if name == "loss" else 0.9)
        axes.set(xlabel="optimiser steps", ylabel="loss", title=title)
        if names:  # the first validation may come before the first row of losses
            axes.legend(loc="upper left", fontsize=8)
        scores = [(row["step"], row["val_dice"]) for row in self.rows if "val_dice" in row]
        if scores:
            right = axes.twinx()
            right.plot(*zip(*scores, strict=True), "k.-", label="validation Dice")
            right.set(ylabel="validation Dice (EMA weights where used)", ylim=(0, 1))
            right.legend(loc="upper right", fontsize=8)
        with atomic_path(self.folder / PLOT) as part:
            figure.savefig(part, format="png", dpi=110)

    def close(self) -> None:
        """Flush everything."""
        self.board.close()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a metrics.jsonl; a torn last line is left out."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows
