"""Smooth random fields that do not depend on the grid on which they are evaluated."""

from __future__ import annotations

from dataclasses import dataclass

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
        weights = [
            spline_weights((axis - start) / self.pitch_mm, count)
            for axis, start, count in zip(axes_mm, self.origin_mm, self.values.shape[1:], strict=True)
        ]
        field = self.values @ weights[2].T  # (C, A, B, Z)
        field = np.matmul(weights[1], field)  # (C, A, Y, Z)
        channels, lattice_x, size_y, size_z = field.shape
        field = np.matmul(weights[0], field.reshape(channels, lattice_x, size_y * size_z))
        return field.reshape(channels, len(axes_mm[0]), size_y, size_z)


def spline_weights(position: npt.NDArray[np.floating], count: int) -> FloatArray:
    """Return the (N, count) cubic B-spline weights of N positions given in lattice steps; clamped at the ends."""
    position = np.clip(np.asarray(position, dtype=np.float64), 1.0, count - 2.001)
    first = np.floor(position).astype(int)
    t = position - first
    basis = (
        (1 - t) ** 3 / 6,
        (3 * t**3 - 6 * t**2 + 4) / 6,
        (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6,
        t**3 / 6,
    )
    weights = np.zeros((len(position), count), dtype=np.float32)
    rows = np.arange(len(position))
    for step, values in enumerate(basis):
        weights[rows, first - 1 + step] = values
    return weights
