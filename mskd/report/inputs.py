"""What the report shows, as plain values; whoever calls it gathers them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd


@dataclass(frozen=True)
class TrainingCurve:
    """The progress of one model.

    Attributes:
        label: name in the legend; runs of one model share it, and its colour.
        path: a `.jsonl` file; each row an object with `step` and any of `loss`, `val_dice`, `time`.
        group: curves of a group are drawn together, teachers apart from students.
    """

    label: str
    path: Path
    group: str = ""


@dataclass(frozen=True)
class WorstCase:
    """A case to look at.

    Attributes:
        title: method, case and organ.
        caption: the scores, and whatever else the reader should know.
        image: PNG of `overlay_figure`.
    """

    title: str
    caption: str
    image: Path


@dataclass(frozen=True)
class ExtraTable:
    """A further table (ablation, cost, statistics) in the order and the words in which it is to be read.

    Attributes:
        title: heading.
        caption: one or two sentences under the heading.
        frame: cells as they are shown; numbers sort as numbers.
    """

    title: str
    caption: str
    frame: pd.DataFrame


@dataclass(frozen=True)
class ReportInputs:
    """Everything that the page shows.

    Attributes:
        study: name of the study.
        metrics: rows as in `metrics.csv`.
        table: the comparison table of these rows.
        notes: sentences under the tables: definition of HD95, tolerance, label maps.
        labels: names to show instead of method ids.
        organs: order of the organs in plots; default: by name.
        primary: the dataset and role that decide the winner; default: the first external dataset, else
            the first.
        curves: training curves of all models.
        worst_cases: cases with overlaid contours.
        ablation: the table of the rows that differ from the method in one choice; empty: none.
        differences: differences of the comparison to the reference row (`statistics.difference_table`).
        ablation_differences: those of the ablation.
        gap: shares of the gap between separate nets and full labels (`gap_table`).
        reference: the row that the others are tested against.
        viewer: page beside the report that shows volumes, or None.
        extra_tables: further tables.
        configuration_yaml: the configuration that made the study.
        versions: what made it: mskd, torch, … and their versions.
    """

    study: str
    metrics: pd.DataFrame
    table: pd.DataFrame
    notes: Sequence[str] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    organs: Sequence[str] = ()
    primary: tuple[str, str] | None = None
    curves: Sequence[TrainingCurve] = ()
    worst_cases: Sequence[WorstCase] = ()
    ablation: pd.DataFrame = field(default_factory=pd.DataFrame)
    differences: pd.DataFrame = field(default_factory=pd.DataFrame)
    ablation_differences: pd.DataFrame = field(default_factory=pd.DataFrame)
    gap: pd.DataFrame = field(default_factory=pd.DataFrame)
    reference: str = "mskd"
    viewer: str | None = None
    extra_tables: Sequence[ExtraTable] = ()
    configuration_yaml: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
