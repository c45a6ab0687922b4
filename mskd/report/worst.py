"""Which cases to look at."""

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


def spread_of_cases(metrics: pd.DataFrame, method: str, dataset: str, role: str) -> list[WorstScore]:
    """Return the worst, the middle and the best case of a method's first run, by the mean Dice over organs.

    Args:
        metrics: rows as in `metrics.csv`.
        method: whose scores.
        dataset: of which dataset.
        role: in which role.
    """
    rows = metrics[(metrics["method"] == method) & (metrics["dataset"] == dataset) & (metrics["role"] == role)]
    rows = rows[rows["status"].isin(["scored", "missed"])]
    if rows.empty:
        return []
    fold, seed = min(zip(rows["fold"], rows["seed"], strict=True))
    rows = rows[(rows["fold"] == fold) & (rows["seed"] == seed)]
    means = rows.groupby("case")["dice"].mean().sort_values(kind="stable")
    places = dict.fromkeys([0, len(means) // 2, len(means) - 1])
    return [
        WorstScore(
            method=method,
            fold=int(fold),
            seed=int(seed),
            dataset=dataset,
            role=role,
            case=str(means.index[place]),
            organ="",
            dice=float(means.iloc[place]),
            status="scored",
        )
        for place in places
    ]
