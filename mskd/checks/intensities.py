"""Findings from the voxels of an image: are they Hounsfield units of a body.

In HU air is -1000 and water 0 by definition; fat lies at about -100, soft tissue at 0 to 150 (more with contrast). A CT
of a trunk shows fat and soft tissue whatever was cropped away, and mostly air. Only what contradicts that by far is
called wrong. Shares are measured on a regular subsample; the least and the greatest value on all voxels.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mskd.checks.codes import CODES
from mskd.checks.headers import Problem
from mskd.errors import DataError

SAMPLE = 400_000  # voxels; a share of 1 % is known to 0.02 %
PADDING_HU = -1100  # an exact value below it is a scanner's padding outside its field of view (-2000, -3024, …)
NARROWEST = 60.0  # least range of values that fat and soft tissue alone would give, without noise: 150 HU
NEGATIVE = 0.001  # least share of negative voxels; fat alone is over a tenth of any trunk
TISSUE_HU = (-150, 300)  # fat, soft tissue, with contrast
TISSUE = 0.01  # least share; a narrow patient in a wide field of view has a tenth
NOTHING_HU = (-650, -250)  # between lung and fat: only borders of both, under a twelfth in the chest
NOTHING = 0.25  # greatest share there
BELOW_AIR_HU, BELOW_AIR = -1150, 0.15  # noise around air reaches so low, but not in so many voxels
CLIPPED_HU, CLIPPED = -900, 0.05  # a least value above this, held by so many voxels, was cut off
OFFSET = 1024


@dataclass(frozen=True)
class Intensities:
    """What is kept of an image after its voxels are gone.

    Attributes:
        low: Least value, HU.
        high: Greatest value, HU.
        sample: Values of a regular subsample, HU, float32.
        whole: Whether the stored values are whole numbers.
        fingerprint: Equal for equal content, whatever the order and direction of the axes and the data type.
    """

    low: float
    high: float
    sample: npt.NDArray[np.float32]
    whole: bool
    fingerprint: str


def measure(stored: npt.NDArray[Any], slope: float, intercept: float) -> Intensities:
    """Measure an image without a copy of it in another type.

    Args:
        stored: Finite voxels as stored, (X, Y, Z).
        slope: HU per stored unit.
        intercept: HU of the stored value 0.
    """
    ends = sorted(slope * float(value) + intercept for value in (stored.min(), stored.max()))
    sample = subsample(stored, slope, intercept).ravel(order="K")
    return Intensities(
        low=ends[0],
        high=ends[1],
        sample=sample,
        whole=bool(np.array_equal(sample, np.rint(sample))),
        fingerprint=_fingerprint(stored, slope, intercept),
    )


def _fingerprint(stored: npt.NDArray[Any], slope: float, intercept: float) -> str:
    """Return a hash of the mean HU of every plane across each axis.

    Over a thousand exact sums that each voxel counts in three times: two scans that agree in all are one. Copies may be
    stored in other axes, other directions (LiTS and MSD Task03) and other types, none of which changes the hash.
    """
    axis = int(np.argmax(np.abs(stored.strides)))
    slices = np.moveaxis(stored, axis, 0)
    kind = np.int64 if stored.dtype.kind in "iu" else np.float64
    sums = [np.zeros(n, kind) for n in slices.shape]
    for index, plane in enumerate(slices):  # no second array of the whole image
        sums[1] += plane.sum(axis=1, dtype=kind)
        columns = plane.sum(axis=0, dtype=kind)
        sums[2] += columns
        sums[0][index] = columns.sum()
    profiles = []
    for total in sums:
        mean_hu = np.round(slope * total / (stored.size / len(total)) + intercept, 2) + 0.0  # no negative zero
        profiles.append(min(mean_hu.tolist(), mean_hu[::-1].tolist()))
    return hashlib.sha256(str(sorted(profiles)).encode()).hexdigest()[:32]


def steps(shape: tuple[int, ...], wanted: int = SAMPLE) -> tuple[int, ...]:
    """Return the step of a regular subsample along each axis; short axes are kept whole."""
    step = [1] * len(shape)
    while np.prod([-(-n // s) for n, s in zip(shape, step, strict=True)]) > wanted:
        axis = int(np.argmax([n / s for n, s in zip(shape, step, strict=True)]))
        step[axis] += 1
    return tuple(step)


def subsample(
    stored: npt.NDArray[Any], slope: float, intercept: float, wanted: int = SAMPLE
) -> npt.NDArray[np.float32]:
    """Return every n-th voxel along each axis in HU."""
    chosen = stored[tuple(slice(None, None, step) for step in steps(stored.shape, wanted))]
    return np.asarray(chosen.astype(np.float32) * np.float32(slope) + np.float32(intercept))


def intensity_problem(image: Intensities) -> Problem | None:
    """Return why an image holds no HU of a body, None if it may; the first reason that applies."""
    low, high, values = image.low, image.high, image.sample
    span = f"values from {low:g} to {high:g}"
    again = "convert the original DICOM series again and keep its HU (rescale slope and intercept)"
    if low == high:
        return Problem("image.constant", "a CT", f"the value {low:g} everywhere", "fetch the image again")
    if high - low < NARROWEST:
        found = f"{span}, as after normalisation"
        return Problem("image.normalised", "HU, air at -1000 and soft tissue at about 50", found, again)
    if image.whole and low >= 0 and high <= 255:
        return Problem("image.windowed", "HU, air at -1000 and soft tissue at about 50", f"8-bit {span}", again)
    if low < PADDING_HU:
        values = values[values > np.float32(low)]
    negative = _share(values < 0)
    if negative < NEGATIVE:
        shifted = _share((values > TISSUE_HU[0] + OFFSET) & (values < TISSUE_HU[1] + OFFSET))
        air = _share(values < TISSUE_HU[0] + OFFSET)
        if low < OFFSET + TISSUE_HU[0] and shifted > 0.1 and air > 0.01 and shifted + air > 0.8:
            fix = f"subtract {OFFSET} (set the header's intercept, scl_inter, to -{OFFSET}), or convert again"
            return Problem("image.offset", "water at about 0 HU", f"{span}, tissue at about {OFFSET}", fix)
        return Problem("image.not_ct", "HU: fat at about -100, air at -1000", f"{span}, none negative", again)
    if low > CLIPPED_HU and _share(values <= np.float32(low)) > CLIPPED:
        share = _share(values <= np.float32(low))
        fix = "take the original, or see that preprocessing.hu_clip begins no lower"
        return Problem("image.clipped", "air at about -1000 HU", f"{share:.0%} of voxels at {low:g}, the least", fix)
    nothing = _share((values > NOTHING_HU[0]) & (values < NOTHING_HU[1]))
    below = _share(values < BELOW_AIR_HU)
    tissue = _share((values > TISSUE_HU[0]) & (values < TISSUE_HU[1]))
    fix = "check slope and intercept (scl_slope, scl_inter) against the DICOM series, or convert again"
    if nothing > NOTHING:
        found = f"{nothing:.0%} of voxels between {NOTHING_HU[0]} and {NOTHING_HU[1]} HU"
        return Problem("image.uncalibrated", "little between lung and fat", found, fix)
    if below > BELOW_AIR:
        found = f"{below:.0%} of voxels below {BELOW_AIR_HU} HU"
        return Problem("image.uncalibrated", "nothing thinner than air, -1000 HU", found, fix)
    if tissue < TISSUE:
        found = f"{tissue:.1%} of voxels between {TISSUE_HU[0]} and {TISSUE_HU[1]} HU"
        return Problem("image.uncalibrated", "fat and soft tissue", found, fix)
    return None


def require_hu(scan_hu: npt.NDArray[Any], case: str) -> None:
    """Refuse a scan that holds no HU of a body.

    Raises:
        DataError: Says what its values look like.
    """
    problem = intensity_problem(measure(scan_hu, 1.0, 0.0))
    if problem is not None and CODES[problem.code].severity == "error":
        raise DataError(
            case=case,
            file=case,
            expected=problem.expected,
            found=problem.found,
            fix=f"{problem.fix}; or take it all the same (--force, in Python force=True)",
            code=problem.code,
        )


def _share(mask: npt.NDArray[np.bool_]) -> float:
    return float(mask.mean()) if mask.size else 0.0
