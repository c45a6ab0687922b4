"""Boundary voxels of two masks and the distances between them, each computed once and used by every metric.

Why k-d trees and not a distance transform: the tree's cost follows the number of boundary voxels, not the
bounding box, which one stray false positive can blow up to the whole scan. Boundary voxels that the two masks
share have distance 0 and are never queried.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]

# Measured on 75 000 boundary voxels: trees of this shape build twice as fast as scipy's default ones, and far
# queries (a false positive 250 mm away) run in half the time, because fewer nodes tie at a similar distance.
_LEAF_SIZE = 32
# How far a distance may exceed a tolerance through rounding alone: 3 × 0.4 mm is "within 1.2 mm".
_ROUNDING_MM = 1e-6


def boundary(mask: BoolArray) -> BoolArray:
    """Return the boundary voxels of a mask: mask XOR its erosion by the 6-neighbourhood.

    What lies beyond the array counts as outside, as in MONAI: a mask that touches the border has boundary
    there.

    Args:
        mask: bool, (X, Y, Z).

    Returns:
        bool, (X, Y, Z).
    """
    interior = mask.copy()
    for axis in range(mask.ndim):
        here = np.moveaxis(interior, axis, 0)
        there = np.moveaxis(mask, axis, 0)
        here[1:] &= there[:-1]
        here[:-1] &= there[1:]
        here[0] = False
        here[-1] = False
    return mask ^ interior


@dataclass(frozen=True)
class SurfaceDistances:
    """Distances in mm between the boundary voxels of a prediction and of a reference, neither of them empty.

    Attributes:
        prediction_to_reference_mm: one distance per boundary voxel of the prediction that the reference's
            boundary does not share.
        reference_to_prediction_mm: the same the other way round.
        n_shared: boundary voxels of both masks; their distance is 0.
    """

    prediction_to_reference_mm: FloatArray
    reference_to_prediction_mm: FloatArray
    n_shared: int

    def hd95_mm(self, definition: str) -> float:
        """Return the 95 % Hausdorff distance in mm (percentiles with linear interpolation).

        Args:
            definition: `max_directed`, the larger of the two directed 95th percentiles (MONAI); `pooled`, the
                95th percentile of both directions taken together (MedPy).

        Raises:
            ValueError: the definition is neither.
        """
        there, back = self.prediction_to_reference_mm, self.reference_to_prediction_mm
        if definition == "max_directed":
            return max(_percentile_95(there, self.n_shared), _percentile_95(back, self.n_shared))
        if definition == "pooled":
            return _percentile_95(np.concatenate([there, back]), 2 * self.n_shared)
        raise ValueError(f"hd95_definition is {definition!r}; allowed: 'max_directed', 'pooled'")

    def nsd(self, tolerance_mm: float) -> float:
        """Return the share of all boundary voxels, of both masks, that lie within the tolerance of the other.

        A distance of exactly the tolerance is within it (to 1e-6 mm).
        """
        there, back = self.prediction_to_reference_mm, self.reference_to_prediction_mm
        limit_mm = tolerance_mm + _ROUNDING_MM
        within = int(np.count_nonzero(there <= limit_mm)) + int(np.count_nonzero(back <= limit_mm))
        return (within + 2 * self.n_shared) / (there.size + back.size + 2 * self.n_shared)


def surface_distances(
    prediction: BoolArray, reference: BoolArray, spacing_mm: Sequence[float], *, workers: int = 1
) -> SurfaceDistances:
    """Measure the distances between the boundaries of two masks.

    Args:
        prediction: bool, (X, Y, Z), not empty.
        reference: bool, (X, Y, Z), not empty.
        spacing_mm: size of a voxel along X, Y, Z.
        workers: threads that query the trees.
    """
    prediction_boundary, reference_boundary = boundary(prediction), boundary(reference)
    shared = prediction_boundary & reference_boundary
    there = _nearest_mm(prediction_boundary & ~shared, reference_boundary, spacing_mm, workers)
    back = _nearest_mm(reference_boundary & ~shared, prediction_boundary, spacing_mm, workers)
    return SurfaceDistances(there, back, int(np.count_nonzero(shared)))


def _nearest_mm(queries: BoolArray, targets: BoolArray, spacing_mm: Sequence[float], workers: int) -> FloatArray:
    """Return, for every true voxel of `queries`, the distance in mm to the nearest one of `targets`."""
    points_mm = _positions_mm(queries, spacing_mm)
    if not len(points_mm):
        return np.zeros(0)
    tree = cKDTree(_positions_mm(targets, spacing_mm), leafsize=_LEAF_SIZE, balanced_tree=False, compact_nodes=False)
    return np.asarray(tree.query(points_mm, workers=workers)[0], dtype=np.float64)


def _positions_mm(voxels: BoolArray, spacing_mm: Sequence[float]) -> FloatArray:
    """Return the positions (N, 3) in mm of the true voxels, in array order."""
    # argwhere on a 3-D array is several times slower than going through the flat index.
    index = np.unravel_index(np.flatnonzero(voxels), voxels.shape)
    positions = np.empty((index[0].size, voxels.ndim))
    for axis, coordinates in enumerate(index):
        np.multiply(coordinates, spacing_mm[axis], out=positions[:, axis])
    return positions


def _percentile_95(distances_mm: FloatArray, n_zeros: int) -> float:
    """Return the 95th percentile of the distances together with `n_zeros` zeros."""
    everything = np.concatenate([np.zeros(n_zeros), distances_mm])
    return float(np.percentile(everything, 95.0))
