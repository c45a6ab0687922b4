"""Which cases train, validate and test.

Random splits go by a hash of each case's id, so that a new case moves no other. The price: counts scatter
around the fractions, and of ten cases at a test fraction of 0.2 none may fall into the test split. Nothing is
evened out behind the user's back; a part that was asked for and came out empty is an error that names a seed
which fills it. For very small datasets a split file is the better choice.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from mskd.datasets.case import SPLITS, RawCase, Split
from mskd.datasets.stated_splits import BUILTIN_PREFIXES, builtin_split, file_split, native_split, some
from mskd.errors import ConfigError

SplitKind = Literal["native", "builtin", "file", "hash", "all", "fold"]


@dataclass(frozen=True)
class SplitRule:
    """How the cases of a dataset are split.

    Attributes:
        kind: `native`: as the layout states; `builtin`: the split that the field uses; `file`: a table;
            `hash`: random by seed; `fold`: one of several folds tests; `all`: every case to one split.
        val_fraction: Share of cases that validate. For native, builtin, file and fold it is a share of the
            training cases, taken out by hash, and only where no case validates yet; 0 takes none.
        test_fraction: Share of cases that test, for `hash`.
        seed: Seed of everything that goes by hash.
        name: Name of the built-in split, one of `BUILTIN_PREFIXES`.
        path: CSV or TSV table with the columns case and split, for `file`.
        into: The split of `all`.
        n_folds: Number of folds.
        fold: The fold that tests, counted from 0.
        allow_missing: Whether `builtin` and `file` may name cases that the dataset does not have.
    """

    kind: SplitKind
    val_fraction: float = 0.1
    test_fraction: float = 0.2
    seed: int = 0
    name: str = ""
    path: Path | None = None
    into: Split = "train"
    n_folds: int = 5
    fold: int = 0
    allow_missing: bool = False

    def __post_init__(self) -> None:
        if self.kind not in get_args(SplitKind):
            raise ConfigError(f"split kind: {self.kind!r} is not one of {', '.join(get_args(SplitKind))}")
        for key in ("val_fraction", "test_fraction"):
            value = getattr(self, key)
            if not (math.isfinite(value) and 0 <= value < 1):
                raise ConfigError(f"split {key}: {value} is not at least 0 and below 1")
        if self.kind == "hash" and self.val_fraction + self.test_fraction >= 1:
            raise ConfigError("split: val_fraction and test_fraction leave nothing to train; their sum must be < 1")
        if self.kind == "builtin" and self.name not in BUILTIN_PREFIXES:
            raise ConfigError(f"split name: {self.name!r} is not one of {', '.join(BUILTIN_PREFIXES)}")
        if self.kind == "file" and self.path is None:
            raise ConfigError("split path is missing; write\n  split: {kind: file, path: split.tsv}")
        if self.kind == "all" and self.into not in SPLITS:
            raise ConfigError(f"split into: {self.into!r} is not one of {', '.join(SPLITS)}")
        if self.kind == "fold" and not (self.n_folds >= 2 and 0 <= self.fold < self.n_folds):
            raise ConfigError(f"split: fold {self.fold} of {self.n_folds}; n_folds is at least 2, fold below it")


def assign_splits(dataset: str, cases: Sequence[RawCase], rule: SplitRule) -> dict[str, Split]:
    """Return the split of every case, by name in the order of the cases.

    Args:
        dataset: Name of the dataset; `<dataset>/<case>` is what is hashed.
        cases: The dataset's cases, with unique names.
        rule: How to split them.

    Raises:
        ConfigError: A split that was asked for comes out empty, or the layout states none.
        DataError: The split's table does not fit the cases.
    """
    names = [case.name for case in cases]
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise ConfigError(f"dataset {dataset}: case names occur twice: {some(repeated)}")
    splits, empty = _assign(dataset, cases, rule)
    if not empty:
        return splits
    counts = ", ".join(f"{list(splits.values()).count(split)} {split}" for split in SPLITS)
    raise ConfigError(
        f"dataset {dataset}: its split gives {counts}; none for {' and '.join(empty)}. {_way_out(dataset, cases, rule)}"
    )


def fold_of(case_id: str, n_folds: int, seed: int = 0) -> int:
    """Return the fold of a case, from 0 to n_folds - 1, by hash of its id `<dataset>/<case>`."""
    return min(int(hash_fraction(case_id, seed, "fold") * n_folds), n_folds - 1)


def hash_fraction(case_id: str, seed: int, purpose: str) -> float:
    """Return a number in [0, 1) that depends on these three alone, equal on all machines.

    Args:
        case_id: `<dataset>/<case>`.
        seed: Any integer.
        purpose: Keeps numbers that are drawn for different ends independent.
    """
    digest = hashlib.sha256(f"{purpose}\0{seed}\0{case_id}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def _by_hash(case_id: str, rule: SplitRule) -> Split:
    """Return the split of one case; test lies below validation, so a new val_fraction moves no test case."""
    draw = hash_fraction(case_id, rule.seed, "split")
    if draw < rule.test_fraction:
        return "test"
    return "val" if draw < rule.test_fraction + rule.val_fraction else "train"


def _carve(case_id: str, split: Split, rule: SplitRule) -> Split:
    """Turn the share `val_fraction` of the training cases into validation cases."""
    carved = split == "train" and hash_fraction(case_id, rule.seed, "validation") < rule.val_fraction
    return "val" if carved else split


def _way_out(dataset: str, cases: Sequence[RawCase], rule: SplitRule) -> str:
    """Say what to write instead of a rule that leaves a split empty."""
    for seed in range(200):
        _, empty = _assign(dataset, cases, replace(rule, seed=seed))
        if not empty:
            return f"With few cases the seed matters; write\n  split: {{…, seed: {seed}}}"
    return (
        "There are too few cases for these shares; write\n"
        "  split: {…, val_fraction: 0, test_fraction: 0}   # or larger shares, or\n"
        "  split: {kind: all, into: train}                 # or\n"
        "  split: {kind: file, path: split.tsv}            # columns case and split"
    )


def _assign(dataset: str, cases: Sequence[RawCase], rule: SplitRule) -> tuple[dict[str, Split], list[Split]]:
    """Return the split by case, and the splits that were asked for as a share and came out empty."""
    names = [case.name for case in cases]
    wanted: list[Split] = ["train", "val"] if rule.val_fraction > 0 else ["train"]
    if rule.kind == "all":
        return dict.fromkeys(names, rule.into), []
    if rule.kind == "hash":
        splits = {name: _by_hash(f"{dataset}/{name}", rule) for name in names}
        wanted += ["test"] if rule.test_fraction > 0 else []
        return splits, [split for split in wanted if split not in splits.values()]
    stated = _stated(dataset, cases, rule)
    if rule.kind == "fold":
        wanted.append("test")
    elif "val" in stated.values() or "train" not in stated.values():
        return stated, []
    splits = {name: _carve(f"{dataset}/{name}", split, rule) for name, split in stated.items()}
    return splits, [split for split in wanted if split not in splits.values()]


def _stated(dataset: str, cases: Sequence[RawCase], rule: SplitRule) -> dict[str, Split]:
    """Return the split before validation cases are taken out."""
    names = [case.name for case in cases]
    if rule.kind == "native":
        return native_split(dataset, cases)
    if rule.kind == "builtin":
        return builtin_split(dataset, names, rule.name, allow_missing=rule.allow_missing)
    if rule.kind == "file" and rule.path is not None:
        return file_split(names, rule.path, allow_missing=rule.allow_missing)
    tests = {n for n in names if fold_of(f"{dataset}/{n}", rule.n_folds, rule.seed) == rule.fold}
    return {name: "test" if name in tests else "train" for name in names}
