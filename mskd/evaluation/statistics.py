"""What the comparison's differences are worth: intervals, paired tests, ranks, and the share of a gap that is closed.

The unit is the case: seeds and folds are averaged per case first (`case_scores`), since runs on the same scan are
no further evidence. All of it is per dataset and role, per organ and for the mean over organs.

- Interval of a mean, of a difference, of a share: bootstrap over cases, bias-corrected and accelerated
  (Efron 1987; `scipy.stats.bootstrap`); it says nothing of the spread between trainings. The `mean` row resamples
  cases, all organs of a case together.
- Test: Wilcoxon's signed ranks on the cases that both methods have, two-sided (`scipy.stats.wilcoxon`), against one
  reference method; corrected by Holm (`statsmodels`) over the methods compared on one dataset, organ and measure.
  HD95 enters with the penalty for missed organs, or missing an organ would help.
- Marks: where the test is significant, in the direction of its signed ranks; none where the difference of the means
  points the other way (one case that went badly wrong can do that).
- Rank: of the Dice among the methods, over the cases that all of them scored (1 = best, ties share), averaged over
  cases; the mean row averages organs. The upper bound takes no part.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.multitest import multipletests

from mskd.evaluation.frames import MEAN_ORGAN
from mskd.evaluation.layout import BETTER, SIGNIFICANT, UPPER_BOUND, WORSE
from mskd.evaluation.tables import TIE_DECIMALS, case_scores

Values = NDArray[np.float64]  # cases × organs, NaN where a case lacks the organ
# The measures of a case: column of `case_scores`, name in the tables.
TESTED = {"dice": "dice", "hd95_penalised_mm": "hd95_penalised", "nsd": "nsd"}
STATISTICS_COLUMNS = (
    *("dice_rank", "dice_ci_low", "dice_ci_high", "dice_difference", "dice_direction", "dice_p", "dice_p_holm"),
    *("hd95_penalised_ci_low_mm", "hd95_penalised_ci_high_mm", "hd95_penalised_difference_mm"),
    *("hd95_penalised_direction", "hd95_penalised_p", "hd95_penalised_p_holm"),
    *("nsd_ci_low", "nsd_ci_high", "nsd_difference", "nsd_direction", "nsd_p", "nsd_p_holm"),
)
DIFFERENCE_COLUMNS = (
    *("method", "reference", "dataset", "role", "organ", "measure", "n"),
    *("difference", "ci_low", "ci_high", "direction", "p", "p_holm"),
)
GAP_COLUMNS = ("method", "dataset", "role", "organ", "n", "gap", "closed", "closed_ci_low", "closed_ci_high")
SEPARATE = "individual"
CONFIDENCE = 0.95
_BATCH = 10_000_000  # resampled values at a time


@dataclass(frozen=True)
class Procedure:
    """How the statistics are computed.

    Attributes:
        reference: The method that the others are tested against.
        resamples: Of the bootstrap.
        seed: Of the bootstrap; equal scores give equal tables.
    """

    reference: str = "mskd"
    resamples: int = 9999
    seed: int = 0


def add_statistics(table: pd.DataFrame, metrics: pd.DataFrame, procedure: Procedure) -> pd.DataFrame:
    """Return a comparison table with `STATISTICS_COLUMNS` after its own.

    Args:
        table: As `comparison_table` gives it.
        metrics: The rows of `metrics.csv` that it was made of.
        procedure: Reference and bootstrap.
    """
    found: dict[tuple[str, str, str, str], dict[str, Any]] = {}
    for (dataset, role), measures in _scores(metrics):
        tests = {
            (row["method"], row["organ"], row["measure"]): row
            for row in _differences(measures, procedure, dataset, role, intervals=False)
        }
        ranks = _ranks(measures["dice"])
        for method, organ in ((m, o) for m in measures["dice"] for o in [*measures["dice"][m].columns, MEAN_ORGAN]):
            row = found.setdefault((dataset, role, method, organ), {"dice_rank": ranks.get((method, organ), np.nan)})
            for column, name in TESTED.items():
                unit = "_mm" if column.endswith("_mm") else ""
                low, high = _interval(_chosen(measures[column][method], organ), _mean, procedure)
                test = tests.get((method, organ, name), {})
                row |= {f"{name}_ci_low{unit}": low, f"{name}_ci_high{unit}": high}
                row[f"{name}_difference{unit}"] = test.get("difference", np.nan)
                row |= {f"{name}_{kind}": test.get(kind, np.nan) for kind in ("direction", "p", "p_holm")}
    keys = table[["dataset", "role", "method", "organ"]].itertuples(index=False, name=None)
    columns = pd.DataFrame([found.get(key, {}) for key in keys], columns=list(STATISTICS_COLUMNS), dtype="float64")
    return pd.concat([table.reset_index(drop=True), columns], axis=1)


def difference_table(metrics: pd.DataFrame, procedure: Procedure) -> pd.DataFrame:
    """Return every method's difference to the reference (method − reference) with interval and test.

    Args:
        metrics: Rows as in `metrics.csv`.
        procedure: Reference and bootstrap.

    Returns:
        `DIFFERENCE_COLUMNS`: one row per dataset, role, organ (and the mean over organs), measure and method;
        Dice and NSD as fractions, HD95 in mm, missed organs penalised.
    """
    rows = [
        row
        for (dataset, role), measures in _scores(metrics)
        for row in _differences(measures, procedure, dataset, role, intervals=True)
    ]
    return pd.DataFrame(rows, columns=list(DIFFERENCE_COLUMNS))


def gap_table(metrics: pd.DataFrame, procedure: Procedure) -> pd.DataFrame:
    """Return which share of the gap in Dice between separate nets and full labels each method closes.

    closed = (method − individual) / (full_labels − individual), from means over cases that all three scored; NaN where
    there is no gap.

    Args:
        metrics: Rows as in `metrics.csv`.
        procedure: The bootstrap.

    Returns:
        `GAP_COLUMNS`; no rows where the study lacks one of the two ends. `gap` as a fraction of Dice.
    """
    rows = []
    for (dataset, role), measures in _scores(metrics):
        dice = measures["dice"]
        if not {SEPARATE, UPPER_BOUND} <= set(dice):
            continue
        for method in (name for name in dice if name not in (SEPARATE, UPPER_BOUND)):
            for organ in [*dice[method].columns, MEAN_ORGAN]:
                three = _common([_chosen(dice[name], organ) for name in (SEPARATE, method, UPPER_BOUND)])
                low, high = _interval(three, _closed, procedure)
                gap = float(_mean(three[2][None]).item() - _mean(three[0][None]).item())
                closed = float(_closed(three[:, None]).item())
                if not (gap > 0 and np.isfinite(closed)):  # separate nets are no worse than full labels
                    closed = low = high = np.nan
                rows.append(
                    {"method": method, "dataset": dataset, "role": role, "organ": organ, "n": _cases(three[0])}
                    | {"gap": gap, "closed": closed}
                    | {"closed_ci_low": low, "closed_ci_high": high}
                )
    return pd.DataFrame(rows, columns=list(GAP_COLUMNS))


def statistics_notes(metrics: pd.DataFrame, procedure: Procedure, name: str) -> list[str]:
    """Return the sentences that tables with statistics carry.

    Args:
        metrics: Rows as in `metrics.csv`.
        procedure: Reference and bootstrap.
        name: What the tables call the reference.
    """
    notes = [
        f"Intervals: {CONFIDENCE:.0%} of the mean, BCa bootstrap over cases ({procedure.resamples} resamples, seed "
        f"{procedure.seed}), folds and seeds averaged per case first."
    ]
    if procedure.reference in set(metrics["method"]) and metrics["method"].nunique() > 1:
        notes += [
            f"{WORSE} worse, {BETTER} better than {name}: paired Wilcoxon signed-rank test over cases, two-sided, p < "
            f"{SIGNIFICANT:g} after Holm's correction over the rows of one table, dataset, organ and measure.",
        ]
    if len(set(metrics["method"]) - {UPPER_BOUND}) > 1:
        notes.append(
            "Rank: of the Dice among the methods, 1 is best, averaged over cases that all have; the upper bound takes "
            "no part."
        )
    return notes


def _scores(metrics: pd.DataFrame) -> Iterator[tuple[tuple[str, str], dict[str, dict[str, pd.DataFrame]]]]:
    """Yield (dataset, role), measure → method → cases × organs that have a reference."""
    cases = case_scores(metrics)
    cases = cases[cases["present"]]
    for (dataset, role), rows in cases.groupby(["dataset", "role"], sort=True):
        measures = {
            column: {
                str(method): of_method.pivot(index="case", columns="organ", values=column).sort_index()
                for method, of_method in rows.groupby("method", sort=True)
            }
            for column in TESTED
        }
        yield (str(dataset), str(role)), measures


def _differences(
    measures: dict[str, dict[str, pd.DataFrame]], procedure: Procedure, dataset: str, role: str, *, intervals: bool
) -> Iterator[dict[str, Any]]:
    """Yield the rows of `difference_table` of one dataset, Holm's correction over the methods of a row's organ."""
    for column, name in TESTED.items():
        reference = measures[column].get(procedure.reference)
        if reference is None:
            continue
        others = [method for method in measures[column] if method != procedure.reference]
        for organ in [*reference.columns, MEAN_ORGAN]:
            rows, tested = [], []
            for method in others:
                if organ != MEAN_ORGAN and organ not in measures[column][method].columns:
                    continue
                pair = _common([_chosen(measures[column][method], organ), _chosen(reference, organ)])
                n = _cases(pair[0])
                if not n:
                    continue
                low, high = _interval(pair, _difference, procedure) if intervals else (np.nan, np.nan)
                sides = [np.nanmean(side, axis=1) for side in pair]
                tested.append(_wilcoxon(*sides))
                rows.append(
                    {"method": method, "reference": procedure.reference, "dataset": dataset, "role": role}
                    | {"organ": organ, "measure": name, "n": n, "difference": float(_difference(pair[:, None]).item())}
                    | {"ci_low": low, "ci_high": high, "direction": _direction(*sides), "p": tested[-1]}
                )
            corrected = _holm(tested) if tested else ()
            yield from ({**row, "p_holm": float(p)} for row, p in zip(rows, corrected, strict=True))


def _holm(p_values: list[float]) -> Values:
    """Return the p-values after Holm's correction."""
    gc.freeze()  # statsmodels collects garbage at every call, 0.15 s of it in a process that holds torch
    try:
        return np.asarray(multipletests(p_values, method="holm")[1])
    finally:
        gc.unfreeze()


def _ranks(dice: dict[str, pd.DataFrame]) -> dict[tuple[str, str], float]:
    """Return (method, organ) → mean rank of the Dice over the cases that every method scored."""
    ranked = {method: scores for method, scores in dice.items() if method != UPPER_BOUND}
    if len(ranked) < 2:
        return {}
    every = pd.concat(ranked, axis=1, join="inner")
    found: dict[tuple[str, str], float] = {}
    for organ in dict.fromkeys(every.columns.get_level_values(1)):
        values = pd.DataFrame(every.xs(organ, axis=1, level=1)).dropna()
        if values.empty or len(values.columns) < len(ranked):
            continue  # no case of this organ was scored by all
        for method, rank in values.rank(axis=1, ascending=False, method="average").mean().items():
            found[str(method), str(organ)] = float(rank)
    for method in ranked:
        own = [rank for (name, _), rank in found.items() if name == method]
        found[method, MEAN_ORGAN] = float(np.mean(own)) if own else np.nan
    return found


def _chosen(scores: pd.DataFrame, organ: str) -> pd.DataFrame:
    """Return cases × (one organ, or all for the mean row)."""
    return scores if organ == MEAN_ORGAN else scores[[organ]].dropna()


def _common(sides: list[pd.DataFrame]) -> Values:
    """Return (methods, cases, organs) of what all methods have: cases that one lacks are left out, and organs."""
    joined = pd.concat(dict(enumerate(sides)), axis=1, join="inner")
    organs = [organ for organ in sides[0].columns if all(organ in side.columns for side in sides)]
    stacked = np.stack([joined[i][organs].to_numpy(dtype=np.float64) for i in range(len(sides))])
    stacked[:, np.isnan(stacked).any(axis=0)] = np.nan
    return stacked[:, ~np.isnan(stacked[0]).all(axis=1)]


def _cases(values: Values) -> int:
    return len(values)


def _mean(values: Values) -> Values:
    """Return (…, cases, organs) → (…,): the mean over organs of their means over cases."""
    with warnings.catch_warnings():  # a resample may hold no case of a rare organ: the others decide
        warnings.simplefilter("ignore", RuntimeWarning)
        mean: Values = np.nanmean(np.nanmean(values, axis=-2), axis=-1)
    return mean


def _difference(values: Values) -> Values:
    """Return (2, …, cases, organs) → (…,): method − reference."""
    return _mean(values[0]) - _mean(values[1])


def _closed(values: Values) -> Values:
    """Return (3, …, cases, organs) of separate nets, a method, full labels → (…,) share of the gap."""
    separate, method, bound = (_mean(side) for side in values)
    with np.errstate(divide="ignore", invalid="ignore"):
        share: Values = (method - separate) / (bound - separate)
    return share


def _interval(
    values: pd.DataFrame | Values, statistic: Callable[[Values], Values], procedure: Procedure
) -> tuple[float, float]:
    """Return the bootstrap interval of a statistic over cases, the axis before the last; NaN for fewer than two."""
    array: Values = values.to_numpy(dtype=np.float64) if isinstance(values, pd.DataFrame) else values
    n = array.shape[-2]
    if n < 2:
        return np.nan, np.nan

    def of_cases(cases: NDArray[np.int64], axis: int = -1) -> Values:
        return statistic(array[..., np.moveaxis(cases, axis, -1), :])

    point = statistic(array[..., None, :, :]).item()
    if not np.isfinite(point):
        return np.nan, np.nan
    with warnings.catch_warnings():  # every resample equal: the interval is the point, below
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        found = stats.bootstrap(
            (np.arange(n),),
            of_cases,
            vectorized=True,
            n_resamples=procedure.resamples,
            confidence_level=CONFIDENCE,
            batch=max(1, _BATCH // max(1, array.size)),
            rng=np.random.default_rng(procedure.seed),
        )
    low, high = (float(end) for end in found.confidence_interval)
    spread = found.bootstrap_distribution[np.isfinite(found.bootstrap_distribution)]
    if np.isnan(low) and len(spread) and np.ptp(spread) < 1e-12:
        return point, point
    return low, high


def _direction(first: Values, second: Values) -> float:
    """Return the sign of the signed ranks' sum: 1 where the first is higher in the sense of the test."""
    difference = np.round(first - second, TIE_DECIMALS)
    return float(np.sign((np.sign(difference) * stats.rankdata(np.abs(difference))).sum()))


def _wilcoxon(first: Values, second: Values) -> float:
    """Return the two-sided p of paired scores; 1 where no pair differs."""
    difference = np.round(first - second, TIE_DECIMALS)
    return float(stats.wilcoxon(difference).pvalue) if difference.any() else 1.0
