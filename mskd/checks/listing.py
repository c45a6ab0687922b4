"""Findings from the listing of a dataset and from its split, before a file is opened."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from mskd.cases import raw_cases, split_cases
from mskd.checks.finding import Finding, finding_of
from mskd.config.study import Study
from mskd.datasets.case import RawCase, natural_key
from mskd.datasets.collection import WHOLE_DATASET, ListingError
from mskd.datasets.tables import read_table, split_value
from mskd.errors import ConfigError, DataError


def list_dataset(study: Study, name: str) -> tuple[list[RawCase], list[Finding]]:
    """Return the cases of a dataset that can be looked at, and every fault of its listing."""
    try:
        return raw_cases(study, name), []
    except ListingError as error:
        return list(error.cases), [finding_of(p, name, code="listing.layout") for p in error.problems]
    except DataError as error:
        return [], [finding_of(error, name, code="listing.layout")]


def split_dataset(
    study: Study, name: str, raw: Sequence[RawCase], refused: Collection[str] = ()
) -> tuple[dict[str, list[str]], list[Finding]]:
    """Return the split of every case in each fold, empty if it cannot be made, and every fault of the split.

    Args:
        study: The study.
        name: Dataset.
        raw: Its cases.
        refused: Names of cases whose files are at fault: a split that names them is right.
    """
    if study.datasets[name].role == "external" or study.runs.folds > 1:
        table = None  # the split of the study file is not asked for
    else:
        table = study.datasets[name].split.path if study.datasets[name].split.kind == "file" else None
    if table is not None:
        found = _table_findings(name, table, [case.name for case in raw], refused, study)
        if found:
            return {}, found
    splits: dict[str, list[str]] = {case.name: [] for case in raw}
    try:
        for fold in range(study.runs.folds):
            for case, split in split_cases(study, name, raw, fold).items():
                splits[case].append(split)
    except ConfigError as error:
        said, _, fix = str(error).partition("; write")
        where = study.datasets[name].path or WHOLE_DATASET
        expected = "a split that every case has a place in"
        fix = f"write{fix}" if fix else "complete the data, or write another split for this dataset"
        return {}, [Finding("split.unusable", name, WHOLE_DATASET, str(where), expected, said, fix)]
    except DataError as error:
        # of the table, whose rows were right: the cases that its missing files leave out
        return {}, [] if refused else [finding_of(error, name, code="split.unusable")]
    wanted = 2 if study.cross_fits else 1
    learned = [sum(of[fold] == "train" for of in splits.values()) for fold in range(study.runs.folds)]
    if study.datasets[name].role == "train" and min(learned) < wanted:
        fix = "write another split there, for example `split: {kind: hash, val_fraction: 0.1, test_fraction: 0.2}`"
        expected = f"at least {wanted} to train on" + (", for cross-fitted targets" if wanted > 1 else "")
        counts = f"{min(learned)} of {len(splits)} cases"
        where = study.datasets[name].path or WHOLE_DATASET
        return splits, [Finding("split.unusable", name, WHOLE_DATASET, str(where), expected, counts, fix)]
    return splits, []


def _table_findings(
    dataset: str, table: Path, names: Sequence[str], refused: Collection[str], study: Study
) -> list[Finding]:
    """Return every row of a split's table that is wrong, and every case that it forgets."""
    found: list[Finding] = []
    stated: set[str] = set()
    try:
        rows = read_table(table, required=("case", "split"))
    except DataError as error:
        return [finding_of(error, dataset, code="split.unusable")]
    for row in rows:
        case = row["case"]
        try:
            split = split_value(row["split"], case=case, file=table)
        except DataError as error:
            found.append(finding_of(error, dataset))
            stated.add(case)
            continue
        if split is None or case in stated:
            said = "no split" if split is None else "the case twice"
            expected = "one row per case, with split train, val or test"
            found.append(Finding("split.row", dataset, case, str(table), expected, said, "correct the row"))
        stated.add(case)
    for case in sorted(set(names) - stated, key=natural_key):
        expected, fix = "a row for each case, by its exact name", "add the row"
        found.append(Finding("split.unplaced", dataset, case, str(table), expected, "no row", fix))
    if not study.datasets[dataset].split.allow_missing:
        for case in sorted(stated - set(names) - set(refused), key=natural_key):
            fix = "correct the name, or write `allow_missing: true` into the split to pass over such rows"
            expected = "names of cases of the dataset"
            found.append(Finding("split.unknown_case", dataset, case, str(table), expected, "no such case", fix))
    return found
