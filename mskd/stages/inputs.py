"""What stages read of the stages before them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch
from torch import nn

from mskd.cases import Case, fold_of_run, list_cases
from mskd.config.study import Study
from mskd.config.training import Training
from mskd.inference import Windows
from mskd.layout import Layout
from mskd.manifest import Manifest, merge, read_manifest
from mskd.training.cases import MemoryBudget, TrainingCase
from mskd.training.loop import Validate
from mskd.training.patches import PatchDataset, PatchNeeds
from mskd.training.validation import validation_dice


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


def training_cases(
    study: Study, cases: Iterable[Case], training: Training, targets: dict[str, str] | None = None
) -> list[TrainingCase]:
    """Return cases as training reads them.

    Args:
        study: The study.
        cases: Which.
        training: For the memory that may be kept.
        targets: Teacher → run whose cached targets are read; None for none.
    """
    layout = Layout(study.root)
    budget = MemoryBudget(int(training.ram_cache_gib * 2**30))
    return [
        TrainingCase(
            case=case.id,
            dataset=case.dataset,
            prepared_path=layout.prepared(case.dataset, case.block, case.name),
            labelled=[study.label_values[organ] for organ in study.datasets[case.dataset].labelled_organs],
            targets={
                teacher: layout.targets(teacher, run, case.dataset, case.block, case.name)
                for teacher, run in (targets or {}).items()
            },
            budget=budget,
        )
        for case in cases
    ]


def study_windows(study: Study) -> Windows:
    """Return the sliding window of a study."""
    inference = study.inference
    return Windows(study.window, inference.overlap, study.network.coarsest_stride, inference.batch_size)


def validator(
    study: Study,
    network: nn.Module,
    cases: list[Case],
    training: Training,
    channels: dict[str, int],
    device: torch.device,
) -> Validate:
    """Return a function that scores a network on the first validation cases of every dataset.

    Args:
        study: The study.
        network: Image → scores.
        cases: Validation cases.
        training: How many cases per dataset.
        channels: Organ → output channel.
        device: Where to compute.
    """
    chosen: list[Case] = []
    for case in cases:
        if sum(c.dataset == case.dataset for c in chosen) < training.validation_cases:
            chosen.append(case)
    return partial(
        validation_dice,
        network,
        training_cases(study, chosen, training),
        study_windows(study),
        channels={organ: (channel, study.label_values[organ]) for organ, channel in channels.items()},
        hu_clip=study.preprocessing.hu_clip,
        device=device,
    )


def patches(
    study: Study, cases: list[TrainingCase], training: Training, *, seed: int, needs: PatchNeeds
) -> PatchDataset:
    """Return the sampler of a training."""
    return PatchDataset(
        cases,
        training,
        n_organs=len(study.organs),
        spacing_mm=study.preprocessing.spacing_mm,
        hu_clip=study.preprocessing.hu_clip,
        seed=seed,
        needs=needs,
    )
