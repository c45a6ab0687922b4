"""How a comparison table reads: formatted cells, its long and wide forms, the printout in a terminal."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from mskd.evaluation.frames import MEAN_ORGAN

if TYPE_CHECKING:
    from rich.table import Table

NO_VALUE = "–"
# The measures as people read them: heading, column of the mean, column of the deviation, factor, decimals.
MEASURES: tuple[tuple[str, str, str | None, float, int], ...] = (
    ("Dice, %", "dice_mean", "dice_std", 100.0, 2),
    ("HD95 found, mm", "hd95_mean_mm", "hd95_std_mm", 1.0, 2),
    ("HD95 penalised, mm", "hd95_penalised_mean_mm", None, 1.0, 2),
    ("NSD, %", "nsd_mean", "nsd_std", 100.0, 2),
)
# Mean column → the name that its statistics bear (`mskd.evaluation.statistics`).
TESTED_MEANS = {"dice_mean": "dice", "hd95_penalised_mean_mm": "hd95_penalised", "nsd_mean": "nsd"}
# What tables show of the statistics beside the marks: heading → the column it sorts by.
STATISTICS = {"95 % CI of Dice": "dice_ci_low", "p of Dice": "dice_p_holm", "rank": "dice_rank"}
SIGNIFICANT = 0.05
WORSE, BETTER = "†", "‡"
COUNTS = {"n": "n", "missed": "n_missed", "spurious": "n_spurious"}
# Trained on labels that the other methods do not see: a bound, never "the best method".
UPPER_BOUND = "full_labels"


def mean_and_deviation(mean: float, deviation: float | None, factor: float, decimals: int) -> str:
    """Format `mean ± deviation`, both times `factor`; without a deviation the mean alone."""
    if math.isnan(mean):
        return NO_VALUE
    text = f"{mean * factor:.{decimals}f}"
    if deviation is None or math.isnan(deviation):
        return text
    return f"{text} ± {deviation * factor:.{decimals}f}"


def long_form(table: pd.DataFrame, labels: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Return the rows of one dataset with formatted cells: method, organ, counts, measures, statistics if known.

    Args:
        table: rows of a comparison table, of one dataset and role.
        labels: names to show instead of method ids.
    """
    names = labels or {}
    columns: dict[str, list[str]] = {
        "method": [names.get(method, method) for method in table["method"]],
        "organ": [str(organ) for organ in table["organ"]],
    }
    for heading, column in COUNTS.items():
        columns[heading] = [str(int(count)) for count in table[column]]
    for heading, mean, deviation, factor, decimals in MEASURES:
        deviations = [None] * len(table) if deviation is None else list(table[deviation])
        columns[heading] = [
            mean_and_deviation(value, spread, factor, decimals) + mark
            for value, spread, mark in zip(table[mean], deviations, marks(table, mean), strict=True)
        ]
        if mean == "dice_mean":
            for statistic, column in shown_statistics(table).items():
                columns[statistic] = [statistic_text(column, row) for row in table.to_dict("records")]
    return pd.DataFrame(columns, dtype=object)


def marks(table: pd.DataFrame, mean: str) -> list[str]:
    """Return per row whether scores differ from the reference method's: † worse, ‡ better, else nothing.

    Only where the test is significant, and the means differ in its direction.
    """
    name, unit = TESTED_MEANS.get(mean), "_mm" if mean.endswith("_mm") else ""
    if f"{name}_p_holm" not in table:
        return [""] * len(table)
    better = -1 if unit else 1  # distances: the lower the better
    columns = (f"{name}_p_holm", f"{name}_difference{unit}", f"{name}_direction")
    found = []
    for p, difference, direction in zip(*(table[column] for column in columns), strict=True):
        agree = difference * direction > 0
        found.append((BETTER if direction == better else WORSE) if p < SIGNIFICANT and agree else "")
    return found


def shown_statistics(table: pd.DataFrame) -> dict[str, str]:
    """Return heading → column of the statistics that any row has."""
    return {heading: c for heading, c in STATISTICS.items() if c in table and table[c].notna().any()}


def statistic_text(column: str, row: Mapping[Hashable, Any]) -> str:
    """Format one statistic of a row."""
    if math.isnan(row[column]):
        return NO_VALUE
    if column == "dice_ci_low":
        return interval_text(row["dice_ci_low"], row["dice_ci_high"], 100.0, 2)
    if column == "dice_p_holm":
        return p_text(row[column])
    return f"{row[column]:.2f}"


def interval_text(low: float, high: float, factor: float, decimals: int) -> str:
    """Format an interval, both ends times `factor`."""
    if math.isnan(low) or math.isnan(high):
        return NO_VALUE
    shown = [round(end * factor, decimals) + 0.0 for end in (low, high)]  # no "-0.00"
    return f"[{shown[0]:.{decimals}f}, {shown[1]:.{decimals}f}]"


def p_text(p: float) -> str:
    """Format a p value."""
    return NO_VALUE if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def wide_form(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return one measure with methods as rows and organs as columns, `mean` last, in the order of the table.

    Args:
        table: rows of a comparison table, of one dataset and role.
        column: the column of the table to spread, for example `dice_mean`.
    """
    organs = [organ for organ in dict.fromkeys(table["organ"]) if organ != MEAN_ORGAN]
    spread = table.pivot(index="method", columns="organ", values=column)
    return spread.reindex(index=list(dict.fromkeys(table["method"])), columns=[*organs, MEAN_ORGAN])


def of_dataset(table: pd.DataFrame, dataset: str, role: str) -> pd.DataFrame:
    """Return the rows of one dataset in one role."""
    return table[(table["dataset"] == dataset) & (table["role"] == role)].reset_index(drop=True)


def best_methods(table: pd.DataFrame, column: str, *, highest: bool) -> dict[str, set[str]]:
    """Return per organ the methods with the best value (all that tie); the upper bound takes no part."""
    ranked = table[table["method"] != UPPER_BOUND]
    best: dict[str, set[str]] = {}
    for organ, rows in ranked.groupby("organ", sort=False):
        values = rows[column]
        target = values.max() if highest else values.min()
        best[str(organ)] = set(rows.loc[values == target, "method"])
    return best


def terminal_table(table: pd.DataFrame, dataset: str, role: str, labels: Mapping[str, str] | None = None) -> Table:
    """Return the Dice of one dataset for the terminal: methods as rows; organs, mean and counts as columns.

    Args:
        table: a comparison table.
        dataset: which dataset to show.
        role: in which role.
        labels: names to show instead of method ids.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    names = labels or {}
    rows = of_dataset(table, dataset, role)
    dice = wide_form(rows, "dice_mean")
    best = best_methods(rows, "dice_mean", highest=True)
    shown = Table(title=Text(f"Dice in % on {dataset} ({role})"), title_justify="left", box=box.SIMPLE_HEAD)
    shown.add_column("method", no_wrap=True)
    for organ in dice.columns:
        shown.add_column(Text(str(organ)), justify="right")
    for heading in COUNTS:
        shown.add_column(heading, justify="right")
    means = rows[rows["organ"] == MEAN_ORGAN].set_index("method")
    for method, values in dice.iterrows():
        # Text, not str: a dataset or organ called "[red]" is a name, not markup.
        cells = [Text(names.get(str(method), str(method)))]
        for name, value in values.items():
            style = "bold" if method in best.get(str(name), set()) else ""
            cells.append(Text(mean_and_deviation(float(value), None, 100.0, 2), style=style))
        cells += [Text(str(means.loc[str(method), column])) for column in COUNTS.values()]
        shown.add_row(*cells)
    return shown
