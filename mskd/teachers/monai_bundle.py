"""A MONAI bundle: a folder with configs/, models/ and an inference configuration.

M. J. Cardoso, W. Li, R. Brown, et al., *MONAI: an open-source framework for deep learning in healthcare*, 2022 (arXiv
2211.02701). Its own `preprocessing`, `network_def` and `inferer` run, in MONAI. A bundle's configuration names Python
functions that are called: it is code, and has to be trusted by its checksum.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from mskd.config.teachers import Teacher
from mskd.errors import MskdError

if TYPE_CHECKING:
    import torch

    from mskd.config.study import Study
    from mskd.teachers.whole_scan import WholeScanTeacher

CONFIGS = ("configs/inference.json", "configs/inference.yaml", "configs/inference.yml")
METADATA = "configs/metadata.json"


def model_files(section: Teacher) -> list[Path]:
    """Return configuration, metadata and weights.

    Raises:
        MskdError: If they are not there.
    """
    assert section.path is not None
    found = [_config(section), section.path / section.weights]
    if not found[1].is_file():
        raise MskdError(
            f"{found[1]}: no such file\n  expected: the weights of the bundle\n"
            "  way out:  correct `weights` of this teacher, or download the bundle again"
        )
    return [*found, *(path for path in [section.path / METADATA] if path.is_file())]


def class_names(section: Teacher) -> list[str] | None:
    """Return the names of its channels as metadata.json gives them; None where it gives none.

    Raises:
        MskdError: If metadata.json cannot be read.
    """
    assert section.path is not None
    path = section.path / METADATA
    if not path.is_file():
        return None
    try:
        outputs = json.loads(path.read_text(encoding="utf-8"))["network_data_format"]["outputs"]
        named = next(iter(outputs.values()))["channel_def"]
        return [str(named[str(channel)]) for channel in range(len(named))]
    except (KeyError, StopIteration):
        return None
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise MskdError(f"{path} cannot be read ({error}); download the bundle again") from error


def load(study: Study, teacher: str, run: str, device: torch.device) -> WholeScanTeacher:
    """Start MONAI on the bundle.

    Raises:
        MskdError: If it is not there, not trusted, or cannot be loaded.
    """
    from mskd.provenance import content_key, file_digest
    from mskd.teachers.classes import organ_channels
    from mskd.teachers.runner import Runner
    from mskd.teachers.trust import refuse, trusted_files
    from mskd.teachers.whole_scan import WholeScanTeacher

    del run
    section = study.teachers[teacher]
    assert section.path is not None
    files = model_files(section)
    config, weights = files[:2]
    trusted = trusted_files(section, files)
    if config not in trusted:
        raise refuse(teacher, config, "a bundle's configuration, which names functions to call")
    named = class_names(section)
    names = named if named is not None else _numbered(section)
    channels = organ_channels(study, teacher, names)
    model = {
        "folder": str(section.path.resolve()),
        "config": str(config.resolve()),
        "metadata": str(files[2].resolve()) if len(files) > 2 else "",
        "weights": str(weights.resolve()),
        "trusted": [str(path.resolve()) for path in trusted],
    }
    runner = Runner(teacher, "monai_bundle", model, section.python, str(device))
    digest = content_key(files=[file_digest(path) for path in files])
    return WholeScanTeacher(runner, study.teacher_organs(teacher), channels, section.activation, digest)


def _config(section: Teacher) -> Path:
    assert section.path is not None
    wanted = [section.inference_config] if section.inference_config else list(CONFIGS)
    for name in wanted:
        if (section.path / name).is_file():
            return section.path / name
    raise MskdError(
        f"{section.path}: no inference configuration\n  expected: {' or '.join(wanted)}\n"
        f"  found:    {'no such folder' if not section.path.is_dir() else 'a folder without it'}\n"
        "  way out:  let `path` be the bundle's folder, and `inference_config` its configuration"
    )


def _numbered(section: Teacher) -> list[str]:
    """Return names for channels of which only the numbers are known."""
    highest = max((label for label in section.classes if isinstance(label, int)), default=0)
    return [f"channel {number}" for number in range(highest + 1)]
