"""Dice, HD95 and normalised surface Dice of one case, organ by organ, on the raw grid.

Emptiness is decided first, because distances to nothing do not exist: an organ of the reference that the
prediction lacks is `missed`, the reverse is `spurious`, both empty is `absent`; only the rest is `scored`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mskd.evaluation.surfaces import surface_distances

Status = Literal["scored", "missed", "spurious", "absent"]
Hd95Definition = Literal["max_directed", "pooled"]
LabelArray = NDArray[np.integer[Any]]
Box = tuple[slice, ...]


@dataclass(frozen=True)
class OrganScore:
    """The scores of one organ in one case.

    Attributes:
        organ: name of the organ.
        dice: 2|P∩R| / (|P|+|R|) in [0, 1]; 0 where missed; None where the reference lacks the organ.
        hd95_mm: 95 % Hausdorff distance in mm; None unless both masks have voxels.
        nsd: normalised surface Dice in [0, 1]; 0 where missed; None where the reference lacks the organ.
        status: scored, missed, spurious or absent.
    """

    organ: str
    dice: float | None
    hd95_mm: float | None
    nsd: float | None
    status: Status


def score_case(
    prediction: LabelArray,
    reference: LabelArray,
    spacing_mm: Sequence[float],
    organs: Mapping[str, int],
    labelled: Collection[str],
    *,
    nsd_tolerance_mm: Mapping[str, float] | float,
    hd95_definition: Hd95Definition = "max_directed",
    ignore_value: int | None = 255,
    workers: int = 1,
) -> list[OrganScore]:
    """Score every labelled organ of one case.

    Boundary voxels are those of a mask that its erosion by the 6-neighbourhood removes; beyond the array
    counts as outside (MONAI's definition). HD95 is the larger of the two directed 95th percentiles of the
    distances between boundary voxels, or the percentile of both pooled. NSD is the share of all boundary
    voxels, of both masks, within the tolerance of the other mask's boundary (MONAI's `SurfaceDiceMetric`
    without sub-voxels: voxels are counted, not surface areas).

    Args:
        prediction: integer labels, (X, Y, Z).
        reference: integer labels, (X, Y, Z), on the same grid.
        spacing_mm: size of a voxel along X, Y, Z.
        organs: value of each organ in both arrays.
        labelled: the organs that the reference labels; only they are scored.
        nsd_tolerance_mm: one tolerance, or one for each labelled organ.
        hd95_definition: `max_directed` (MONAI) or `pooled` (MedPy).
        ignore_value: where the reference has it, neither side counts; None: no such value.
        workers: threads that search for nearest neighbours; the scores do not depend on it.

    Returns:
        One score per labelled organ, in the order of `organs`.

    Raises:
        ValueError: arrays that differ in shape or are not integer, an organ or a tolerance that is not
            given, or a spacing that is not three positive numbers.
    """
    _check(prediction, reference, spacing_mm, organs, labelled, nsd_tolerance_mm)
    spacing = tuple(float(size) for size in spacing_mm)
    if prediction.flags.f_contiguous and reference.flags.f_contiguous:
        # NIfTI files load with X fastest. The scores do not depend on the order of the axes; walking the
        # memory in order is ten times faster.
        prediction, reference, spacing = prediction.T, reference.T, spacing[::-1]
    scored = [organ for organ in organs if organ in labelled]
    top = max([organs[organ] for organ in scored], default=1)
    prediction_boxes, reference_boxes = _boxes(prediction, top), _boxes(reference, top)
    has_ignored = ignore_value is not None and bool((reference == ignore_value).any())
    scores = []
    for organ in scored:
        value = organs[organ]
        box = _union(prediction_boxes[value - 1], reference_boxes[value - 1])
        if box is None:
            scores.append(OrganScore(organ, None, None, None, "absent"))
            continue
        predicted, present = prediction[box] == value, reference[box] == value
        if has_ignored:
            predicted &= reference[box] != ignore_value
        tolerance_mm = _tolerance_mm(nsd_tolerance_mm, organ)
        scores.append(_score(organ, predicted, present, spacing, tolerance_mm, hd95_definition, workers))
    return scores


def _score(
    organ: str,
    prediction: NDArray[np.bool_],
    reference: NDArray[np.bool_],
    spacing_mm: Sequence[float],
    tolerance_mm: float,
    hd95_definition: Hd95Definition,
    workers: int,
) -> OrganScore:
    """Score one organ from its two masks, cropped alike."""
    n_prediction, n_reference = int(np.count_nonzero(prediction)), int(np.count_nonzero(reference))
    if n_reference == 0:
        return OrganScore(organ, None, None, None, "spurious" if n_prediction else "absent")
    if n_prediction == 0:
        return OrganScore(organ, 0.0, None, 0.0, "missed")
    dice = 2.0 * int(np.count_nonzero(prediction & reference)) / (n_prediction + n_reference)
    distances = surface_distances(prediction, reference, spacing_mm, workers=workers)
    hd95_mm = distances.hd95_mm(hd95_definition)
    return OrganScore(organ, dice, hd95_mm, distances.nsd(tolerance_mm), "scored")


def _tolerance_mm(nsd_tolerance_mm: Mapping[str, float] | float, organ: str) -> float:
    return float(nsd_tolerance_mm if isinstance(nsd_tolerance_mm, int | float) else nsd_tolerance_mm[organ])


def _boxes(labels: LabelArray, top: int) -> list[Box | None]:
    """Return the bounding boxes of the values 1 … `top`, in one pass; None for a value that is absent."""
    if labels.dtype.kind == "u" and labels.dtype.itemsize > 4:
        labels = labels.astype(np.int64)  # scipy knows no 64-bit unsigned labels
    return list(ndimage.find_objects(labels, max_label=top))


def _union(first: Box | None, second: Box | None) -> Box | None:
    """Return the smallest box that holds both."""
    if first is None or second is None:
        return first or second
    return tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(first, second, strict=True))


def _check(
    prediction: LabelArray,
    reference: LabelArray,
    spacing_mm: Sequence[float],
    organs: Mapping[str, int],
    labelled: Collection[str],
    nsd_tolerance_mm: Mapping[str, float] | float,
) -> None:
    """Refuse arguments that would give silently wrong scores."""
    if prediction.shape != reference.shape or reference.ndim != 3:
        raise ValueError(
            f"two label arrays (X, Y, Z) of one shape are needed, found {prediction.shape} and {reference.shape}"
        )
    if prediction.dtype.kind not in "iu" or reference.dtype.kind not in "iu":
        raise ValueError(f"labels must be integers, found {prediction.dtype} and {reference.dtype}")
    if len(spacing_mm) != 3 or not all(np.isfinite(size) and size > 0 for size in spacing_mm):
        raise ValueError(f"spacing_mm must be three positive numbers, found {tuple(spacing_mm)}")
    unknown = sorted(set(labelled) - set(organs))
    if unknown:
        raise ValueError(f"labelled organs without a label value: {unknown}; known: {sorted(organs)}")
    wrong = {organ: value for organ, value in organs.items() if value < 1}
    if wrong:
        raise ValueError(f"label values of organs must be 1 or more (0 is background), found {wrong}")
    if not isinstance(nsd_tolerance_mm, int | float):
        without = sorted(set(labelled) - set(nsd_tolerance_mm))
        if without:
            raise ValueError(f"nsd_tolerance_mm lacks {without}; it has {sorted(nsd_tolerance_mm)}")
