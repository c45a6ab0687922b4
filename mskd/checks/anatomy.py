"""Is the patient's right on the right: a mirrored header puts the liver on the wrong side.

The liver lies on the patient's right, the spleen on the left (situs inversus: one in ten thousand). Both together
tell it by themselves; one alone is compared with the middle of the body. Without a label of either nothing is said:
no cue of the image alone is sure enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from mskd.checks.headers import Problem
from mskd.checks.intensities import steps, subsample
from mskd.checks.labels import Tally
from mskd.geometry import Affine

SIDES = {"liver": 1.0, "spleen": -1.0}  # sign of world x (RAS: the patient's right is positive)
MARGIN_MM = 20.0  # centroids: spleen about 100 mm from the middle, liver 40 to 70
LEAST_ML = 10.0  # a smaller piece says nothing
BODY_HU = -300.0
SAMPLE = 30_000  # voxels, for the middle of the body


def middle_mm(stored: npt.NDArray[Any], slope: float, intercept: float, affine: Affine) -> float | None:
    """Return world x of the middle of the body: the median of what is denser than lung, None if there is nothing."""
    body = np.argwhere(subsample(stored, slope, intercept, SAMPLE) > BODY_HU)
    if not len(body):
        return None
    return float(np.median(nib.affines.apply_affine(affine, body * steps(stored.shape, SAMPLE))[:, 0]))


def mirrored_problem(organs: Mapping[str, Tally], affine: Affine, body_middle_mm: float | None) -> Problem | None:
    """Return that liver or spleen lie on the wrong side, None if they do not or nothing can be said.

    Args:
        organs: What each organ covers.
        affine: Affine of the label.
        body_middle_mm: World x of the middle of the body.
    """
    fix = "compare with the original series and repair sform and qform; accept it only for a true situs inversus"
    at = {
        organ: float(organs[organ].centre_mm(affine)[0])
        for organ in SIDES
        if organ in organs and organs[organ].volume_ml(affine) >= LEAST_ML
    }
    if len(at) == len(SIDES):
        if at["liver"] < at["spleen"] - MARGIN_MM:
            found = f"the liver {at['spleen'] - at['liver']:.0f} mm to the left of the spleen"
            return Problem("anatomy.mirrored", "the liver to the right of the spleen", found, fix)
        return None
    for organ, x_mm in at.items():
        if body_middle_mm is not None and SIDES[organ] * (x_mm - body_middle_mm) < -MARGIN_MM:
            right, wrong = ("right", "left") if SIDES[organ] > 0 else ("left", "right")
            found = f"it {abs(x_mm - body_middle_mm):.0f} mm to the {wrong} of the body's middle"
            return Problem("anatomy.mirrored", f"the {organ} on the patient's {right}", found, fix)
    return None
