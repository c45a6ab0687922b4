"""A model folder of ours, of this study or another, of one organ or many, with its own preprocessing.

Its weights are safetensors, which hold no code. Its features are left out: a projection belongs to the study.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mskd.config.teachers import Teacher

if TYPE_CHECKING:
    import torch

    from mskd.config.study import Study
    from mskd.teachers.windowed import WindowedTeacher


def model_files(section: Teacher) -> list[Path]:
    """Return card and weights.

    Raises:
        MskdError: If they are not there.
    """
    from mskd.models import CARD, WEIGHTS, read_card

    assert section.path is not None
    read_card(section.path)
    return [section.path / CARD, section.path / WEIGHTS]


def class_names(section: Teacher) -> list[str]:
    """Return its labels, the background first.

    Raises:
        MskdError: If the card cannot be read.
    """
    from mskd.models import read_card

    assert section.path is not None
    labels = read_card(section.path)["labels"]
    return ["background", *sorted(labels, key=lambda organ: int(labels[organ]))]


def load(study: Study, teacher: str, run: str, device: torch.device) -> WindowedTeacher:
    """Load the model.

    Raises:
        MskdError: If it is missing or damaged.
    """
    from mskd.inference import Windows
    from mskd.models import load_model
    from mskd.teachers.classes import organ_channels
    from mskd.teachers.windowed import Spec, WindowedTeacher

    del run
    section = study.teachers[teacher]
    assert section.path is not None
    model = load_model(section.path, device)
    names = ["background", *model.labels]
    low, high = model.preprocessing.hu_clip
    inference = study.inference
    windows = Windows(model.window, model.overlap, model.stride, inference.batch_size, inference.precision)
    spec = Spec(model.preprocessing, windows, (low + high) / 2, (high - low) / 2, names)
    channels = organ_channels(study, teacher, names)
    return WindowedTeacher(
        lambda batch: (model.network(batch), {}),
        spec,
        study.teacher_organs(teacher),
        channels,
        str(model.card["weights_sha256"]),
        device=device,
    )
