"""Stage: fit the projection of a teacher's features to fewer channels, on its own training cases alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mskd.cache.projection import Moments, Projection
from mskd.cache.settings import cache_settings
from mskd.config.study import Study
from mskd.config.teachers import TRAINED
from mskd.console import log, progress
from mskd.device import set_up
from mskd.errors import MissingArtefactError
from mskd.layout import Layout
from mskd.leaves import projection_leaves, stage_code
from mskd.manifest import Manifest
from mskd.prepared import PreparedCase
from mskd.provenance import content_key, made_by
from mskd.stages.inputs import cases_of, prepared_cases, teacher_weights
from mskd.storage import write_json
from mskd.teachers.registry import load_teacher

STAGE = "fit_projection"
FITTED_CASES = 8  # more change the components of a few channels hardly at all


def fit_projection(study: Study, teacher: str, run: str, device: torch.device) -> None:
    """Write a teacher's projections, one per tap with more channels than are kept; what stands is kept."""
    layout = Layout(study.root)
    settings = cache_settings(study.cache)
    cases, manifest = prepared_cases(study, cases_of(study, [study.teacher_dataset(teacher)], run, ["train"]))
    cases, prepared = cases[:FITTED_CASES], manifest.entries
    weights = teacher_weights(study, teacher, run)
    inputs = {case.id: prepared[case.id]["image"] for case in cases}
    key = content_key(
        leaves=projection_leaves(study), code=stage_code(STAGE, teacher=TRAINED), weights=weights, inputs=inputs
    )
    path = layout.projection(teacher, run)
    if _stored(path, key) is None:
        set_up(device, study.inference.threads)
        loaded = load_teacher(study, teacher, run, device)
        moments: dict[str, Moments] = {}
        with progress(f"projection {teacher} {run}", len(cases)) as advance:
            for case in cases:
                source = PreparedCase(layout.prepared(case.dataset, case.block, case.name), case.id)
                targets = loaded.targets(source, case)
                body = source.read("body").astype(bool)
                for tap, features in targets.features.items():
                    inside = _at_stride(body, targets.strides[tap], features.shape[1:])
                    moments.setdefault(tap, Moments(features.shape[0])).add(features, inside)
                advance(1, case.name)
        fitted = {
            tap: sums.fit(settings.feature_channels)
            for tap, sums in moments.items()
            if len(sums.total) > settings.feature_channels
        }
        for tap, projection in fitted.items():
            log(f"{teacher} {tap}: {len(projection.matrix)} components hold {projection.explained:.1%} of the variance")
        record = {tap: projection.to_json() for tap, projection in fitted.items()}
        write_json(path, {"key": key, "taps": record, "fitted_on": list(inputs), "made_by": made_by()})
    content = content_key(taps=_read(path)["taps"])
    Manifest(STAGE, {teacher: {"key": key, "content": content}}).write(layout.manifest(STAGE, teacher, run))


def read_projections(path: Path) -> dict[str, Projection]:
    """Return a teacher's projections by tap.

    Raises:
        MissingArtefactError: If they are missing or damaged.
    """
    return {tap: Projection.from_json(data) for tap, data in _read(path)["taps"].items()}


def _read(path: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {"taps": record["taps"], "key": record["key"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MissingArtefactError(
            case="-",
            file=path,
            expected="a teacher's projection of features",
            found=str(error),
            fix=f"delete the manifests below manifests/{STAGE} and run the workflow again",
        ) from error


def _stored(path: Path, key: str) -> dict[str, Any] | None:
    try:
        record = _read(path)
    except MissingArtefactError:
        return None
    return record if record["key"] == key else None


def _at_stride(mask: np.ndarray, stride: tuple[int, int, int], shape: tuple[int, ...]) -> np.ndarray:
    """Return a mask at the first voxel of every cell of a tap's grid."""
    found = mask[:: stride[0], :: stride[1], :: stride[2]]
    return found[: shape[0], : shape[1], : shape[2]]
