"""What a new study will say, from the datasets that were found and the user's answers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal

from mskd.config.data import BACKGROUND, IGNORE
from mskd.datasets.case import RawCase
from mskd.datasets.splits import SplitRule, assign_splits
from mskd.datasets.stated_splits import BUILTIN_PREFIXES
from mskd.draft.labels import Labels, labels_of, organ_map, organs_of
from mskd.draft.recognition import FoundDataset, datasets_at, told_of
from mskd.errors import ConfigError, DataError
from mskd.organs import ORGANS, read_label_name

Role = Literal["train", "external"]
ROLES: tuple[Role, ...] = ("train", "external")
SPACING_CASES = 5  # headers that are read per dataset


@dataclass
class Answers:
    """What the user says; datasets are named by their folder (or the end of its path, or a pattern such as `Task*`).

    Attributes:
        organs: Organs of the study; empty: all that the training datasets label.
        adapters: Folder → adapter.
        labels: Folder → value in its label files → organ, `ignore` or `background`.
        roles: Folder → role.
    """

    organs: Sequence[str] = ()
    adapters: Mapping[str, str] = field(default_factory=dict)
    labels: dict[str, dict[int, str]] = field(default_factory=dict)
    roles: dict[str, Role] = field(default_factory=dict)


@dataclass
class Candidate:
    """A dataset that was found, with what its labels mean."""

    found: FoundDataset
    labels: Labels

    @property
    def unnamed(self) -> list[int]:
        """Values of which nothing says what they mean."""
        return [value for value, name in self.labels.values.items() if not name]


@dataclass(frozen=True)
class DatasetDraft:
    """A dataset of the study.

    Attributes:
        name: Name in the study.
        found: Where it lies.
        role: train or external.
        names: Value (or structure) → name in the data.
        meaning: Value (or structure) → organ of the study, ignore or background.
        split: Section `split`; empty for external datasets.
    """

    name: str
    found: FoundDataset
    role: Role
    names: Mapping[Any, str]
    meaning: Mapping[Any, str]
    split: Mapping[str, Any]

    @property
    def organs(self) -> list[str]:
        """Organs that it labels, of those of the study."""
        return [organ for organ in dict.fromkeys(self.meaning.values()) if organ not in (IGNORE, BACKGROUND)]


@dataclass(frozen=True)
class StudyDraft:
    """The study.

    Attributes:
        organs: Its organs.
        datasets: Its datasets, training datasets first.
        spacing_mm: Median voxel size of the training scans that were looked at, (x, y, z) in RAS.
    """

    organs: Sequence[str]
    datasets: Sequence[DatasetDraft]
    spacing_mm: tuple[float, float, float]


def find_candidates(paths: Sequence[Path], answers: Answers) -> list[Candidate]:
    """Return the datasets at some paths.

    Raises:
        ConfigError: If nothing is recognised at one of them, or an answer fits no dataset.
        DataError: If label files have to be opened and cannot be read.
    """
    found = {data.root: data for path in paths for data in datasets_at(path, answers.adapters)}
    for option, told in (("adapter", answers.adapters), ("label", answers.labels), ("role", answers.roles)):
        for key in told:
            if not any(root.match(key) for root in found):
                names = ", ".join(root.name for root in found)
                raise ConfigError(f"--{option} {key}…: no dataset of this name was found; there are {names}")
    return [Candidate(data, labels_of(data, told_of(data.root, answers.labels, {}))) for data in found.values()]


def draft_study(candidates: Sequence[Candidate], answers: Answers) -> StudyDraft:
    """Return the study that some datasets make.

    Datasets of one organ are trained on. Where there are such, those of several organs are external tests on the same
    organs; where there are none, all are trained on. `answers` comes first in everything.

    Raises:
        ConfigError: If an organ is labelled by no training dataset, or a value has no meaning.
        DataError: If a scan's header cannot be read.
    """
    for candidate in candidates:
        if candidate.unnamed:
            raise ConfigError(_unnamed(candidate))
    labelled = {id(c): _wanted(organs_of(c.labels), answers) for c in candidates}
    roles = {id(c): told_of(c.found.root, answers.roles, _role(labelled[id(c)], labelled.values())) for c in candidates}
    available = [organ for c in candidates if roles[id(c)] == "train" for organ in labelled[id(c)]]
    organs = list(answers.organs) or list(dict.fromkeys(available))
    if lacking := [organ for organ in organs if organ not in available]:
        every = sorted({organ for c in candidates for organ in organs_of(c.labels)})
        raise ConfigError(
            f"--organs {','.join(lacking)}: no training dataset labels it; the datasets label {', '.join(every)}"
        )
    if not organs:
        raise ConfigError("no dataset to train on; write for one of them --role FOLDER=train")
    drafts: list[DatasetDraft] = []
    for candidate in sorted(candidates, key=lambda c: ROLES.index(roles[id(c)])):
        own = [organ for organ in labelled[id(candidate)] if organ in organs]
        if not own:
            raise ConfigError(f"{candidate.found.root} labels none of {', '.join(organs)}; leave it out")
        name = _name(own[0] if len(own) == 1 else candidate.found.root.stem, [draft.name for draft in drafts])
        drafts.append(_draft(name, candidate, roles[id(candidate)], organs))
    return StudyDraft(organs, drafts, _median_spacing_mm([d for d in drafts if d.role == "train"]))


def _wanted(organs: list[str], answers: Answers) -> list[str]:
    return [organ for organ in organs if not answers.organs or organ in answers.organs]


def _role(own: Sequence[str], every: Any) -> Role:
    single = any(len(organs) == 1 for organs in every)
    return "external" if single and len(own) > 1 else "train"


def _draft(name: str, candidate: Candidate, role: Role, organs: Sequence[str]) -> DatasetDraft:
    labels = candidate.labels
    names: dict[Any, str] = dict(labels.values)
    if labels.structures:
        names = {s: s for s in labels.structures if read_label_name(s).organ in organs}
    meaning = organ_map(names, organs)
    split = split_of(name, candidate.found.cases) if role == "train" else {}
    return DatasetDraft(name, candidate.found, role, names, meaning, split)


def split_of(name: str, cases: Sequence[RawCase]) -> dict[str, Any]:
    """Return the section `split` that suits a dataset: what its layout states, what the field uses, or a hash.

    Args:
        name: Name of the dataset in the study; a hash depends on it.
        cases: Its cases.
    """
    stated = {case.native_split for case in cases}
    if {"train", "test"} <= stated and None not in stated:
        return {"kind": "native"}
    builtin: list[dict[str, Any]] = [{"kind": "builtin", "name": table} for table in BUILTIN_PREFIXES]
    shares = [(0.1, 0.2), (0.2, 0.2), (0.0, 0.3)]
    hashed: list[dict[str, Any]] = [
        {"kind": "hash", "val_fraction": val, "test_fraction": test, "seed": seed}
        for val, test in shares
        for seed in range(20)
    ]
    for section in (*builtin, *hashed):
        try:
            assign_splits(name, cases, SplitRule(**section))
        except (ConfigError, DataError):  # this one does not fit: the next
            continue
        return section
    return {"kind": "all", "into": "train"}


def _median_spacing_mm(drafts: Sequence[DatasetDraft]) -> tuple[float, float, float]:
    from mskd.geometry import Geometry
    from mskd.scans import read_scan_grid

    found = []
    for draft in drafts:
        cases = draft.found.cases
        for case in cases[:: max(1, len(cases) // SPACING_CASES)][:SPACING_CASES]:
            shape, affine = read_scan_grid(case.image, case.name)
            found.append(Geometry.of_raw((shape[0], shape[1], shape[2]), affine, (1.0, 1.0, 1.0)).raw_spacing_mm)
    x, y, z = (median(axis) for axis in zip(*found, strict=True))
    return x, y, z


def _name(wanted: str, taken: Sequence[str]) -> str:
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", wanted).strip("_.-") or "dataset"
    return next(name for n in range(1, len(taken) + 2) if (name := plain if n == 1 else f"{plain}_{n}") not in taken)


def _unnamed(candidate: Candidate) -> str:
    root = candidate.found.root
    flags = " ".join(f"--label {root.name}:{value}=ORGAN" for value in candidate.unnamed)
    known = ", ".join(ORGANS)
    return (
        f"{root}: nothing says what the values {', '.join(map(str, candidate.unnamed))} in its label files mean\n"
        f"  write: {flags}\n"
        f"  with an organ ({known}, or any other name), {IGNORE} or {BACKGROUND}"
    )
