"""Which boxes of a feature are kept: those that touch a supervising region, and a sample of the background.

A student compares features in the organ region of a teacher and in the background. Organ regions are where the teacher
says organ, or where the labels do, dilated; the background is sampled by a draw per box that depends on case and tap
alone, so that all teachers of a case keep the same background.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from math import ceil

import numpy as np
import numpy.typing as npt
from scipy import ndimage

BoolArray = npt.NDArray[np.bool_]
Triple = tuple[int, int, int]


def kept_boxes(
    region: BoolArray,
    body: BoolArray,
    *,
    stride: Triple,
    shape: Triple,
    box: Triple,
    dilation_voxels: Sequence[int],
    background_share: float,
    seed: str,
) -> BoolArray:
    """Return which boxes of a tap are kept.

    Args:
        region: Organ region at full resolution, (X, Y, Z).
        body: The body at full resolution; nothing outside it is kept.
        stride: Voxels per cell of the tap's grid.
        shape: Shape of the tap's grid.
        box: Cells per box.
        dilation_voxels: Reach of the dilation per axis, in voxels of full resolution.
        background_share: Share of the other boxes of the body that is kept.
        seed: Of the draws; the same for all teachers of a case.

    Returns:
        Bool (ceil(x / cx), …), one per box.
    """
    near = region
    for axis, reach in enumerate(dilation_voxels):
        if reach:
            near = ndimage.maximum_filter1d(near, 2 * reach + 1, axis=axis, mode="constant")
    step = [s * c for s, c in zip(stride, box, strict=True)]
    counts = (ceil(shape[0] / box[0]), ceil(shape[1] / box[1]), ceil(shape[2] / box[2]))
    organ, inside = _any(near, step, counts), _any(body, step, counts)
    state = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big")
    sampled = np.random.default_rng(state).random(counts) < background_share
    return (organ | sampled) & (inside | organ)


def body_boxes(body: BoolArray, *, stride: Triple, shape: Triple, box: Triple) -> BoolArray:
    """Return which boxes of a tap hold something of the body; the arguments are those of `kept_boxes`."""
    step = [s * c for s, c in zip(stride, box, strict=True)]
    return _any(body, step, (ceil(shape[0] / box[0]), ceil(shape[1] / box[1]), ceil(shape[2] / box[2])))


def expand(kept: BoolArray, box: Triple, start: Sequence[int], size: Sequence[int]) -> BoolArray:
    """Return for a box of the tap's grid whether each cell is kept, (x, y, z); False outside of the grid."""
    axes = [np.arange(s, s + n) // c for s, n, c in zip(start, size, box, strict=True)]
    valid = [(index >= 0) & (index < n) for index, n in zip(axes, kept.shape, strict=True)]
    found = kept[np.ix_(*[np.clip(index, 0, n - 1) for index, n in zip(axes, kept.shape, strict=True)])]
    return np.asarray(found & valid[0][:, None, None] & valid[1][:, None] & valid[2])


def _any(mask: BoolArray, step: Sequence[int], counts: Triple) -> BoolArray:
    """Return for each box of `step` voxels whether the mask holds in it."""
    found = mask
    for axis, (width, count) in enumerate(zip(step, counts, strict=True)):
        starts = np.arange(count) * width
        starts = starts[starts < found.shape[axis]]
        found = np.logical_or.reduceat(found, starts, axis=axis)
        if found.shape[axis] < count:
            padding = [(0, 0)] * 3
            padding[axis] = (0, count - found.shape[axis])
            found = np.pad(found, padding)
    return np.asarray(found, bool)
