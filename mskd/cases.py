"""The cases of a study: what lies on disk, in which block, in which split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mskd.config.data import Dataset
from mskd.config.study import GIVEN, Study
from mskd.datasets.blocks import MOST_CASES, block_of, default_blocks
from mskd.datasets.case import LabelFile, RawCase, Split
from mskd.datasets.collection import WHOLE_DATASET, ListingError
from mskd.datasets.listing import find_cases
from mskd.datasets.splits import SplitRule, assign_splits, hash_fraction
from mskd.errors import ConfigError
from mskd.layout import Layout
from mskd.phantom.layouts import phantom_case_files


@dataclass(frozen=True)
class Case:
    """A scan of a study.

    Attributes:
        dataset: Name of its dataset.
        name: Name inside the dataset.
        block: Bucket of cases that one job works on.
        image: Scan on disk.
        labels: Label files; empty where there are none.
        withheld: Full label map that only full_labels and evaluation may read, or None.
        split: train, val or test in this fold.
    """

    dataset: str
    name: str
    block: str
    image: Path
    labels: tuple[LabelFile, ...]
    withheld: Path | None
    split: Split

    @property
    def id(self) -> str:
        """`<dataset>/<case>`."""
        return f"{self.dataset}/{self.name}"


def data_root(study: Study, name: str) -> Path:
    """Return the folder of a dataset: where it is read in place, or where its phantoms are made."""
    path = study.datasets[name].path
    return path if path is not None else Layout(study.root).phantoms(name)


def list_cases(study: Study, name: str, fold: int = 0) -> list[Case]:
    """Return a dataset's cases in natural order; no image is opened.

    Args:
        study: The study.
        name: Dataset.
        fold: Fold of cross-validation; 0 where there is none.

    Raises:
        ConfigError: If the split cannot be made.
        DataError: If the files are not as the adapter's layout says.
    """
    try:
        raw, refused = raw_cases(study, name), False
    except ListingError as error:
        if study.on_bad_case == "stop" or any(problem.case == WHOLE_DATASET for problem in error.problems):
            raise
        raw, refused = list(error.cases), True  # `check_data` names those that are left out
    return place_cases(study, name, raw, split_cases(study, name, raw, fold, allow_missing=refused))


def raw_cases(study: Study, name: str) -> list[RawCase]:
    """Return a dataset's cases as its layout presents them, in natural order.

    Raises:
        DataError: If the files are not as the adapter's layout says.
    """
    dataset, root = study.datasets[name], data_root(study, name)
    if dataset.phantom is not None:
        files = phantom_case_files(root, dataset.phantom)
        return [RawCase(f.name, f.image, (LabelFile(f.label),), f.split) for f in files]
    return find_cases(dataset.adapter, root, dataset.options)


def split_cases(
    study: Study, name: str, raw: Sequence[RawCase], fold: int = 0, *, allow_missing: bool = False
) -> dict[str, Split]:
    """Return the split of a dataset's cases by name; with `allow_missing`, a table may name others.

    Raises:
        ConfigError: If the split cannot be made.
        DataError: If the split's table does not fit the cases.
    """
    rule = _rule(study, name, study.datasets[name], fold)
    return assign_splits(name, raw, replace(rule, allow_missing=rule.allow_missing or allow_missing))


def place_cases(study: Study, name: str, raw: Sequence[RawCase], splits: Mapping[str, Split]) -> list[Case]:
    """Return the study's view of all cases of a dataset.

    Raises:
        ConfigError: If there are so few blocks that a folder would hold too many files.
    """
    dataset, root = study.datasets[name], data_root(study, name)
    n_blocks = block_count(study, name, len(raw))
    cases = [
        Case(
            dataset=name,
            name=case.name,
            block=block_of(f"{name}/{case.name}", n_blocks),
            image=case.image,
            labels=case.labels,
            withheld=root / "withheld" / f"{case.name}.nii.gz" if dataset.withheld else None,
            split=splits[case.name],
        )
        for case in raw
    ]
    largest = max(Counter(case.block for case in cases).values(), default=0)
    if largest > MOST_CASES:
        raise ConfigError(
            f"datasets.{name}.blocks: {n_blocks} puts {largest} cases into one folder, more than {MOST_CASES}; write\n"
            f"  blocks: {default_blocks(len(cases))}\nor leave the key out"
        )
    return cases


def block_count(study: Study, name: str, n_cases: int) -> int:
    """Return the number of blocks of a dataset of so many cases."""
    blocks = study.datasets[name].blocks
    return default_blocks(n_cases) if blocks is None else blocks


def by_block(cases: list[Case]) -> dict[str, list[Case]]:
    """Return cases by block, blocks in order, empty blocks left out."""
    blocks: dict[str, list[Case]] = {}
    for case in cases:
        blocks.setdefault(case.block, []).append(case)
    return dict(sorted(blocks.items()))


def fold_of_run(run: str) -> int:
    """Return the fold of a run name `fold<f>-seed<s>`; 0 for teachers that exist already."""
    return 0 if run == GIVEN else int(run.split("-")[0].removeprefix("fold"))


def seed_of_run(run: str) -> int:
    """Return the seed of a run name `fold<f>-seed<s>`."""
    return int(run.split("-")[1].removeprefix("seed"))


def is_part(run: str) -> bool:
    """Return whether a run name is `fold<f>-seed<s>-part<p>`: teachers that left a part of their cases out."""
    return run.count("-") == 2


def has_logits_alone(run: str) -> bool:
    """Return whether targets of a run hold no features: those of part runs, and of teachers that exist already."""
    return is_part(run) or run == GIVEN


def held_out(study: Study, run: str, cases: list[Case]) -> list[Case]:
    """Return the training cases that a teacher of this run left out, to be asked about them (cross-fitting).

    Training cases are dealt to the parts in the order of a hash of their ids: parts differ by one case at most, which
    few cases need. A new case may move others to another part; only teachers of parts are then trained again.

    Args:
        study: The study.
        run: Run; of one that is no part run nothing is left out.
        cases: All cases of the teacher's dataset in this fold.
    """
    if not is_part(run):
        return []
    learns = [case for case in cases if case.split == "train"]
    dealt = sorted(learns, key=lambda case: (hash_fraction(case.id, 0, "part"), case.id))
    chosen = {case.id for case in dealt[int(run.rsplit("-part", 1)[1]) :: study.runs.parts]}
    return [case for case in learns if case.id in chosen]


def _rule(study: Study, name: str, dataset: Dataset, fold: int) -> SplitRule:
    split = dataset.split
    if dataset.role == "external":
        return SplitRule("all", into="test")
    if study.runs.folds > 1:
        return SplitRule("fold", val_fraction=split.val_fraction, seed=split.seed, n_folds=study.runs.folds, fold=fold)
    if dataset.phantom is not None:
        return SplitRule("native", val_fraction=0)
    return SplitRule(
        split.kind,
        val_fraction=split.val_fraction,
        test_fraction=split.test_fraction,
        seed=split.seed,
        name=split.name or name,
        path=split.path,
        into=split.into,
        allow_missing=split.allow_missing,
    )


def check_study_cases(study: Study) -> dict[str, Counter[str]]:
    """Return the number of cases per dataset and split.

    Raises:
        ConfigError: If a training dataset has no training case, or too few to cross-fit a teacher.
    """
    counts = {name: Counter[str](case.split for case in list_cases(study, name)) for name in study.datasets}
    for name, dataset in study.datasets.items():
        if dataset.role == "train" and not counts[name]["train"]:
            raise ConfigError(
                f"datasets.{name} has no training case (found {dict(counts[name])}); "
                f"write another split there, for example `split: {{kind: hash, val_fraction: 0.1, test_fraction: 0.2}}`"
            )
    for teacher in study.trained_teachers if study.cross_fits else ():
        name = study.teacher_dataset(teacher)
        for fold in range(study.runs.folds):
            learns = sum(case.split == "train" for case in list_cases(study, name, fold))
            if learns < 2:
                raise ConfigError(
                    f"targets: cross_fitted needs at least two training cases of datasets.{name}, found {learns}; add "
                    "cases, or write `distillation: {targets: in_sample}`"
                )
    return counts
