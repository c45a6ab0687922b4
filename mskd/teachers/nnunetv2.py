"""A model that nnU-Net v2 trained: a results folder, or what `nnUNetv2_export_model_to_zip` writes.

F. Isensee, P. F. Jaeger, S. A. A. Kohl, et al., *nnU-Net: a self-configuring method for deep learning-based biomedical
image segmentation*, Nature Methods 18, 2021. Its own plans, spacing, normalisation, folds and mirroring are kept: the
tool itself prepares the scan and runs. Between its grid and the study's, logits are interpolated linearly, as it does
(along an axis that it resamples by nearest neighbour, in anisotropic scans, too).
"""

from __future__ import annotations

import json
import re
import zipfile
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from mskd.config.teachers import Teacher
from mskd.errors import MskdError

if TYPE_CHECKING:
    import torch

    from mskd.config.study import Study
    from mskd.teachers.whole_scan import WholeScanTeacher

PLANS, DATASET = "plans.json", "dataset.json"
MAX_DESCRIPTION = 64 * 2**20  # bytes of such a file in an archive


def model_files(section: Teacher) -> list[Path]:
    """Return plans, labels and checkpoints of the folds, or the archive.

    Raises:
        MskdError: If they are not there.
    """
    assert section.path is not None
    if section.path.suffix == ".zip" and section.path.is_file():
        return [section.path]
    folder = _model_folder(section.path, section.path)
    return _needed(folder, _folds(folder, section), section)


def class_names(section: Teacher) -> list[str]:
    """Return the names of its channels: background first, or its regions where it has any.

    Raises:
        MskdError: If dataset.json cannot be read.
    """
    return _channels(_read_json(section, DATASET))


def load(study: Study, teacher: str, run: str, device: torch.device) -> WholeScanTeacher:
    """Start the tool on the model.

    Raises:
        MskdError: If it is not there, not trusted, or cannot be loaded.
    """
    from mskd.archives import unpacked
    from mskd.provenance import content_key, file_digest
    from mskd.teachers.classes import organ_channels
    from mskd.teachers.runner import Runner
    from mskd.teachers.trust import model_file
    from mskd.teachers.whole_scan import WholeScanTeacher

    del run
    section = study.teachers[teacher]
    assert section.path is not None
    names = class_names(section)
    channels = organ_channels(study, teacher, names)
    with ExitStack() as archive:
        place, zipped = section.path, section.path.suffix == ".zip"
        digests = [file_digest(place)] if zipped else []
        if zipped:
            place = archive.enter_context(unpacked(place))
        folder = _model_folder(place, section.path)
        _refuse_cascade(folder, section)
        folds = _folds(folder, section)
        files = []
        for path in _needed(folder, folds, section):
            shown = f"{section.path}: {path.relative_to(place)}" if zipped else str(path)
            files.append(model_file(section, path, path.relative_to(folder).as_posix(), shown))
        model = {
            "folds": folds,
            "checkpoint": section.checkpoint,
            "mirroring": section.mirroring,
            "cascade": _cascade(section),
        }
        threads = study.inference.threads
        runner = Runner(
            teacher, "nnunetv2", model, files=files, python=section.python, device=str(device), threads=threads
        )
    digest = content_key(files=digests or [file.sha256 for file in files])
    activation = "sigmoid" if names[0] != "background" else "softmax"
    return WholeScanTeacher(runner, study.teacher_organs(teacher), channels, activation, digest, names)


def _needed(folder: Path, folds: list[int | str], section: Teacher) -> list[Path]:
    found = [folder / PLANS, folder / DATASET, *(_checkpoint(folder, fold, section) for fold in folds)]
    if missing := [path for path in found if not path.is_file()]:
        raise MskdError(
            f"{section.path}: no {missing[0].relative_to(folder)}\n"
            "  expected: a checkpoint of every fold, plans.json and dataset.json\n"
            "  way out:  correct `folds` or `checkpoint` of this teacher, or copy the whole results folder"
        )
    return found


def _channels(dataset: dict[str, Any]) -> list[str]:
    labels = {name: value for name, value in dataset["labels"].items() if name != "ignore"}
    if not any(isinstance(value, list) and len(value) > 1 for value in labels.values()):
        return sorted(labels, key=lambda name: _value(labels[name]))
    # regions: a channel each, in the order of dataset.json, none for the background
    return [name for name, value in labels.items() if name != "background"]


def _value(label: Any) -> int:
    return int(label[0] if isinstance(label, list) else label)


def _read_json(section: Teacher, name: str) -> dict[str, Any]:
    assert section.path is not None
    try:
        if section.path.suffix == ".zip":
            with zipfile.ZipFile(section.path) as archive:
                inside = _model_members(archive, section.path)
                member = archive.getinfo(f"{inside}/{name}" if inside != "." else name)
                if member.file_size > MAX_DESCRIPTION:
                    raise ValueError(f"{member.file_size} bytes are no description of a model")
                found: dict[str, Any] = json.loads(archive.read(member))
                return found
        found = json.loads((_model_folder(section.path, section.path) / name).read_text(encoding="utf-8"))
        return found
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise MskdError(f"{section.path}: {name} cannot be read ({error}); export or copy the model again") from error


def _model_members(archive: zipfile.ZipFile, path: Path) -> str:
    places = [str(PurePosixPath(name).parent) for name in archive.namelist() if PurePosixPath(name).name == PLANS]
    models = [place for place in places if any(n.startswith(f"{place}/fold_") for n in archive.namelist())]
    return _only([str(place) for place in models], path)


def _model_folder(folder: Path, path: Path) -> Path:
    """Return the folder `trainer__plans__configuration`, which is the one given or below it."""
    if (folder / PLANS).is_file():
        return folder
    below = [plans.parent for plans in sorted(folder.glob(f"*/{PLANS}")) + sorted(folder.glob(f"*/*/{PLANS}"))]
    return Path(_only([str(place) for place in below if any(place.glob("fold_*"))], path))


def _only(places: list[str], path: Path) -> str:
    if len(places) == 1:
        return places[0]
    found = ", ".join(places) or ("no such folder" if not path.exists() else "none")
    raise MskdError(
        f"{path}: not one model of nnU-Net v2\n"
        f"  expected: a folder <trainer>__<plans>__<configuration> with {PLANS} and fold_*/, or a zip of one\n"
        f"  found:    {found}\n  way out:  let the teacher's `path` be the folder of the model that is meant"
    )


def _folds(folder: Path, section: Teacher) -> list[int | str]:
    if section.folds is not None:
        return list(section.folds)
    names = [place.name.removeprefix("fold_") for place in sorted(folder.glob("fold_*")) if place.is_dir()]
    there = [name for name in names if (folder / f"fold_{name}" / section.checkpoint).is_file()]
    numbered = [int(name) for name in there if re.fullmatch(r"\d+", name)]
    return list(numbered) or list(there)  # `all` is a training without folds


def _checkpoint(folder: Path, fold: int | str, section: Teacher) -> Path:
    return folder / f"fold_{fold}" / section.checkpoint


def _refuse_cascade(folder: Path, section: Teacher) -> None:
    """Refuse the second stage of a cascade: it needs what the first stage says."""
    name = folder.name.rpartition("__")[2]
    configurations = _read_json(section, PLANS).get("configurations", {})
    if name == "3d_cascade_fullres" or _inherited(configurations, name).get("previous_stage"):
        raise MskdError(_cascade(section))


def _inherited(configurations: dict[str, Any], name: str) -> dict[str, Any]:
    chain: list[str] = []
    while name in configurations and name not in chain:
        chain.append(name)
        name = configurations[name].get("inherits_from", "")
    found: dict[str, Any] = {}
    for one in reversed(chain):
        found |= configurations[one]
    return found


def _cascade(section: Teacher) -> str:
    return (
        f"{section.path}: the second stage of a cascade needs the segmentations of its first stage, which is not "
        "supported; take 3d_fullres, or let nnU-Net predict and use the result by `kind: labels`"
    )
