"""Intervals, paired tests, ranks and closed gaps: against closed forms, exact distributions and hand-made tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mskd.evaluation.formats import write_tables
from mskd.evaluation.frames import concatenate, score_frame
from mskd.evaluation.layout import BETTER, WORSE, long_form, marks, p_text
from mskd.evaluation.metrics import OrganScore
from mskd.evaluation.statistics import (
    STATISTICS_COLUMNS,
    Procedure,
    add_statistics,
    difference_table,
    gap_table,
    statistics_notes,
)
from mskd.evaluation.tables import TABLE_COLUMNS, comparison_table

QUICK = Procedure(resamples=999)


def scores(method: str, dice: Mapping[str, Sequence[float | None]], seed: int = 0) -> pd.DataFrame:
    """Rows of a method; None: the case lacks the organ; HD95 = 10 − 10 · Dice mm."""
    frames = []
    for number in range(len(next(iter(dice.values())))):
        organs = []
        for organ, values in dice.items():
            value = values[number]
            if value is None:
                organs.append(OrganScore(organ, None, None, None, "absent"))
            elif value == 0:
                organs.append(OrganScore(organ, 0.0, None, 0.0, "missed"))
            else:
                organs.append(OrganScore(organ, value, 10 - 10 * value, value, "scored"))
        frames.append(
            score_frame(
                organs,
                study="s",
                method=method,
                fold=0,
                seed=seed,
                dataset="multi",
                role="external",
                case=f"multi/{number}",
                scan_diagonal_mm=500.0,
            )
        )
    return concatenate(frames)


def row(table: pd.DataFrame, method: str, organ: str, **where: str) -> pd.Series:
    chosen = table[(table["method"] == method) & (table["organ"] == organ)]
    for column, value in where.items():
        chosen = chosen[chosen[column] == value]
    assert len(chosen) == 1
    return chosen.iloc[0]


def test_every_pair_better_gives_the_exact_p_of_the_signs() -> None:
    """Six pairs of one sign: 2 of the 2⁶ arrangements are as extreme, p = 1/32; Holm doubles the smaller of two."""
    ours = [0.80, 0.81, 0.82, 0.83, 0.84, 0.85]
    worse = [value - 0.01 * (i + 1) for i, value in enumerate(ours)]
    mixed = [value + 0.01 * (-1) ** i * (i + 1) for i, value in enumerate(ours)]
    metrics = concatenate([scores(m, {"liver": v}) for m, v in (("mskd", ours), ("partial", worse), ("dodnet", mixed))])
    table = difference_table(metrics, QUICK)
    found = row(table, "partial", "liver", measure="dice")
    assert found["p"] == pytest.approx(2 / 64)
    assert found["p_holm"] == pytest.approx(2 * 2 / 64)
    assert found["difference"] == pytest.approx(-0.035)
    assert found["n"] == 6
    assert row(table, "dodnet", "liver", measure="dice")["p_holm"] > 0.5
    assert row(table, "partial", "liver", measure="hd95_penalised")["difference"] == pytest.approx(0.35)


def test_seeds_count_once() -> None:
    """Three seeds of six cases are six pairs: the p of 18 pairs would be 2⁻¹⁷."""
    frames = []
    for seed in range(3):
        frames.append(scores("mskd", {"liver": [0.8 + 0.01 * i for i in range(6)]}, seed))
        frames.append(scores("partial", {"liver": [0.7 + 0.012 * i + 0.001 * seed for i in range(6)]}, seed))
    found = row(difference_table(concatenate(frames), QUICK), "partial", "liver", measure="dice")
    assert found["n"] == 6
    assert found["p"] == pytest.approx(2 / 64)


def test_interval_of_a_mean_agrees_with_the_normal_one_for_many_cases() -> None:
    values = np.random.default_rng(1).normal(0.7, 0.05, 400).clip(0.01, 1)
    metrics = scores("mskd", {"liver": list(values)})
    found = row(add_statistics(comparison_table(metrics), metrics, Procedure()), "mskd", "liver")
    half = 1.96 * values.std(ddof=1) / math.sqrt(len(values))
    assert found["dice_ci_low"] == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found["dice_ci_high"] == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_equal_cases_have_an_interval_of_one_point_and_one_case_has_none() -> None:
    metrics = scores("mskd", {"liver": [0.9] * 5})
    found = row(add_statistics(comparison_table(metrics), metrics, QUICK), "mskd", "liver")
    assert (found["dice_ci_low"], found["dice_ci_high"]) == pytest.approx((0.9, 0.9))
    metrics = scores("mskd", {"liver": [0.9]})
    found = row(add_statistics(comparison_table(metrics), metrics, QUICK), "mskd", "liver")
    assert math.isnan(found["dice_ci_low"])


def test_identical_methods_do_not_differ() -> None:
    values = {"liver": [0.9, 0.8, 0.7]}
    metrics = concatenate([scores("mskd", values), scores("partial", values)])
    found = row(difference_table(metrics, QUICK), "partial", "liver", measure="dice")
    assert (found["p"], found["difference"], found["ci_low"], found["ci_high"]) == (1, 0, 0, 0)


def test_ranks_share_ties_and_leave_the_bound_out() -> None:
    metrics = concatenate(
        [
            scores("mskd", {"liver": [0.9, 0.9], "spleen": [0.5, 0.5]}),
            scores("partial", {"liver": [0.9, 0.8], "spleen": [0.6, 0.6]}),
            scores("full_labels", {"liver": [0.99, 0.99], "spleen": [0.99, 0.99]}),
        ]
    )
    table = add_statistics(comparison_table(metrics), metrics, QUICK)
    assert row(table, "mskd", "liver")["dice_rank"] == pytest.approx((1.5 + 1) / 2)
    assert row(table, "mskd", "spleen")["dice_rank"] == pytest.approx(2)
    assert row(table, "mskd", "mean")["dice_rank"] == pytest.approx((1.25 + 2) / 2)
    assert math.isnan(row(table, "full_labels", "mean")["dice_rank"])


def test_equal_runs_in_another_order_tie() -> None:
    """Means of the same three numbers in another order differ by rounding, which is no rank and no difference."""
    runs = [0.64, 0.27, 0.04]
    assert np.mean(runs) != np.mean(runs[::-1])
    metrics = concatenate(
        [scores("partial", {"liver": [dice] * 2}, seed) for seed, dice in enumerate(runs)]
        + [scores("mskd", {"liver": [dice] * 2}, seed) for seed, dice in enumerate(reversed(runs))]
    )
    table = add_statistics(comparison_table(metrics), metrics, QUICK)
    assert list(table["dice_rank"]) == [1.5] * 4
    assert row(table, "partial", "liver")["dice_p"] == 1.0


def test_an_organ_that_is_found_where_no_reference_has_it_keeps_a_row() -> None:
    metrics = concatenate([scores(m, {"liver": [0.8, 0.9], "spleen": [None, None]}) for m in ("mskd", "partial")])
    metrics.loc[(metrics["organ"] == "spleen") & (metrics["method"] == "partial"), "status"] = "spurious"
    table = add_statistics(comparison_table(metrics), metrics, QUICK)
    for method, found in (("mskd", 0), ("partial", 2)):
        for organ in ("spleen", "mean"):
            assert row(table, method, organ)["n_spurious"] == found
        assert row(table, method, "spleen")["n"] == 0
        assert math.isnan(row(table, method, "spleen")["dice_mean"])
        assert row(table, method, "mean")["dice_mean"] == pytest.approx(0.85)
    assert "partial" in long_form(table).to_csv()


def test_the_mean_row_averages_organs_and_pairs_cases() -> None:
    """A rare organ counts as much as a common one; differences are those of the comparison table."""
    ours = {"liver": [0.9, 0.8, 0.7, 0.9], "spleen": [0.5, None, None, 0.7]}
    other = {"liver": [0.8, 0.8, 0.6, 0.7], "spleen": [0.4, None, None, 0.5]}
    metrics = concatenate([scores("mskd", ours), scores("partial", other)])
    table = add_statistics(comparison_table(metrics), metrics, QUICK)
    means = [row(table, name, "mean")["dice_mean"] for name in ("mskd", "partial")]
    assert means == pytest.approx([(0.825 + 0.6) / 2, (0.725 + 0.45) / 2])
    found = row(difference_table(metrics, QUICK), "partial", "mean", measure="dice")
    assert found["difference"] == pytest.approx(means[1] - means[0])
    assert found["n"] == 4
    assert row(table, "partial", "mean")["dice_difference"] == pytest.approx(means[1] - means[0])


def test_a_missed_organ_is_a_bad_distance_not_a_lost_pair() -> None:
    ours = [0.8, 0.8, 0.8, 0.8, 0.8, 0.8]
    metrics = concatenate([scores("mskd", {"liver": ours}), scores("partial", {"liver": [0.9] * 5 + [0.0]})])
    found = row(difference_table(metrics, QUICK), "partial", "liver", measure="hd95_penalised")
    assert found["n"] == 6
    assert found["difference"] == pytest.approx((5 * 1 + 500) / 6 - 2)


def test_closed_gap_is_the_share_between_separate_nets_and_full_labels() -> None:
    low = np.linspace(0.5, 0.7, 8)
    methods = {"individual": low, "mskd": low + 0.09, "partial": low - 0.01, "full_labels": low + 0.1}
    metrics = concatenate([scores(name, {"liver": list(values)}) for name, values in methods.items()])
    table = gap_table(metrics, QUICK)
    found = row(table, "mskd", "mean")
    assert (found["gap"], found["closed"]) == pytest.approx((0.1, 0.9))
    assert (found["closed_ci_low"], found["closed_ci_high"]) == pytest.approx((0.9, 0.9))
    assert row(table, "partial", "liver")["closed"] == pytest.approx(-0.1)
    assert gap_table(metrics[metrics["method"] != "full_labels"], QUICK).empty


@settings(max_examples=25)
@given(st.lists(st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)), min_size=2, max_size=12))
def test_an_interval_of_a_difference_is_ordered_and_within_the_differences(pairs: list[tuple[float, float]]) -> None:
    metrics = concatenate(
        [scores("mskd", {"liver": [a for a, _ in pairs]}), scores("partial", {"liver": [b for _, b in pairs]})]
    )
    found = row(difference_table(metrics, QUICK), "partial", "liver", measure="dice")
    each = [b - a for a, b in pairs]
    assert 0 <= found["p"] <= found["p_holm"] <= 1
    if not math.isnan(found["ci_low"]):
        assert min(each) - 1e-9 <= found["ci_low"] <= found["ci_high"] <= max(each) + 1e-9


def test_equal_scores_give_equal_tables_whatever_their_order() -> None:
    values = np.random.default_rng(0).uniform(0.5, 0.9, (3, 7))
    frames = [scores(m, {"liver": list(v)}) for m, v in zip(("mskd", "partial", "dodnet"), values, strict=True)]
    first, second = concatenate(frames), concatenate(frames[::-1]).sample(frac=1, random_state=1)
    pd.testing.assert_frame_equal(difference_table(first, QUICK), difference_table(second, QUICK))
    tables = [add_statistics(comparison_table(metrics), metrics, QUICK) for metrics in (first, second)]
    pd.testing.assert_frame_equal(*tables)
    assert tuple(tables[0].columns) == (*TABLE_COLUMNS, *STATISTICS_COLUMNS)


def test_tables_mark_what_is_significant_and_say_how(tmp_path: Path) -> None:
    ours = list(np.linspace(0.7, 0.8, 10))
    metrics = concatenate(
        [
            scores("mskd", {"liver": ours}),
            scores("partial", {"liver": [v - 0.01 - 0.001 * i for i, v in enumerate(ours)]}),
            scores("dodnet", {"liver": [v + 0.01 + 0.001 * i for i, v in enumerate(ours)]}),
            scores("multi_head", {"liver": [v + 0.01 * (-1) ** i for i, v in enumerate(ours)]}),
        ]
    )
    table = add_statistics(comparison_table(metrics), metrics, QUICK)
    of_organ = table[table["organ"] == "liver"].set_index("method")
    shown = dict(zip(of_organ.index, marks(of_organ, "dice_mean"), strict=True))
    assert shown == {"partial": WORSE, "multi_head": "", "dodnet": BETTER, "mskd": ""}
    assert dict(zip(of_organ.index, marks(of_organ, "hd95_penalised_mean_mm"), strict=True)) == shown
    assert list(long_form(table).columns[5:9]) == ["Dice, %", "95 % CI of Dice", "p of Dice", "rank"]
    notes = statistics_notes(metrics, QUICK, "MS-KD")
    write_tables(table, tmp_path, notes=notes)
    for suffix, mark in {"md": WORSE, "html": WORSE, "tex": r"\textsuperscript{\dag}"}.items():
        text = (tmp_path / f"comparison.{suffix}").read_text()
        assert text.count(mark) >= 3, suffix  # organ, mean, note
        assert "Wilcoxon" in text
    alone = scores("mskd", {"liver": ours})
    assert not any("Wilcoxon" in note for note in statistics_notes(alone, QUICK, "MS-KD"))
    assert "rank" not in long_form(add_statistics(comparison_table(alone), alone, QUICK))


def test_no_mark_where_means_and_ranks_disagree() -> None:
    """Eleven cases a little better and one far worse: the ranks are for it, the mean against it."""
    ours = [0.7] * 12
    other = [0.7 + 0.001 * (1 + i) for i in range(11)] + [0.2]
    metrics = concatenate([scores("mskd", {"liver": ours}), scores("partial", {"liver": other})])
    table = add_statistics(comparison_table(metrics), metrics, QUICK)
    found = row(table, "partial", "liver")
    assert found["dice_p_holm"] < 0.05
    assert found["dice_difference"] < 0 < found["dice_direction"]
    assert set(marks(table, "dice_mean")) == {""}


def test_where_full_labels_are_no_better_no_share_is_stated() -> None:
    methods = {"individual": [0.8, 0.7], "mskd": [0.7, 0.6], "full_labels": [0.79, 0.69]}
    table = gap_table(concatenate([scores(name, {"liver": v}) for name, v in methods.items()]), QUICK)
    assert table["closed"].isna().all()
    assert table["gap"].to_numpy() == pytest.approx(-0.01)


def test_an_organ_that_no_case_of_all_methods_has_does_not_spoil_the_mean_rank() -> None:
    ours = {"liver": [0.9, 0.8], "spleen": [0.5, None]}
    other = {"liver": [0.8, 0.9], "spleen": [None, 0.5]}
    metrics = concatenate([scores("mskd", ours), scores("partial", other)])
    table = add_statistics(comparison_table(metrics), metrics, QUICK)
    assert row(table, "mskd", "mean")["dice_rank"] == pytest.approx(1.5)
    assert math.isnan(row(table, "mskd", "spleen")["dice_rank"])


def test_p_values_read_well() -> None:
    assert [p_text(p) for p in (0.5, 0.0312, 0.0004, math.nan)] == ["0.500", "0.031", "< 0.001", "–"]
