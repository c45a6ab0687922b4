"""Splits that are stated somewhere: by a dataset's layout, by a built-in table, by a file of the user's."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from mskd.datasets.case import RawCase, Split, natural_key
from mskd.datasets.tables import read_table, split_value
from mskd.errors import ConfigError, DataError

BUILTIN_PREFIXES = {
    "liver": ("liver", "volume", "lits"),
    "kidney": ("case", "kidney", "kits"),
    "pancreas": ("pancreas",),
    "spleen": ("spleen",),
}
"""How the layouts call the cases of each built-in split; MSD Task03 keeps the numbers of LiTS."""


def read_builtin(name: str) -> dict[int, Split]:
    """Return a built-in split by case number.

    The splits are those which DoDNet (Zhang et al., CVPR 2021) published with its MOTS benchmark and which
    later work keeps to: liver 104/27, kidney 168/42, pancreas 224/57, spleen 32/9 training and test cases.
    """
    table = resources.files("mskd.datasets").joinpath("mots_split.tsv").read_text(encoding="utf-8")
    rows = [row for row in csv.DictReader(table.splitlines(), delimiter="\t") if row["dataset"] == name]
    return {_number(name, row["case"]): "test" if row["split"] == "test" else "train" for row in rows}


def native_split(dataset: str, cases: Sequence[RawCase]) -> dict[str, Split]:
    """Return the split that the dataset's layout states.

    Raises:
        ConfigError: It states none for some case.
    """
    stated = {case.name: case.native_split for case in cases if case.native_split is not None}
    unstated = [case.name for case in cases if case.native_split is None]
    if unstated:
        raise ConfigError(
            f"dataset {dataset}: its layout states no split for {some(unstated)}; write for example\n"
            "  split: {kind: hash, val_fraction: 0.1, test_fraction: 0.2, seed: 0}"
        )
    return stated


def builtin_split(dataset: str, names: Sequence[str], builtin: str, *, allow_missing: bool = False) -> dict[str, Split]:
    """Return the split of cases by a built-in table, which knows the names of all layouts.

    Raises:
        ConfigError: A case is not in the table, two names mean one case, or cases of the table are missing.
    """
    by_number = read_builtin(builtin)
    numbers = {name: _number(builtin, name) for name in names}
    unknown = [name for name, number in numbers.items() if number not in by_number]
    if unknown:
        examples = ", ".join(f"{prefix}_{min(by_number)}" for prefix in BUILTIN_PREFIXES[builtin])
        raise ConfigError(
            f"dataset {dataset}: the built-in split {builtin!r} does not name {some(unknown)}; it names "
            f"cases such as {examples}; write instead\n"
            "  split: {kind: file, path: split.tsv}   # columns case and split"
        )
    if len(set(numbers.values())) < len(names):
        values = list(numbers.values())
        twice = [name for name, number in numbers.items() if values.count(number) > 1]
        raise ConfigError(f"dataset {dataset}: several names for one case of the built-in split: {some(twice)}")
    missing = [str(number) for number in sorted(by_number.keys() - numbers.values())]
    if missing and not allow_missing:
        raise ConfigError(
            f"dataset {dataset}: of the {len(by_number)} cases of the built-in split {builtin!r}, "
            f"{len(missing)} are not there, the numbers {some(missing)}; complete the download, or "
            "go on without them:\n"
            f"  split: {{kind: builtin, name: {builtin}, allow_missing: true}}"
        )
    return {name: by_number[number] for name, number in numbers.items()}


def read_split_file(file: Path) -> dict[str, Split]:
    """Return the split by case name that a table with the columns case and split states.

    Raises:
        DataError: The table cannot be read, names a case twice, or states no split for one.
    """
    splits: dict[str, Split] = {}
    for row in read_table(file, required=("case", "split")):
        case, split = row["case"], split_value(row["split"], case=row["case"], file=file)
        if split is None or case in splits:
            raise DataError(
                case=case,
                file=file,
                expected="one row per case, with split train, val or test",
                found="no split" if split is None else "the case twice",
                fix="correct the row",
                code="split.row",
            )
        splits[case] = split
    return splits


def file_split(names: Sequence[str], file: Path, *, allow_missing: bool = False) -> dict[str, Split]:
    """Return the split of cases by a table of the user's.

    Raises:
        DataError: The table has no row for a case, or names something that is no case.
    """
    stated = read_split_file(file)
    unstated = [name for name in names if name not in stated]
    unknown = [] if allow_missing else sorted(stated.keys() - set(names), key=natural_key)
    if unknown or unstated:
        found = [f"names that are no case: {some(unknown)}"] if unknown else []
        found += [f"no row for {some(unstated)}"] if unstated else []
        raise DataError(
            case=(unstated or unknown)[0],
            file=file,
            expected="one row for each case of the dataset, by the case's exact name",
            found="; ".join(found),
            fix="add the rows or correct the names; 'allow_missing: true' accepts names without a case",
        )
    return {name: stated[name] for name in names}


def some(names: Sequence[str], count: int = 8) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more


def _number(builtin: str, name: str) -> int:
    """Return the number of a case in a built-in split, -1 if the name is none of its names."""
    match = re.fullmatch(rf"(?:{'|'.join(BUILTIN_PREFIXES[builtin])})[-_]?([0-9]{{1,9}})", name.lower())
    return int(match[1]) if match else -1
