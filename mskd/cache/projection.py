"""A linear projection of features to fewer channels: principal components, fitted on training cases only.

Components are those of standardised channels: distances between projected features, all components on one scale, are
then the distances between standardised features that students compare, less what the other components hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FLAT = 0.1  # least deviation of a channel, as a share of the channels' mean deviation


@dataclass(frozen=True)
class Projection:
    """f' = V D⁻¹ (f − μ), the leading principal components of a tap's standardised channels.

    Attributes:
        mean: μ, (C,).
        matrix: V D⁻¹, (C', C): V has orthonormal rows, leading component first; D holds the channels' deviations.
        explained: Share of the standardised channels' variance that the C' components hold.
    """

    mean: npt.NDArray[np.float32]
    matrix: npt.NDArray[np.float32]
    explained: float

    def apply(self, features: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
        """Return the projected features (C', x, y, z) of features (C, x, y, z)."""
        flat = features.reshape(features.shape[0], -1).astype(np.float32)
        reduced = self.matrix @ (flat - self.mean[:, None])
        return np.asarray(reduced.reshape(-1, *features.shape[1:]), np.float32)

    def to_json(self) -> dict[str, Any]:
        """Return numbers that read back to equal float32 values."""
        return {
            "mean": [float(v) for v in self.mean],
            "matrix": [[float(v) for v in row] for row in self.matrix],
            "explained": self.explained,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Projection:
        """Undo `to_json`."""
        return cls(np.asarray(data["mean"], np.float32), np.asarray(data["matrix"], np.float32), data["explained"])


class Moments:
    """Sums over voxels from which a projection is fitted, case by case, in bounded memory."""

    def __init__(self, channels: int) -> None:
        """Start with nothing seen."""
        self.count = 0
        self.total = np.zeros(channels)
        self.products = np.zeros((channels, channels))

    def add(self, features: npt.NDArray[np.floating[Any]], where: npt.NDArray[np.bool_]) -> None:
        """Count the voxels of features (C, x, y, z) at which `where` (x, y, z) holds."""
        chosen = features[:, where].astype(np.float64)
        self.count += chosen.shape[1]
        self.total += chosen.sum(1)
        self.products += chosen @ chosen.T

    def fit(self, channels: int) -> Projection:
        """Return the projection to at most `channels` components.

        Raises:
            ValueError: If no voxel was counted.
        """
        if not self.count:
            raise ValueError("no voxel to fit a projection on")
        mean = self.total / self.count
        covariance = self.products / self.count - np.outer(mean, mean)
        deviation = np.sqrt(np.diag(covariance).clip(0))
        deviation = np.maximum(deviation, FLAT * deviation.mean()).clip(1e-6)
        values, vectors = np.linalg.eigh(covariance / np.outer(deviation, deviation))
        order = np.argsort(values)[::-1][:channels]
        matrix = vectors[:, order].T
        signs = np.sign(matrix[np.arange(len(matrix)), np.abs(matrix).argmax(1)])
        matrix = matrix * np.where(signs == 0, 1, signs)[:, None] / deviation
        total = float(np.clip(values, 0, None).sum())
        explained = float(np.clip(values[order], 0, None).sum() / total) if total > 0 else 1.0
        return Projection(mean.astype(np.float32), matrix.astype(np.float32), explained)
