"""What stages read of the stages before them."""

from __future__ import annotations

from collections.abc import Iterable

from mskd.cases import Case, fold_of_run, list_cases
from mskd.config.study import Study
from mskd.layout import Layout
from mskd.manifest import Manifest, merge, read_manifest


def training_datasets(study: Study) -> list[str]:
    """Return the datasets whose cases students and teachers learn from."""
    return [name for name, dataset in study.datasets.items() if dataset.role == "train"]


def prepared_manifest(study: Study, cases: Iterable[Case]) -> Manifest:
    """Return what `prepare` made of these cases' blocks."""
    layout = Layout(study.root)
    blocks = sorted({(case.dataset, case.block) for case in cases})
    return merge([read_manifest(layout.manifest("prepare", *block)) for block in blocks])


def cases_of(study: Study, datasets: Iterable[str], run: str, splits: Iterable[str]) -> list[Case]:
    """Return the cases of datasets that fall into some splits in a run."""
    wanted = set(splits)
    fold = fold_of_run(run)
    return [case for name in datasets for case in list_cases(study, name, fold) if case.split in wanted]
