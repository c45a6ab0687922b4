"""What teachers that are one file of a network have in common: ONNX and torch.export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mskd.config.teachers import Teacher
from mskd.errors import MskdError

if TYPE_CHECKING:
    import torch

    from mskd.config.study import Study
    from mskd.teachers.windowed import WindowedTeacher


def network_files(section: Teacher) -> list[Path]:
    """Return the network, weights beside it, and its preprocessing.

    Raises:
        MskdError: If they are not there.
    """
    from mskd.teachers.windowed import spec_file

    assert section.path is not None
    beside = section.path.with_name(f"{section.path.name}.data")
    return [section.path, spec_file(section.path, section.preprocessing), *([beside] if beside.is_file() else [])]


def network_classes(section: Teacher) -> list[str]:
    """Return what the preprocessing calls the channels.

    Raises:
        MskdError: If it cannot be read.
    """
    from mskd.teachers.windowed import read_spec, spec_file

    assert section.path is not None
    return read_spec(spec_file(section.path, section.preprocessing)).channels


def load_network(study: Study, teacher: str, device: torch.device) -> WindowedTeacher:
    """Start a process that runs the network on windows.

    Raises:
        MskdError: If it is not there, not trusted, or cannot be loaded.
    """
    import torch as torch_

    from mskd.provenance import content_key, file_digest
    from mskd.teachers.classes import organ_channels
    from mskd.teachers.runner import Runner
    from mskd.teachers.trust import trusted_files
    from mskd.teachers.windowed import WindowedTeacher, read_spec

    section = study.teachers[teacher]
    files = network_files(section)
    spec = read_spec(files[1])
    channels = organ_channels(study, teacher, spec.channels)
    model = {
        "file": str(files[0].resolve()),
        "threads": study.inference.threads,
        "trusted": [str(path.resolve()) for path in trusted_files(section, files[:1])],
    }
    runner = Runner(teacher, section.kind, model, section.python, str(device))

    def forward(batch: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        scores = runner.forward(batch.numpy())
        if scores.shape[1] != len(spec.channels):
            raise MskdError(
                f"teacher {teacher}: {section.path} gives {scores.shape[1]} channels\n"
                f"  expected: {len(spec.channels)}, as {files[1]} says: {', '.join(spec.channels)}"
            )
        return torch_.from_numpy(scores), {}

    digest = content_key(files=[file_digest(path) for path in files])
    organs = study.teacher_organs(teacher)
    return WindowedTeacher(forward, spec, organs, channels, digest, section.activation)
