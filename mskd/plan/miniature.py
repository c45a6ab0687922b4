"""A miniature of a study: the same networks, patches and methods on one made-up case per dataset, for few steps."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mskd.cases import Case, list_cases
from mskd.config.loading import parse_study
from mskd.config.study import Study
from mskd.config.training import Training
from mskd.geometry import Geometry
from mskd.layout import Layout
from mskd.manifest import Manifest
from mskd.methods.registry import method_facts
from mskd.preparation import sample_foreground
from mskd.prepared import PreparedArrays, write_prepared

Triple = tuple[int, int, int]
RUN = "fold0-seed0"
TILE = 64


def miniature(
    study: Study, root: Path, steps: Mapping[str, int], patches: Mapping[str, Triple], window: Triple
) -> Study:
    """Return a study that trains briefly below another folder.

    Args:
        study: The study.
        root: Folder for its results.
        steps: `teacher/<name>` or `method/<row>` → optimiser steps; 1 for others.
        patches: The same → patch in voxels; the study's own for others.
        window: Sliding window in voxels.
    """
    data = study.model_dump(mode="json")
    data |= {"results": str(root), "runs": {}, "datasets": {}}
    one_case = {"layout": "msd", "n_train": 1, "n_val": 0, "n_test": 0}
    for name, dataset in study.datasets.items():
        if dataset.role == "train":
            section = dataset.model_dump(mode="json", exclude={"split", "path"})
            data["datasets"][name] = {**section, "phantom": one_case, "blocks": 1}
    for kind, names in (("teacher", study.trained_teachers), ("method", study.methods)):
        for name in names:
            own = data[f"{kind}s"][name]
            own["training"] = {**own["training"], **_brief(steps.get(f"{kind}/{name}", 1))}
            if patch := patches.get(f"{kind}/{name}"):
                own["training"]["patch_size"] = list(patch)
    data["inference"]["window"] = list(window)
    data["cache"]["root"] = None
    return parse_study(data, source="miniature of the study")


def trainings(study: Study) -> dict[str, Training]:
    """Return the training section of every `teacher/<name>` and `method/<row>`."""
    found = {f"teacher/{name}": study.teacher_training(name) for name in study.trained_teachers}
    return found | {f"method/{name}": study.method_training(name) for name in study.methods}


def alike(study: Study) -> dict[str, list[str]]:
    """Return one trainee per kind of cost, with the others that cost the same; the first is a teacher."""
    groups: dict[Any, list[str]] = {}
    for name, section in trainings(study).items():
        kind, _, row = name.partition("/")
        size: tuple[Any, ...] = (section.patch_size, section.batch_size, section.loss, section.optimiser)
        if kind == "teacher":
            groups.setdefault(("teacher", len(study.teacher_organs(row)), *size), []).append(name)
        elif method_facts(study.method_kind(row)).trains:
            weights = study.method_distillation(row)
            used = (weights.feature_weight > 0, weights.logit_weight > 0, str(weights.feature_taps))
            groups.setdefault((study.method_kind(row), used, *size), []).append(name)
    return {names[0]: names[1:] for names in groups.values()}


def smaller(size: Triple, stride: Triple, allowed: float) -> Triple:
    """Halve the longest axes of a size until at most the allowed share of its voxels is left, or two strides."""
    now = list(size)
    while prod(now) > allowed * prod(size):
        axes = [axis for axis in range(3) if now[axis] > 2 * stride[axis]]
        if not axes:
            break
        axis = max(axes, key=lambda a: now[a] / stride[a])
        now[axis] = max(2, now[axis] // 2 // stride[axis]) * stride[axis]
    return now[0], now[1], now[2]


def fill_miniature(mini: Study, *, withheld: bool) -> None:
    """Write the prepared stores, as large as the largest patch and the window, and their manifests.

    Args:
        mini: What `miniature` returned.
        withheld: Whether full label maps are written as well.
    """
    layout = Layout(mini.root)
    sizes = [mini.window, *(section.patch_size for section in trainings(mini).values())]
    shape = max(size[0] for size in sizes), max(size[1] for size in sizes), max(size[2] for size in sizes)
    for name in mini.datasets:
        case = list_cases(mini, name)[0]
        arrays = made_up(mini, shape, case, withheld=withheld)
        path = layout.prepared(case.dataset, case.block, case.name)
        digests = write_prepared(path, arrays, key="miniature", attributes={})
        entries = {case.id: {"key": "miniature", **digests}}
        Manifest("prepare", entries).write(layout.manifest("prepare", case.dataset, case.block))


def made_up(
    study: Study, shape: Triple, case: Case | None = None, *, withheld: bool = False, raw_per_study: float = 1.0
) -> PreparedArrays:
    """Return prepared arrays of noise, body everywhere, organs as cubes in the middle.

    Args:
        study: For intensities and organs.
        shape: Shape on the study grid.
        case: Whose dataset's organs are labelled; None for none.
        withheld: Whether all organs are known.
        raw_per_study: Voxels of the raw file per voxel of the study grid, along an axis.
    """
    rng = np.random.default_rng(0)
    image = _tiled(rng.uniform(*study.preprocessing.hu_clip, (TILE,) * 3), shape).astype(np.int16)
    everything = np.zeros(shape, np.uint8)
    for value in study.label_values.values():
        first = (value - 1) * shape[0] // (2 * len(study.organs)) + shape[0] // 4
        last = max(first + 1, value * shape[0] // (2 * len(study.organs)) + shape[0] // 4)
        everything[first:last, shape[1] // 3 : 2 * shape[1] // 3 + 1, shape[2] // 3 : 2 * shape[2] // 3 + 1] = value
    known = study.datasets[case.dataset].labelled_organs if case else []
    values = [study.label_values[organ] for organ in known if organ in study.label_values]
    labels = np.where(np.isin(everything, values), everything, np.uint8(0))
    raw_mm = np.asarray(study.preprocessing.spacing_mm) / raw_per_study
    raw_shape = [max(1, round(n * raw_per_study)) for n in shape]
    affine = np.diag([*raw_mm, 1.0])
    geometry = Geometry.of_raw((raw_shape[0], raw_shape[1], raw_shape[2]), affine, study.preprocessing.spacing_mm)
    foreground = sample_foreground(labels, study.preprocessing.foreground_voxels, 0)
    geometry = geometry.cropped((0, 0, 0), shape)
    return PreparedArrays(image, np.ones(shape, bool), labels, everything if withheld else None, foreground, geometry)


def whole(size: list[float], stride: Triple) -> Triple:
    """Return a size rounded up to multiples of a stride."""
    n = [ceil(s / g) * g for s, g in zip(size, stride, strict=True)]
    return n[0], n[1], n[2]


def _brief(steps: int) -> dict[str, Any]:
    every = {"validate_every": steps, "checkpoint_every": steps, "log_every": 1}
    return {"steps": steps, "validation_cases": 0, "schedule_steps": None, **every}


def _tiled(block: npt.NDArray[Any], shape: Triple) -> npt.NDArray[Any]:
    repeats = [-(-n // b) for n, b in zip(shape, block.shape, strict=True)]
    return np.tile(block, repeats)[: shape[0], : shape[1], : shape[2]]
