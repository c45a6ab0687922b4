"""From scores on a teacher's own grid to margins on the study grid, without argmax and in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mskd.errors import MskdError
from mskd.geometry import Affine, Geometry
from mskd.inference import FAR
from mskd.resampling import apply_matrices, linear_matrix

Float = npt.NDArray[np.float32]
SLAB = 16  # planes of the study grid at a time
TILT = 1e-3  # most that one axis may lean into another, in voxels per voxel


@dataclass(frozen=True)
class ForeignScores:
    """What a network says of a scan, where it says it.

    Attributes:
        scores: One channel per class, (C, i, j, k) on the network's own grid; may lie on disk.
        to_grid: Voxel of the raw file → voxel of that grid, 4 × 4; axes may change places and directions, not lean.
        activation: softmax: channels compete, the background is one of them; sigmoid: each is a log-odds by itself.
    """

    scores: npt.NDArray[Any]
    to_grid: Affine
    activation: Literal["softmax", "sigmoid"] = "softmax"


def study_margins(found: ForeignScores, geometry: Geometry, channels: Sequence[Sequence[int]]) -> Float:
    """Return margins on the study grid: scores interpolated linearly, then compared.

    An organ of several classes has the log-odds of any of them: LSE of its channels − LSE of all others (softmax), or
    the largest (sigmoid). Outside of the network's grid, where it cropped the scan, the background wins.

    Args:
        found: Scores on the network's own grid.
        geometry: Grids of the case.
        channels: For each organ its channels.

    Returns:
        (K, X, Y, Z) float32.

    Raises:
        MskdError: If the two grids are rotated against each other.
    """
    if max((channel for of_organ in channels for channel in of_organ), default=0) >= len(found.scores):
        raise MskdError(
            f"the network gives {len(found.scores)} channels, numbered from 0\n"
            f"  expected: those that the teacher's `classes` name: {[list(c) for c in channels]}\n"
            "  way out:  correct `classes`"
        )
    places, order = _positions(found, geometry)
    scores = found.scores.transpose(0, *(1 + axis for axis in order))
    matrices = [linear_matrix(at, n) for at, n in zip(places, scores.shape[1:], strict=True)]
    inside: list[npt.NDArray[np.bool_]] = [
        (at > -0.5 - TILT) & (at < n - 0.5 + TILT) for at, n in zip(places, scores.shape[1:], strict=True)
    ]
    margins = np.full((len(channels), *geometry.shape), -FAR, np.float32)
    if not all(axis.any() for axis in inside):
        return margins
    (x0, x1), (y0, y1) = (_range(axis) for axis in inside[:2])
    x, y = (np.ascontiguousarray(m[a:b]) for m, (a, b) in zip(matrices, ((x0, x1), (y0, y1)), strict=False))
    for planes in _slabs(inside[2]):
        rows = matrices[2][planes]
        used = slice(*_range(np.asarray(rows.any(axis=0))))
        rows = np.ascontiguousarray(rows[:, used])

        def resampled(channel: int, used: slice = used, rows: Float = rows) -> Float:
            # along z first: apply_matrices goes along x and y plane by plane
            along_z = np.matmul(np.asarray(scores[channel][:, :, used], np.float32), rows.T)
            return apply_matrices(along_z, x, y, np.eye(len(rows), dtype=np.float32))

        margins[:, x0:x1, y0:y1, planes] = _compared(resampled, len(scores), channels, found.activation)
    return margins


def _compared(resampled: Any, n_channels: int, channels: Sequence[Sequence[int]], activation: str) -> Float:
    """Return margins of a slab; one channel after the other is looked at."""
    if activation == "sigmoid":
        return np.stack([np.maximum.reduce([resampled(channel) for channel in of_organ]) for of_organ in channels])
    organ_of = {channel: organ for organ, of_organ in enumerate(channels) for channel in of_organ}
    sums: list[Float | None] = [None] * (1 + len(channels))  # LSE per organ, the last of all other channels
    for channel in range(n_channels):
        organ, value = organ_of.get(channel, len(channels)), resampled(channel)
        before = sums[organ]
        sums[organ] = value if before is None else np.logaddexp(before, value)
    groups = [value for value in sums if value is not None]
    if len(groups) < 2 or any(value is None for value in sums[:-1]):
        raise MskdError("a network whose channels are all one organ says nothing; softmax needs a background")
    others = _lse_of_others(groups)
    return np.stack([groups[organ] - others[organ] for organ in range(len(channels))])


def _lse_of_others(values: list[Float]) -> list[Float]:
    """Return for each of two or more arrays the LSE of all others: of those before it, and of those after it."""
    before, after = [values[0]], [values[-1]]
    for value, reverse in zip(values[1:-1], values[-2:0:-1], strict=True):
        before.append(np.logaddexp(before[-1], value))
        after.append(np.logaddexp(after[-1], reverse))
    after.reverse()
    between = [np.logaddexp(low, high) for low, high in zip(before[:-1], after[1:], strict=True)]
    return [after[0], *between, before[-1]]


def _positions(found: ForeignScores, geometry: Geometry) -> tuple[list[npt.NDArray[np.float64]], list[int]]:
    """Return, per study axis, the places of its voxels on the network's grid, and which axis of that grid it is."""
    step = found.to_grid @ np.linalg.inv(np.asarray(geometry.raw_affine)) @ geometry.affine
    order = [int(np.argmax(np.abs(step[:3, axis]))) for axis in range(3)]
    lean = step[:3, :3].copy()
    for axis, row in enumerate(order):
        lean[row, axis] = 0
    longest = max(found.scores.shape[1:])
    if sorted(order) != [0, 1, 2] or float(np.abs(lean).max()) > TILT or float(np.abs(lean).max()) * longest > 0.5:
        raise MskdError(
            "a teacher's preprocessing rotates the scan: its grid and the study's lean against each other, "
            f"{np.round(step[:3, :3], 4).tolist()} voxels per voxel; use a preprocessing that only changes "
            "orientation and spacing"
        )
    places = [step[row, axis] * np.arange(geometry.shape[axis]) + step[row, 3] for axis, row in enumerate(order)]
    return places, order


def _range(mask: npt.NDArray[np.bool_]) -> tuple[int, int]:
    index = np.flatnonzero(mask)
    return int(index[0]), int(index[-1]) + 1


def _slabs(inside: npt.NDArray[np.bool_]) -> Iterator[slice]:
    first, last = _range(inside)
    for start in range(first, last, SLAB):
        yield slice(start, min(start + SLAB, last))
