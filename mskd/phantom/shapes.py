"""Implicit shapes: signed distances in mm (approximate away from the border), negative inside."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mskd.phantom.noise import FloatArray
from mskd.phantom.patch import Patch, Point

Matrix = npt.NDArray[np.float64]


def rotation(degrees: Point) -> Matrix:
    """Return the (3, 3) rotation about x, then y, then z."""
    a, b, c = np.deg2rad(degrees)
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return np.asarray(about_z @ about_y @ about_x)


def ellipsoid(
    patch: Patch, centre: Point, radii: Point, turn: Matrix | None = None, *, boxy: float = 0.0
) -> FloatArray:
    """Return the radial distance to an ellipsoid; `boxy` (0–1) mixes in a superellipsoid of power 4.

    Args:
        patch: Where to evaluate.
        centre: Centre in mm.
        radii: Half axes in mm.
        turn: (3, 3) rotation from the shape's axes to the patient's.
        boxy: 0 for an ellipsoid, 1 for a box with round corners.
    """
    dx, dy, dz = (
        patch.x - np.float32(centre[0]),
        patch.y - np.float32(centre[1]),
        patch.z - np.float32(centre[2]),
    )
    if turn is None:
        axes = [dx / np.float32(radii[0]), dy / np.float32(radii[1]), dz / np.float32(radii[2])]
    else:
        rows = turn.T / np.asarray(radii)[:, None]
        axes = [np.float32(row[0]) * dx + np.float32(row[1]) * dy + np.float32(row[2]) * dz for row in rows]
    squares = [axis * axis for axis in axes]
    q = np.sqrt(squares[0] + squares[1] + squares[2])
    if boxy:
        fourth = squares[0] ** 2 + squares[1] ** 2 + squares[2] ** 2
        q = np.float32(1 - boxy) * q + np.float32(boxy) * np.sqrt(np.sqrt(fourth))
    radius = np.sqrt(dx * dx + dy * dy + dz * dz)
    distance: FloatArray = radius * (1 - 1 / np.maximum(q, np.float32(1e-3)))
    return distance


def tube(patch: Patch, points: Matrix, radii_mm: Sequence[float] | npt.NDArray[np.floating]) -> FloatArray:
    """Return the distance to a tube along a polyline, (N, 3) points in mm with N radii in mm."""
    distance = np.full(patch.x.shape, np.float32(1e3))
    for start, end, r_start, r_end in zip(points[:-1], points[1:], radii_mm[:-1], radii_mm[1:], strict=True):
        reach = max(float(r_start), float(r_end)) + 12.0
        low, high = np.minimum(start, end) - reach, np.maximum(start, end) + reach
        box = patch.find((low[0], low[1], low[2]), (high[0], high[1], high[2]))
        if box is None:
            continue
        along = (end - start).astype(np.float32)
        length2 = float(along @ along) + 1e-6
        dx = patch.x[box] - np.float32(start[0])
        dy = patch.y[box] - np.float32(start[1])
        dz = patch.z[box] - np.float32(start[2])
        t = np.clip((dx * along[0] + dy * along[1] + dz * along[2]) * np.float32(1 / length2), 0, 1)
        dx -= t * along[0]
        dy -= t * along[1]
        dz -= t * along[2]
        segment = np.sqrt(dx * dx + dy * dy + dz * dz)
        segment -= np.float32(r_start) + t * np.float32(r_end - r_start)
        np.minimum(distance[box], segment, out=distance[box])
    return distance


def smooth_union(a: FloatArray, b: FloatArray, blend_mm: float) -> FloatArray:
    """Return the union of two shapes whose seam is rounded over `blend_mm`."""
    h = np.maximum(np.float32(blend_mm) - np.abs(a - b), 0)
    union: FloatArray = np.minimum(a, b) - h * h * np.float32(0.25 / blend_mm)
    return union


def carve(a: FloatArray, b: FloatArray, blend_mm: float) -> FloatArray:
    """Return `a` without `b`, the new edge rounded over `blend_mm`."""
    return -smooth_union(-a, b, blend_mm)


def curve(points: Sequence[Point] | Matrix, steps: int = 4) -> Matrix:
    """Return a Catmull-Rom curve through the points, `steps` segments between each two, (N, 3) in mm."""
    knots = np.asarray(points, dtype=np.float64)
    padded = np.concatenate([2 * knots[:1] - knots[1:2], knots, 2 * knots[-1:] - knots[-2:-1]])
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    pieces = []
    for a, b, c, d in zip(padded[:-3], padded[1:-2], padded[2:-1], padded[3:], strict=True):
        pieces.append(0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3))
    return np.concatenate([*pieces, knots[-1:]])


def along(values: Sequence[float], points: Matrix, steps: int = 4) -> npt.NDArray[np.float64]:
    """Return values given at the knots of `curve`, interpolated to its points."""
    return np.interp(np.arange(len(points)) / steps, np.arange(len(values)), values)


def extent(points: Matrix, reach_mm: float) -> tuple[Point, Point]:
    """Return the corners of the box around points, widened by `reach_mm`."""
    low, high = points.min(axis=0) - reach_mm, points.max(axis=0) + reach_mm
    return (float(low[0]), float(low[1]), float(low[2])), (float(high[0]), float(high[1]), float(high[2]))
