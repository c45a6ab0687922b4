"""What teachers that are one file of a network have in common: ONNX and torch.export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mskd.config.teachers import Teacher
from mskd.errors import MskdError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    from mskd.config.study import Study
    from mskd.teachers.windowed import WindowedTeacher


def network_files(section: Teacher) -> list[Path]:
    """Return the network, its preprocessing, and where weights lie beside it, these.

    Raises:
        MskdError: If they are not there.
    """
    from mskd.teachers.onnx_data import external_data
    from mskd.teachers.windowed import spec_file

    assert section.path is not None
    found = [section.path, spec_file(section.path, section.preprocessing)]
    return [*found, *(external_data(section.path) if section.kind == "onnx" else [])]


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

    from mskd.provenance import content_key
    from mskd.teachers.classes import organ_channels
    from mskd.teachers.runner import Runner
    from mskd.teachers.trust import model_file
    from mskd.teachers.windowed import WindowedTeacher, read_spec

    section = study.teachers[teacher]
    assert section.path is not None
    folder = section.path.parent
    network, described, *data = network_files(section)
    spec = read_spec(described)
    channels = organ_channels(study, teacher, spec.channels)
    files = [model_file(section, path, path.relative_to(folder).as_posix()) for path in (network, *data)]
    described_file = model_file(section, described, described.name)
    threads = study.inference.threads
    model = {"file": files[0].name, "threads": threads}
    runner = Runner(
        teacher, section.kind, model, files=files, python=section.python, device=str(device), threads=threads
    )

    def forward(batch: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        scores = runner.forward(batch.numpy())
        _require(
            scores, (len(batch), len(spec.channels), *batch.shape[2:]), f"teacher {teacher}: {network}", spec.channels
        )
        return torch_.from_numpy(scores), {}

    return WindowedTeacher(
        forward,
        spec,
        study.teacher_organs(teacher),
        channels,
        content_key(files=[file.sha256 for file in (files[0], described_file, *files[1:])]),
        section.activation,
        versions=runner.versions,
        name=teacher,
        twice=False,
    )


def _require(scores: npt.NDArray[np.float32], shape: tuple[int, ...], who: str, names: list[str]) -> None:
    """Refuse scores of another shape, or that are no numbers."""
    import numpy as np

    if scores.ndim == len(shape) and scores.shape[1] != shape[1]:
        raise MskdError(
            f"{who} gives {scores.shape[1]} channels\n"
            f"  expected: {len(names)}, as its preprocessing says: {', '.join(names)}\n"
            "  way out:  correct `channels` of its preprocessing.json"
        )
    if scores.shape != shape:
        raise MskdError(
            f"{who} gives an array of the shape {scores.shape}\n"
            f"  expected: {shape}: batch, channels, and a score for every voxel of the window\n"
            "  way out:  export the network so that its first output is that, or correct `sliding_window`"
        )
    if not np.isfinite(scores).all():
        raise MskdError(
            f"{who} gives scores that are no numbers (NaN or infinite)\n"
            "  way out:  correct `normalisation` of its preprocessing.json, or export the network in float32"
        )
