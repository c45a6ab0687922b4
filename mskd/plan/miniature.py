"""A miniature of a study: the same networks, patches and methods on one made-up case per dataset, for few steps."""

from __future__ import annotations

import time
from collections.abc import Mapping
from math import ceil, prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mskd.cache.encoding import encode_targets
from mskd.cache.settings import cache_settings
from mskd.cache.store import write_store
from mskd.cases import Case, list_cases
from mskd.config.loading import parse_study
from mskd.config.study import GIVEN, Study
from mskd.config.training import Training
from mskd.geometry import Geometry
from mskd.layout import Layout, target_place
from mskd.manifest import Manifest
from mskd.methods.registry import method_facts
from mskd.plan.volume_costs import folder_bytes
from mskd.preparation import sample_foreground
from mskd.prepared import PreparedArrays, PreparedCase, write_prepared
from mskd.teachers.base import TeacherTargets

Triple = tuple[int, int, int]
RUN = "fold0-seed0"
TILE = 64
MADE_UP = "miniature"  # key of what no stage made


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
    # neither asks another network of a training step, but both read more than a miniature has
    for section in (data["distillation"], *(row["distillation"] for row in data["methods"].values())):
        section |= {key: plain for key, plain in {"targets": "in_sample", "combine": "mean"}.items() if key in section}
    data["inference"]["window"] = list(window)
    data["cache"]["root"] = None
    return parse_study(data, source="miniature of the study")


def trainings(study: Study) -> dict[str, Training]:
    """Return the training section of every `teacher/<name>` and `method/<row>`."""
    found = {f"teacher/{name}": study.teacher_training(name) for name in study.trained_teachers}
    return found | {f"method/{name}": study.method_training(name) for name in study.methods}


def alike(study: Study) -> dict[str, list[str]]:
    """Return one trainee per kind of cost, with the others that cost the same; teachers of this study come first."""
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
    """Write the prepared stores, as large as the largest patch and the window, and what given teachers say of them.

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
        digests = write_prepared(path, arrays, key=MADE_UP, attributes={})
        entries = {case.id: {"key": MADE_UP, **digests}}
        Manifest("prepare", entries).write(layout.manifest("prepare", case.dataset, case.block))
        for teacher, section in mini.teachers.items():
            if section.given and mini.teacher_covers(teacher, name):
                make_up_targets(mini, teacher, case)


def make_up_targets(mini: Study, teacher: str, case: Case) -> tuple[float, int]:
    """Write made-up targets of a teacher that exists already: it is not asked, for it may take hours.

    Returns:
        Seconds that encoding and writing took, and bytes.
    """
    layout, settings = Layout(mini.root), cache_settings(mini.cache, logits_alone=True)
    prepared = PreparedCase(layout.prepared(case.dataset, case.block, case.name), case.id)
    organs = mini.teacher_organs(teacher)
    noise = np.random.default_rng(0).normal(0, 1, (TILE,) * 3).astype(np.float32)
    inside, spread = prepared.read("labels") > 0, _tiled(noise, prepared.shape)
    said = TeacherTargets(np.stack([np.where(inside, 5, -5) + spread for _ in organs]), {}, {})
    started = time.monotonic()
    arrays = encode_targets(
        said,
        settings,
        truth=None,
        body=prepared.read("body").astype(bool),
        spacing_mm=mini.preprocessing.spacing_mm,
        projections={},
        seed=case.id,
    )
    place = target_place(mini.cache_root, teacher, GIVEN, case.dataset, case.block, case.name)
    affine, attributes = prepared.geometry.affine, {"case": case.id, "teacher": teacher, "organs": organs}
    content = write_store(place, arrays, key=MADE_UP, level=settings.level, affine=affine, attributes=attributes)
    taken_s = time.monotonic() - started
    entries = {case.id: {"key": MADE_UP, "content": content}}
    Manifest("cache_targets", entries).write(layout.manifest("cache_targets", teacher, GIVEN, case.dataset, case.block))
    return taken_s, folder_bytes(Path(place))


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
