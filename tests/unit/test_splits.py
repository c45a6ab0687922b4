"""Splits: stable, disjoint, and true to what is stated."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mskd.datasets.case import RawCase, Split
from mskd.datasets.splits import SplitRule, assign_splits, fold_of, hash_fraction
from mskd.datasets.stated_splits import BUILTIN_PREFIXES, read_builtin
from mskd.errors import ConfigError, DataError

COUNTS = {"liver": (104, 27), "kidney": (168, 42), "pancreas": (224, 57), "spleen": (32, 9)}
NAMES = st.sets(st.text("abcdef0123456789_", min_size=1, max_size=8), min_size=1, max_size=60)


def cases(*names: str, split: Split | None = None) -> list[RawCase]:
    return [RawCase(name, Path(name), (), split) for name in names]


def numbered(n: int) -> list[RawCase]:
    return cases(*(f"case_{i}" for i in range(n)))


def assign_or_none(names: set[str], rule: SplitRule) -> dict[str, Split] | None:
    """Return the split, None where too few cases leave a part empty."""
    try:
        return assign_splits("d", cases(*sorted(names)), rule)
    except ConfigError:
        return None


@given(NAMES, st.text("xyz", min_size=1), st.integers(0, 5), st.sampled_from(["hash", "fold"]))
def test_a_new_case_moves_no_other(names: set[str], new: str, seed: int, kind: str) -> None:
    rule = SplitRule(kind=kind, seed=seed)  # type: ignore[arg-type]
    before, after = assign_or_none(names, rule), assign_or_none(names | {new}, rule)
    if before is None:
        return
    assert after is not None
    assert {name: after[name] for name in names} == before
    assert set(after) == names | {new}


@given(NAMES, st.integers(0, 5))
def test_folds_test_each_case_once(names: set[str], seed: int) -> None:
    folds = {name: fold_of(f"d/{name}", 4, seed) for name in names}
    assert set(folds.values()) <= {0, 1, 2, 3}
    for fold in range(4):
        split = assign_or_none(names, SplitRule("fold", n_folds=4, fold=fold, seed=seed, val_fraction=0))
        if split is not None:
            assert {n for n in names if split[n] == "test"} == {n for n in names if folds[n] == fold}


def test_equal_across_processes() -> None:
    code = "from mskd.datasets.splits import *; print(hash_fraction('d/a', 3, 'split'), fold_of('d/a', 5, 1))"
    for seed in ("1", "2"):
        result = subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            capture_output=True,
            text=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        assert result.stdout == f"{hash_fraction('d/a', 3, 'split')} {fold_of('d/a', 5, 1)}\n"


def test_fixed_for_ever() -> None:
    assert hash_fraction("d/a", 3, "split") == pytest.approx(0.7672642688386552, abs=1e-15)


def test_hash_fractions_and_seeds() -> None:
    rule = SplitRule("hash", val_fraction=0.1, test_fraction=0.2)
    split = assign_splits("d", numbered(2000), rule)
    counts = Counter(split.values())
    # Binomial, four standard deviations.
    assert counts["test"] == pytest.approx(400, abs=72)
    assert counts["val"] == pytest.approx(200, abs=54)
    assert list(split) == [case.name for case in numbered(2000)]
    assert split != assign_splits("d", numbered(2000), replace(rule, seed=1))
    assert split != assign_splits("e", numbered(2000), rule)
    wider = assign_splits("d", numbered(2000), replace(rule, val_fraction=0.3))
    assert {n for n in split if split[n] == "test"} == {n for n in wider if wider[n] == "test"}


@given(st.integers(2, 12), st.integers(0, 20), st.sampled_from(["hash", "fold"]))
def test_what_was_asked_for_is_filled_or_refused_with_a_way_out(n: int, seed: int, kind: str) -> None:
    rule = SplitRule(kind=kind, seed=seed)  # type: ignore[arg-type]
    try:
        split = assign_splits("d", numbered(n), rule)
    except ConfigError as error:
        text = str(error)
        assert "write" in text
        if "seed: " in text:
            other = replace(rule, seed=int(text.rpartition("seed: ")[2].rstrip("}")))
            assert set(assign_splits("d", numbered(n), other).values()) == {"train", "val", "test"}
        return
    assert set(split.values()) == {"train", "val", "test"}


def test_one_case() -> None:
    with pytest.raises(ConfigError, match="kind: all, into: train"):
        assign_splits("d", numbered(1), SplitRule("hash"))
    assert assign_splits("d", numbered(1), SplitRule("all")) == {"case_0": "train"}
    assert assign_splits("d", numbered(1), SplitRule("all", into="test")) == {"case_0": "test"}


def test_native() -> None:
    stated = [*cases("a", split="train"), *cases("b", split="val"), *cases("c", split="test")]
    assert assign_splits("d", stated, SplitRule("native")) == {"a": "train", "b": "val", "c": "test"}
    only_test = cases("a", "b", split="test")
    assert set(assign_splits("d", only_test, SplitRule("native")).values()) == {"test"}
    with pytest.raises(ConfigError, match=r"states no split for x[\s\S]*kind: hash"):
        assign_splits("d", [*stated, *cases("x")], SplitRule("native"))


def test_validation_is_carved_out_of_train_alone() -> None:
    stated = [RawCase(f"c{i}", Path("x"), native_split="test" if i % 4 == 0 else "train") for i in range(400)]
    split = assign_splits("d", stated, SplitRule("native", val_fraction=0.2))
    assert {n for n in split if split[n] == "test"} == {c.name for c in stated if c.native_split == "test"}
    assert Counter(split.values())["val"] == pytest.approx(60, abs=28)
    whole = assign_splits("d", stated, SplitRule("native", val_fraction=0))
    assert "val" not in whole.values()


def test_names_twice() -> None:
    with pytest.raises(ConfigError, match="occur twice: a"):
        assign_splits("d", cases("a", "b", "a"), SplitRule("all"))


@pytest.mark.parametrize("name", list(COUNTS))
def test_builtin_tables(name: str) -> None:
    counts = Counter(read_builtin(name).values())
    assert (counts["train"], counts["test"]) == COUNTS[name]
    assert set(BUILTIN_PREFIXES) == set(COUNTS)


@pytest.mark.parametrize(
    ("builtin", "form"),
    [
        ("liver", "liver_{}"),
        ("liver", "volume-{}"),
        ("kidney", "case_{:05d}"),
        ("pancreas", "pancreas_{:03d}"),
        ("spleen", "spleen_{}"),
    ],
)
def test_builtin_split_by_each_layout(builtin: str, form: str) -> None:
    table = read_builtin(builtin)
    listed = cases(*(form.format(number) for number in table))
    split = assign_splits("d", listed, SplitRule("builtin", name=builtin))
    tests = {number for number, part in table.items() if part == "test"}
    assert {name for name, part in split.items() if part == "test"} == {form.format(n) for n in tests}
    assert "val" in split.values()
    plain = assign_splits("d", listed, SplitRule("builtin", name=builtin, val_fraction=0))
    assert plain == {form.format(number): part for number, part in table.items()}


def test_builtin_known_cases() -> None:
    assert read_builtin("liver")[1] == "train"
    assert read_builtin("liver")[0] == "test"
    assert read_builtin("kidney")[0] == "test"
    assert read_builtin("pancreas")[421] == "test"


def test_builtin_and_cases_disagree() -> None:
    rule = SplitRule("builtin", name="liver", allow_missing=True, val_fraction=0)
    with pytest.raises(ConfigError, match=r"does not name liver_999[\s\S]*kind: file"):
        assign_splits("d", cases("liver_1", "liver_999"), rule)
    with pytest.raises(ConfigError, match="several names for one case"):
        assign_splits("d", cases("liver_1", "volume-1"), rule)
    with pytest.raises(ConfigError, match=r"129 are not there[\s\S]*allow_missing: true"):
        assign_splits("d", cases("liver_0", "liver_1"), replace(rule, allow_missing=False))
    assert assign_splits("d", cases("liver_0", "liver_1"), rule) == {"liver_0": "test", "liver_1": "train"}


def test_file(tmp_path: Path) -> None:
    file = tmp_path / "split.tsv"
    file.write_text("case\tsplit\nb\tval\na\ttrain\nc\ttest\n")
    rule = SplitRule("file", path=file)
    assert assign_splits("d", cases("a", "b", "c"), rule) == {"a": "train", "b": "val", "c": "test"}
    with pytest.raises(DataError, match="no row for x, y"):
        assign_splits("d", cases("a", "b", "c", "x", "y"), rule)
    with pytest.raises(DataError, match="names that are no case: c"):
        assign_splits("d", cases("a", "b"), rule)
    relaxed = replace(rule, allow_missing=True)
    assert assign_splits("d", cases("a", "b"), relaxed) == {"a": "train", "b": "val"}


@pytest.mark.parametrize(
    ("rows", "said"), [("a,train\na,test", "twice"), ("a,", "no split"), ("a,dev", "train, val or test")]
)
def test_bad_file(tmp_path: Path, rows: str, said: str) -> None:
    (tmp_path / "split.csv").write_text(f"case,split\n{rows}\n")
    with pytest.raises(DataError, match=said):
        assign_splits("d", cases("a"), SplitRule("file", path=tmp_path / "split.csv"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kind": "random"}, "native, builtin"),
        ({"kind": "hash", "val_fraction": -0.1}, "val_fraction"),
        ({"kind": "hash", "test_fraction": float("nan")}, "test_fraction"),
        ({"kind": "hash", "val_fraction": 0.5, "test_fraction": 0.5}, "nothing to train"),
        ({"kind": "builtin", "name": "lung"}, "liver, kidney"),
        ({"kind": "file"}, "split.tsv"),
        ({"kind": "all", "into": "dev"}, "train, val, test"),
        ({"kind": "fold", "n_folds": 3, "fold": 3}, "fold 3 of 3"),
        ({"kind": "fold", "n_folds": 1}, "at least 2"),
    ],
)
def test_bad_rules(options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        SplitRule(**options)  # type: ignore[arg-type]
