"""Smooth random fields that do not depend on the grid on which they are evaluated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

# Standard deviation of a cubic B-spline sum over unit white noise, per axis: sqrt(mean over phase of sum(w^2)).
_SPLINE_SD = float(np.sqrt(151.0 / 315.0))


@dataclass(frozen=True)
class Lattice:
    """Independent normal values on a regular lattice, interpolated by cubic B-splines.

    Attributes:
        values: (C, A, B, D) float32 lattice values, normalised so that samples have unit variance.
        origin_mm: Position of the first lattice point.
        pitch_mm: Distance between lattice points, about the size of the bumps.
    """

    values: FloatArray
    origin_mm: tuple[float, float, float]
    pitch_mm: float

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        half_extent_mm: tuple[float, float, float],
        pitch_mm: float,
        channels: int,
    ) -> Lattice:
        """Draw a lattice that covers `±half_extent_mm` about the origin."""
        counts = [int(np.ceil(2 * half / pitch_mm)) + 4 for half in half_extent_mm]
        values = rng.standard_normal((channels, *counts), dtype=np.float32) / np.float32(_SPLINE_SD**3)
        origin = (
            -(counts[0] - 1) * pitch_mm / 2,
            -(counts[1] - 1) * pitch_mm / 2,
            -(counts[2] - 1) * pitch_mm / 2,
        )
        return cls(values, origin, pitch_mm)

    def sample(self, axes_mm: tuple[FloatArray, FloatArray, FloatArray]) -> FloatArray:
        """Return (C, X, Y, Z) float32 values on the grid spanned by the three coordinate axes (mm)."""
        # No matrix product: its sums depend on the number of threads and the kind of processor.
        field = self.values
        for axis in (2, 1, 0):
            position = (axes_mm[axis] - self.origin_mm[axis]) / self.pitch_mm
            field = _interpolate(field, axis + 1, position)
        return field


def _interpolate(values: FloatArray, axis: int, position: npt.NDArray[np.floating[Any]]) -> FloatArray:
    """Return values along one axis at positions given in lattice steps."""
    first, weights = spline_weights(position, values.shape[axis])
    shape = [1] * values.ndim
    shape[axis] = -1

    def part(step: int) -> FloatArray:
        product: FloatArray = np.take(values, first + step, axis=axis) * weights[step].reshape(shape)
        return product

    total = part(0)
    for step in (1, 2, 3):
        total += part(step)
    return total


def spline_weights(position: npt.NDArray[np.floating[Any]], count: int) -> tuple[npt.NDArray[np.intp], FloatArray]:
    """Return the cubic B-spline weights of N positions given in lattice steps, which are clamped to the lattice.

    Args:
        position: (N,) positions.
        count: Number of lattice points.

    Returns:
        (N,) indices of the first of four lattice points, and their (4, N) weights.
    """
    position = np.clip(np.asarray(position, dtype=np.float64), 1.0, count - 2.001)
    whole = np.floor(position).astype(np.intp)
    t = position - whole
    basis = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    return whole - 1, np.asarray(np.stack(basis) / 6, dtype=np.float32)
