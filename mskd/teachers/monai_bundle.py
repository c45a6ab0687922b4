"""A MONAI bundle: a folder with configs/, models/ and an inference configuration.

M. J. Cardoso, W. Li, R. Brown, et al., *MONAI: an open-source framework for deep learning in healthcare*, 2022 (arXiv
2211.02701). Its own `preprocessing`, `network_def` and `inferer` run, in MONAI. A bundle's configuration names Python
functions that are called, may take parts of the other ones, and import modules of the bundle: all that is code, and has
to be trusted by its checksums.
"""

from __future__ import annotations

import json
import os
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
CODE = (".json", ".yaml", ".yml")


def model_files(section: Teacher) -> list[Path]:
    """Return the inference configuration, weights, and everything that may be code: configurations and modules.

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
    below = sorted(path for path in section.path.rglob("*") if path.is_file() and _is_code(section.path, path))
    return [*found, *(path for path in below if path not in found)]


def _is_code(folder: Path, path: Path) -> bool:
    parts = path.relative_to(folder).parts
    if any(part.startswith(".") or part == "__pycache__" for part in parts):
        return False
    return path.suffix == ".py" or (parts[0] == "configs" and path.suffix in CODE)


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
    from mskd.provenance import content_key
    from mskd.teachers.classes import organ_channels
    from mskd.teachers.runner import Runner
    from mskd.teachers.trust import model_file, refuse
    from mskd.teachers.whole_scan import WholeScanTeacher

    del run
    section = study.teachers[teacher]
    assert section.path is not None
    files = [model_file(section, path, _name(section.path, path)) for path in model_files(section)]
    config, weights, *others = files
    if untrusted := [file for file in (config, *others) if not file.trusted]:
        raise refuse(teacher, untrusted, "a bundle's configuration, which names functions to call, and its modules")
    names = class_names(section)
    channels = organ_channels(study, teacher, _numbered(section) if names is None else names)
    model = {
        "folder": os.path.normpath(section.path.absolute()),
        "config": config.name,
        "metadata": METADATA if any(file.name == METADATA for file in files) else "",
        "weights": weights.name,
    }
    threads = study.inference.threads
    runner = Runner(
        teacher, "monai_bundle", model, files=files, python=section.python, device=str(device), threads=threads
    )
    digest = content_key(files=[file.sha256 for file in files])
    return WholeScanTeacher(runner, study.teacher_organs(teacher), channels, section.activation, digest, names)


def _name(folder: Path, path: Path) -> str:
    """Return what a file is called below the copy of the bundle."""
    name = Path(os.path.relpath(path, folder)).as_posix()
    return f"elsewhere/{path.name}" if name.startswith("../") else name


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
