"""The comparison: one row per method, dataset and organ, and one `mean` row per method and dataset.

How runs and cases are counted. Seeds and folds are averaged per case first, so a case counts once however
many runs scored it: n = cases whose reference has the organ. n_missed = cases that at least one run missed;
n_spurious = cases without the organ in which at least one run found it. Means and standard deviations
(n − 1) are over cases. HD95 is averaged over the runs that found the organ; the penalised mean gives a run
that missed it the diagonal of the scan instead.

The `mean` row: the mean over organs of the organs' means, so that a rare organ counts as much as a common
one. Its standard deviation is that of the case means (each the mean over the organs of the case), its n the
cases with at least one organ present; n_missed and n_spurious are sums over organs. An organ that no reference
of a dataset has keeps a row (n = 0, no scores) where some method found it.

Datasets are never pooled, nor are the roles of a dataset.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from mskd.evaluation.frames import MEAN_ORGAN

KEY_COLUMNS = ("method", "dataset", "organ")
COUNT_COLUMNS = ("n", "n_missed", "n_spurious")
VALUE_COLUMNS = (
    *("dice_mean", "dice_std", "hd95_mean_mm", "hd95_std_mm", "hd95_penalised_mean_mm"),
    *("nsd_mean", "nsd_std"),
)
TABLE_COLUMNS = (*KEY_COLUMNS, *COUNT_COLUMNS, *VALUE_COLUMNS, "role")
# The order in which a reader expects the methods: separate nets, baselines, upper bound, ours.
METHOD_ORDER = (
    *("individual", "naive_union", "partial", "marginal_exclusion", "multi_head", "dodnet"),
    *("self_training", "conditional_distillation", "co_training", "full_labels", "mskd"),
)
TIE_DECIMALS = 9
_CASE_KEY = ["method", "dataset", "role", "organ", "case"]
_CASE_VALUES = ["dice", "hd95_mm", "hd95_penalised_mm", "nsd"]


def case_scores(metrics: pd.DataFrame) -> pd.DataFrame:
    """Average the runs (folds and seeds) of every case; statistics start from here too.

    Args:
        metrics: rows as in `metrics.csv`.

    Returns:
        One row per method, dataset, role, organ and case: `present` (bool), `missed` and `spurious` (bool,
        in at least one run), and the means over runs `dice`, `hd95_mm` (runs that found the organ; NaN
        without one), `hd95_penalised_mm`, `nsd` (NaN where the organ is not present).
    """
    rows = metrics.assign(
        present=metrics["status"].isin(["scored", "missed"]),
        missed=metrics["status"] == "missed",
        spurious=metrics["status"] == "spurious",
        hd95_penalised_mm=metrics["hd95_mm"].where(metrics["status"] != "missed", metrics["scan_diagonal_mm"]),
    )
    scores = rows.groupby(_CASE_KEY, sort=False, as_index=False).agg(
        present=("present", "any"),
        missed=("missed", "any"),
        spurious=("spurious", "any"),
        dice=("dice", "mean"),
        hd95_mm=("hd95_mm", "mean"),
        hd95_penalised_mm=("hd95_penalised_mm", "mean"),
        nsd=("nsd", "mean"),
    )
    # equal means of runs in another order differ by 1e-16: ranks and tests are to see a tie
    scores[_CASE_VALUES] = scores[_CASE_VALUES].round(TIE_DECIMALS)
    return scores


def comparison_table(
    metrics: pd.DataFrame,
    *,
    methods: Sequence[str] | None = None,
    datasets: Sequence[str] | None = None,
    organs: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Return the comparison table (see the module's text for what each row means).

    Args:
        metrics: rows as in `metrics.csv`.
        methods: order of the methods; default: `METHOD_ORDER`, then others by name.
        datasets: order of the datasets; default: by name.
        organs: order of the organs; default: by name.

    Returns:
        Rows ordered by dataset, role, method, organ, `mean` last, with `TABLE_COLUMNS`. Counts are integers;
        a value that does not exist (HD95 of an organ that no run found, a deviation of one case) is NaN.
    """
    cases = case_scores(metrics)
    found = cases[cases["present"] | cases["spurious"]]
    shown = set(found[["dataset", "role", "organ"]].itertuples(index=False, name=None))
    rows: list[dict[str, object]] = []
    for (method, dataset, role), group in cases.groupby(["method", "dataset", "role"], sort=False):
        where = {"method": str(method), "dataset": str(dataset), "role": str(role)}
        organ_rows = [
            {**where, "organ": str(organ), **_summary(of_organ)}
            for organ, of_organ in group.groupby("organ", sort=False)
            if (dataset, role, organ) in shown
        ]
        rows += organ_rows
        if organ_rows:
            rows.append({**where, "organ": MEAN_ORGAN, **_mean_summary(group, pd.DataFrame(organ_rows))})
    table = pd.DataFrame(rows, columns=list(TABLE_COLUMNS))
    table = table.astype(dict.fromkeys(COUNT_COLUMNS, "int64") | dict.fromkeys(VALUE_COLUMNS, "float64"))
    return _ordered(table, methods, datasets, organs)


def dataset_titles(table: pd.DataFrame) -> list[tuple[str, str]]:
    """Return the pairs (dataset, role) of a comparison table in the order of its rows."""
    pairs = table[["dataset", "role"]].drop_duplicates()
    return [(str(dataset), str(role)) for dataset, role in pairs.itertuples(index=False)]


def _summary(cases: pd.DataFrame) -> dict[str, object]:
    """Summarise the cases of one organ."""
    present = cases[cases["present"]]
    return {
        "n": len(present),
        "n_missed": int(present["missed"].sum()),
        "n_spurious": int(cases["spurious"].sum()),
        **_moments(present),
    }


def _mean_summary(cases: pd.DataFrame, organ_rows: pd.DataFrame) -> dict[str, object]:
    """Summarise all organs: means over the organs' means, deviations over the cases' means."""
    present = cases[cases["present"]]
    case_means = present.groupby("case", sort=False)[_CASE_VALUES].mean()
    summary = _moments(case_means)
    for column in VALUE_COLUMNS:
        if "mean" in column:
            summary[column] = float(organ_rows[column].mean())
    return {
        "n": len(case_means),
        "n_missed": int(present["missed"].sum()),
        "n_spurious": int(cases["spurious"].sum()),
        **summary,
    }


def _moments(values: pd.DataFrame) -> dict[str, float]:
    """Return mean and standard deviation (n − 1) over the rows, empty values left out."""
    return {
        "dice_mean": float(values["dice"].mean()),
        "dice_std": float(values["dice"].std()),
        "hd95_mean_mm": float(values["hd95_mm"].mean()),
        "hd95_std_mm": float(values["hd95_mm"].std()),
        "hd95_penalised_mean_mm": float(values["hd95_penalised_mm"].mean()),
        "nsd_mean": float(values["nsd"].mean()),
        "nsd_std": float(values["nsd"].std()),
    }


def _ordered(
    table: pd.DataFrame,
    methods: Sequence[str] | None,
    datasets: Sequence[str] | None,
    organs: Sequence[str] | None,
) -> pd.DataFrame:
    """Sort the rows for reading; names that an order lacks follow it by name."""
    ranks = pd.DataFrame(
        {
            "dataset": _rank(table["dataset"], datasets or ()),
            "role": _rank(table["role"], ()),
            "method": _rank(table["method"], methods or METHOD_ORDER),
            "is_mean": table["organ"] == MEAN_ORGAN,
            "organ": _rank(table["organ"], organs or ()),
        }
    )
    order = ranks.sort_values(["dataset", "role", "method", "is_mean", "organ"], kind="stable").index
    return table.loc[order].reset_index(drop=True)


def _rank(names: pd.Series[str], order: Sequence[str]) -> pd.Series[int]:
    known = list(dict.fromkeys(order))
    full = known + sorted(set(names) - set(known))
    return names.map({name: rank for rank, name in enumerate(full)})
