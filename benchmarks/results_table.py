"""The tables of docs/results.md from the scores of a finished study (`results/<study>/metrics.csv`).

    python benchmarks/results_table.py benchmarks/results/phantom_benchmark.csv --role external

Of several files each is another training of the same study: its seeds count as further runs. Datasets of one role are
pooled: their cases are different patients, and the same networks are scored on them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from mskd.evaluation.frames import read_metrics
from mskd.evaluation.layout import p_text
from mskd.evaluation.statistics import Procedure, add_statistics, difference_table, gap_table
from mskd.evaluation.tables import comparison_table
from mskd.markdown import pipe_table
from mskd.methods.registry import method_facts, method_kinds

MEAN = "mean"


def results_table(metrics: pd.DataFrame, procedure: Procedure) -> str:
    """Return Dice in % per organ, each seed's mean, rank, and how far the reference is ahead, best mean first.

    Args:
        metrics: Rows of `metrics.csv` of one dataset and role.
        procedure: Reference and bootstrap.
    """
    organs = list(dict.fromkeys(metrics["organ"]))
    table = add_statistics(comparison_table(metrics, organs=organs), metrics, procedure).set_index(["method", "organ"])
    ahead = difference_table(metrics, procedure)
    ahead = ahead[(ahead["measure"] == "dice") & (ahead["organ"] == MEAN)].set_index("method")
    of_seed = metrics.groupby(["method", "seed", "organ"])["dice"].mean().groupby(level=[0, 1]).mean() * 100
    rows = []
    for method in table.xs(MEAN, level="organ").sort_values("dice_mean", ascending=False).index:
        cells = [
            f"{100 * row['dice_mean']:.1f}" + ("*" if row["dice_p_holm"] < 0.05 else "")
            for row in (table.loc[(method, organ)] for organ in [*organs, MEAN])
        ]
        cells[-1] += f" ({', '.join(f'{seed:.1f}' for seed in of_seed.loc[method])})"
        row = table.loc[(method, MEAN)]
        cells.append(f"{100 * row['dice_ci_low']:.1f}–{100 * row['dice_ci_high']:.1f}")
        cells.append("–" if pd.isna(row["dice_rank"]) else f"{row['dice_rank']:.1f}")
        cells.append(_ahead(ahead.loc[method]) if method in ahead.index else "")
        rows.append([method_facts(method).title if method in method_kinds() else method, *cells])
    heads = ["method", *organs, "mean (each seed)", "95 % CI", "rank", f"{procedure.reference} ahead by [95 % CI], p"]
    return pipe_table(heads, rows).replace("\\*", "*").replace("\\[", "[").replace("\\]", "]")


def _ahead(row: pd.Series) -> str:
    """Return how far the reference is ahead, which is the other sign of what the table of differences says."""
    low, high = -100 * row["ci_high"], -100 * row["ci_low"]
    return f"{-100 * row['difference']:+z.1f} [{low:+z.1f}, {high:+z.1f}], {p_text(row['p_holm'])}"


def several_trainings(trainings: list[pd.DataFrame]) -> pd.DataFrame:
    """Return all rows, the seeds of each training above those of the ones before."""
    shifted, first = [], 0
    for metrics in trainings:
        shifted.append(metrics.assign(seed=metrics["seed"] + first))
        first += int(metrics["seed"].max()) + 1
    return pd.concat(shifted, ignore_index=True)


def main() -> None:
    """Print table and gap."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("metrics", type=Path, nargs="+")
    parser.add_argument("--role", default="external", help="of the datasets' cases: external or test")
    parser.add_argument("--methods", nargs="+", help="rows to compare beside each other; default: all")
    options = parser.parse_args()
    metrics = several_trainings([read_metrics(path) for path in options.metrics])
    metrics = metrics[metrics["role"] == options.role]
    if options.methods:
        if unknown := set(options.methods) - set(metrics["method"]):
            parser.error(
                f"no rows of {', '.join(sorted(unknown))}; there are {', '.join(sorted(set(metrics['method'])))}"
            )
        metrics = metrics[metrics["method"].isin(options.methods)]
    metrics = metrics.assign(case=metrics["dataset"] + "/" + metrics["case"], dataset="pooled")
    compared = metrics["method"].isin(method_kinds())
    print(f"{metrics['case'].nunique()} cases of {options.role}\n\n{results_table(metrics[compared], Procedure())}\n")
    if not compared.all():  # rows of an ablation are tested beside each other, not beside the methods
        ablated = metrics[~compared | (metrics["method"] == Procedure.reference)]
        print(f"{results_table(ablated, Procedure())}\n")
    gap = gap_table(metrics[compared], Procedure())
    for row in gap[gap["organ"] == MEAN].itertuples():
        interval = f"[{row.closed_ci_low:.0%}, {row.closed_ci_high:.0%}]"
        print(f"{row.method}: {row.closed:.0%} {interval} of the gap of {100 * row.gap:.1f} points")


if __name__ == "__main__":
    main()
