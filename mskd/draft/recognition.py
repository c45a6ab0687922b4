"""Recognises the layout of a folder: by the adapters themselves, and by how a public dataset names its cases."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from mskd.datasets.case import RawCase
from mskd.datasets.collection import WHOLE_DATASET, ListingError
from mskd.datasets.folders import describe, subfolders
from mskd.datasets.listing import AdapterFacts, adapter_facts, adapter_names, find_cases
from mskd.errors import ConfigError, DataError

TABLES = (".csv", ".tsv")
Told = TypeVar("Told")


@dataclass(frozen=True)
class FoundDataset:
    """A folder (or a table) that one adapter reads.

    Attributes:
        root: The folder, or the table's file.
        adapter: The adapter.
        cases: Its cases without a fault, in natural order.
        problems: Faults of others; `mskd check-data` names them again.
    """

    root: Path
    adapter: AdapterFacts
    cases: tuple[RawCase, ...]
    problems: tuple[DataError, ...] = ()


def told_of(path: Path, told: Mapping[str, Told], default: Told) -> Told:
    """Return what the user said of a folder: by its name, by the end of its path, or by a pattern such as `Task*`."""
    return next((value for key, value in told.items() if path.match(key)), default)


def datasets_at(path: Path, adapters: Mapping[str, str]) -> list[FoundDataset]:
    """Return the datasets at a path: the folder is one, or folders in it are.

    Args:
        path: Folder, or a table of files.
        adapters: Folder → adapter, where the user says which; see `told_of`.

    Raises:
        ConfigError: If nothing there is recognised, or an adapter that was named does not read the folder.
    """
    path = path.resolve()
    if adapter := told_of(path, adapters, ""):
        return [_read_as(adapter, path)]
    whole = recognise(path)
    if path.is_dir():
        told = {folder: told_of(folder, adapters, "") for folder in subfolders(path)}
        named = [_read_as(adapter, folder) for folder, adapter in told.items() if adapter]
        others = [recognise(folder) for folder, adapter in told.items() if not adapter]
        parts = [*named, *(found for found in others if found is not None)]
        if named or (parts and not _holds(whole, parts)):  # several datasets, not one whose folders look like ones
            return sorted(parts, key=lambda found: found.root)
    if whole is None:
        raise ConfigError(
            f"{path}: no layout of a dataset is recognised here; found {_account(path)}\n"
            f"  layouts that are known: {', '.join(adapter_names())} (docs/datasets.md)\n"
            f"  to insist on one:       --adapter {path.name}=msd\n"
            "  for any other:          write a table with the columns case,image,label (CSV), and give the table"
        )
    return [whole]


def recognise(path: Path) -> FoundDataset | None:
    """Return the dataset at a path, None where no adapter reads it.

    A public dataset with names of its own comes before a layout that any data may have; a layout most of whose cases
    are faulty is not the right one.
    """
    if path.suffix.lower() in TABLES:
        return _try("table", path)
    if not path.is_dir():
        return None
    facts = [adapter_facts(name) for name in adapter_names() if name not in ("table", "single")]
    for fact in facts:
        if fact.case_names and (found := _try(fact.name, path)) is not None:
            names = [case.name for case in found.cases]
            if all(re.fullmatch(fact.case_names, name) for name in names):
                return found
    general = [found for fact in facts if not fact.case_names if (found := _try(fact.name, path)) is not None]
    return max(general, key=lambda found: len(found.cases), default=None)


def _try(adapter: str, path: Path) -> FoundDataset | None:
    try:
        found = _read_as(adapter, path)
    except (DataError, ConfigError):
        return None
    return found if len(found.cases) >= max(1, len(found.problems)) else None


def _read_as(adapter: str, path: Path) -> FoundDataset:
    try:
        return FoundDataset(path, adapter_facts(adapter), tuple(find_cases(adapter, path)))
    except ListingError as error:
        if not error.cases or any(problem.case == WHOLE_DATASET for problem in error.problems):
            raise
        return FoundDataset(path, adapter_facts(adapter), error.cases, error.problems)


def _holds(whole: FoundDataset | None, parts: Sequence[FoundDataset]) -> bool:
    images = {case.image for case in whole.cases} if whole else set()
    return all(case.image in images for part in parts for case in part.cases)


def _account(path: Path) -> str:
    if path.is_dir():
        return describe(path)
    return "a file" if path.exists() else "nothing"
