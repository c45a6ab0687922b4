"""From what a teacher says of a case to the arrays that are stored."""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt

from mskd.cache.projection import Projection
from mskd.cache.quantisation import FeatureCode, MarginCode
from mskd.cache.selection import body_boxes, expand, kept_boxes
from mskd.cache.settings import CacheSettings
from mskd.cache.store import LOGITS, EncodedArray
from mskd.teachers.base import TeacherTargets

Triple = tuple[int, int, int]
FEATURE_TYPES = {32: np.float32, 16: np.float16}


def margin_code(settings: CacheSettings) -> MarginCode | None:
    """Return how a cache codes margins; None for float32."""
    if settings.margin_bits == 32:
        return None
    return MarginCode(settings.margin_bits, settings.margin_spacing, settings.temperatures[1])


def encode_targets(
    targets: TeacherTargets,
    settings: CacheSettings,
    *,
    truth: npt.NDArray[np.bool_] | None,
    body: npt.NDArray[np.bool_],
    spacing_mm: tuple[float, float, float],
    projections: dict[str, Projection],
    seed: str,
) -> dict[str, EncodedArray]:
    """Return the arrays of a store.

    Args:
        targets: Margins and features of a case.
        settings: What is stored, and how.
        truth: Labelled voxels of the teacher's organs, (X, Y, Z); None where the case has no such labels.
        body: The body, (X, Y, Z).
        spacing_mm: Voxel size of the study grid.
        projections: Per tap, where features are projected.
        seed: Of the background sample: the same for all teachers of a case.
    """
    region: npt.NDArray[np.bool_] = np.any(targets.margins > 0, axis=0)
    if truth is not None:
        region |= truth
    arrays = {LOGITS: _encode_margins(targets.margins, settings, body)}
    for tap, features in targets.features.items():
        arrays[f"features/{tap}"] = _encode_features(
            features,
            targets.strides[tap],
            settings,
            region=region,
            body=body,
            spacing_mm=spacing_mm,
            projection=projections.get(tap),
            seed=f"{seed}/{tap}",
        )
    return arrays


def _encode_margins(margins: npt.NDArray[Any], settings: CacheSettings, body: npt.NDArray[np.bool_]) -> EncodedArray:
    code = margin_code(settings)
    chunk = (settings.chunk, settings.chunk, settings.chunk)
    details: dict[str, Any] = {"temperatures": list(settings.temperatures)}
    if code is None:
        return EncodedArray(margins.astype(np.float32), None, (1, 1, 1), chunk, None, chunk, details)
    code = code.fitted(margins, body)
    details["probability_bound"] = {str(t): code.probability_bound(t) for t in settings.temperatures}
    return EncodedArray(code.encode(margins), code, (1, 1, 1), chunk, None, chunk, details)


def _encode_features(
    features: npt.NDArray[Any],
    stride: Triple,
    settings: CacheSettings,
    *,
    region: npt.NDArray[np.bool_],
    body: npt.NDArray[np.bool_],
    spacing_mm: tuple[float, float, float],
    projection: Projection | None,
    seed: str,
) -> EncodedArray:
    details: dict[str, Any] = {}
    if projection is not None:
        features = projection.apply(features)
        details["explained_variance"] = projection.explained
    shape: Triple = (features.shape[1], features.shape[2], features.shape[3])
    chunk, box = (
        (max(2, edge // stride[0]), max(2, edge // stride[1]), max(2, edge // stride[2]))
        for edge in (settings.chunk, settings.feature_box)
    )
    # beyond the body no window was computed: nothing there may supervise
    kept = body_boxes(body, stride=stride, shape=shape, box=box)
    if settings.feature_boxes == "regions":
        kept = kept_boxes(
            region,
            body,
            stride=stride,
            shape=shape,
            box=box,
            dilation_voxels=[ceil(settings.dilation_mm / s) for s in spacing_mm],
            background_share=settings.background_share,
            seed=seed,
        )
        features = np.where(expand(kept, box, (0, 0, 0), shape), features, 0)
    if settings.feature_bits in FEATURE_TYPES:
        values = features.astype(FEATURE_TYPES[settings.feature_bits])
        return EncodedArray(values, None, stride, chunk, kept, box, details)
    code = FeatureCode.of(features, settings.feature_bits)
    return EncodedArray(code.encode(features), code, stride, chunk, kept, box, {**details, "value_bound": code.bound()})
