"""What trainings read: cases, their sampler, and the function that validates."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch
from torch import nn

from mskd.cases import Case
from mskd.config.study import Study
from mskd.config.training import Training
from mskd.inference import study_windows
from mskd.layout import Layout, target_place
from mskd.training.cases import MemoryBudget, TrainingCase
from mskd.training.loop import Validate
from mskd.training.patches import PatchDataset, PatchNeeds
from mskd.training.validation import validation_dice


def training_cases(
    study: Study,
    cases: Iterable[Case],
    training: Training,
    targets: dict[str, str] | None = None,
    contents: dict[str, dict[str, str]] | None = None,
) -> list[TrainingCase]:
    """Return cases as training reads them.

    Args:
        study: The study.
        cases: Which.
        training: For the memory that may be kept.
        targets: Teacher → run whose cached targets are read; None for none.
        contents: Teacher → case id → digest that the targets must have.
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
                teacher: target_place(study.cache_root, teacher, run, case.dataset, case.block, case.name)
                for teacher, run in (targets or {}).items()
                if study.teacher_covers(teacher, case.dataset)
            },
            contents={
                teacher: of_cases[case.id] for teacher, of_cases in (contents or {}).items() if case.id in of_cases
            },
            budget=budget,
        )
        for case in cases
    ]


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
        voices={name: len(study.teacher_organs(name)) for name in study.teachers},
    )
