"""Tiny prepared cases and target stores, made in code, for the tests of training and targets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mskd.cache.encoding import encode_targets
from mskd.cache.settings import cache_settings
from mskd.cache.store import write_store
from mskd.config.cache import Cache
from mskd.geometry import Geometry
from mskd.prepared import PreparedArrays, write_prepared
from mskd.teachers.base import TeacherTargets
from mskd.training.cases import MemoryBudget, TrainingCase

HU_CLIP = (-100.0, 100.0)
LOSSLESS = cache_settings(Cache(preset="lossless", chunk=8, feature_box=8))


def make_case(
    folder: Path,
    image_hu: NDArray[np.int16],
    labels: NDArray[np.uint8],
    *,
    labelled: list[int],
    name: str = "case",
    dataset: str = "d",
    withheld: NDArray[np.uint8] | None = None,
    targets: Mapping[str, TeacherTargets] | None = None,
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
    budget_bytes: int = 0,
) -> TrainingCase:
    """Write a case and its teachers' targets; the whole volume is body, every labelled voxel may be sampled."""
    x, y, z = image_hu.shape
    rows = [(labels[tuple(v)], *v) for v in np.argwhere(np.isin(labels, labelled))]
    arrays = PreparedArrays(
        image=image_hu,
        body=np.ones(image_hu.shape, bool),
        labels=labels,
        withheld_labels=withheld,
        foreground=np.asarray(rows, np.int32).reshape(-1, 4),
        geometry=Geometry.of_raw((x, y, z), np.diag([*spacing_mm, 1.0]), spacing_mm),
    )
    case = f"{dataset}/{name}"
    path = folder / "prepared" / f"{case}.zarr"
    write_prepared(path, arrays, key="k", attributes={"case": case})
    stores = {}
    for teacher, target in (targets or {}).items():
        stores[teacher] = folder / "cache" / teacher / f"{case}.zarr"
        encoded = encode_targets(
            target,
            LOSSLESS,
            truth=None,
            body=arrays.body,
            spacing_mm=spacing_mm,
            projections={},
            seed=case,
        )
        write_store(stores[teacher], encoded, key="k", level=1, affine=np.eye(4), attributes={"case": case})
    return TrainingCase(case, dataset, path, labelled, stores, budget=MemoryBudget(budget_bytes))
