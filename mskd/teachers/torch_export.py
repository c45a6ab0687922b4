"""A network as `torch.export.save` writes it, run in a process of its own, with a preprocessing.json."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mskd.teachers.network_file import load_network
from mskd.teachers.network_file import network_classes as class_names
from mskd.teachers.network_file import network_files as model_files

if TYPE_CHECKING:
    import torch

    from mskd.config.study import Study
    from mskd.teachers.windowed import WindowedTeacher

__all__ = ["class_names", "load", "model_files"]


def load(study: Study, teacher: str, run: str, device: torch.device) -> WindowedTeacher:
    """Start the network's process."""
    del run
    return load_network(study, teacher, device)
