"""What a label map says of its organs: volumes, intensities, and whether the scan cuts them off."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from mskd.geometry import Affine

PERCENTILES = (5, 50, 95)
COLUMNS = ("organ", "voxels", "volume_ml", "hu_mean", "hu_std", "hu_p05", "hu_p50", "hu_p95", "touches_edge")


def organ_measurements(
    labels: npt.NDArray[np.uint8], scan_hu: npt.NDArray[Any], affine: Affine, values: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Return one row per organ.

    Args:
        labels: Label map (X, Y, Z).
        scan_hu: Scan on the same grid, in HU.
        affine: Affine of both, 4 × 4, in mm.
        values: Organ → value in the label map.

    Returns:
        organ, voxels, volume_ml, hu_mean, hu_std, hu_p05, hu_p50, hu_p95 (None for an organ without a voxel), and
        touches_edge: whether the organ reaches the first or last plane of the scan, so that its volume may be a part.
    """
    voxel_ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000
    boxes = ndimage.find_objects(labels)
    rows = []
    for organ, value in values.items():
        box = boxes[value - 1] if value <= len(boxes) else None
        hu = scan_hu[box][labels[box] == value].astype(np.float64) if box is not None else np.zeros(0)
        row: dict[str, Any] = {"organ": organ, "voxels": len(hu), "volume_ml": round(len(hu) * voxel_ml, 3)}
        names = ("hu_mean", "hu_std", *(f"hu_p{percent:02d}" for percent in PERCENTILES))
        if len(hu):
            numbers = (hu.mean(), hu.std(), *np.percentile(hu, PERCENTILES))
            row |= {name: round(float(number), 2) for name, number in zip(names, numbers, strict=True)}
        else:
            row |= dict.fromkeys(names)
        row["touches_edge"] = box is not None and any(
            place.start == 0 or place.stop == n for place, n in zip(box, labels.shape, strict=True)
        )
        rows.append(row)
    return rows
