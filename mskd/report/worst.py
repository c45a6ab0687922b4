"""Which cases to look at first."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class WorstScore:
    """The run, case and organ of a low score."""

    method: str
    fold: int
    seed: int
    dataset: str
    role: str
    case: str
    organ: str
    dice: float
    status: str


def worst_scores(metrics: pd.DataFrame, method: str, *, count: int = 6) -> list[WorstScore]:
    """Return the lowest Dice scores of a method, worst first, each case once (its worst organ and run).

    Args:
        metrics: rows as in `metrics.csv`.
        method: whose scores.
        count: at most so many.
    """
    rows = metrics[(metrics["method"] == method) & metrics["status"].isin(["scored", "missed"])]
    order = ["dice", "dataset", "case", "organ", "fold", "seed"]
    worst = rows.sort_values(order, kind="stable").drop_duplicates(["dataset", "case"]).head(count)
    return [
        WorstScore(
            method=method,
            fold=int(row["fold"]),
            seed=int(row["seed"]),
            dataset=str(row["dataset"]),
            role=str(row["role"]),
            case=str(row["case"]),
            organ=str(row["organ"]),
            dice=float(row["dice"]),
            status=str(row["status"]),
        )
        for row in worst.to_dict("records")
    ]
