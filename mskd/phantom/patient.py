"""One patient: sizes, pose and the surfaces that everything else is placed against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from mskd.config.phantom import Phase
from mskd.phantom.noise import FloatArray, Lattice
from mskd.phantom.tissue import draw_tissues

# The lattices cover this box about the patient's origin (first lumbar vertebra), in mm.
_HALF_EXTENT_MM = (300.0, 260.0, 340.0)


@dataclass(frozen=True)
class Patient:
    """Size, pose, tissues and random fields of one patient.

    The origin lies in front of the first lumbar vertebra in the middle of the abdomen; x grows to the patient's
    right, y to the front, z to the head.

    Attributes:
        strength: Strength of the random variation (0 for the mean patient).
        cavity_mm: Half widths of the abdominal cavity (right-left, anterior-posterior).
        fat_mm: Thickness of the subcutaneous fat (front, sides, back).
        muscle_mm: Thickness of the muscular wall (front, sides, back).
        dome_mm: Height of the right and the left dome of the diaphragm.
        tissues: HU by tissue.
        warp: Two lattices of displacements with their amplitudes in mm.
        rough: Noise with bumps of about 25 mm.
        fine: Noise with bumps of about 8 mm.
    """

    strength: float
    cavity_mm: tuple[float, float]
    fat_mm: tuple[float, float, float]
    muscle_mm: tuple[float, float, float]
    dome_mm: tuple[float, float]
    tissues: Mapping[str, float]
    warp: tuple[tuple[Lattice, float], ...] = field(repr=False)
    rough: Lattice = field(repr=False)
    fine: Lattice = field(repr=False)

    @classmethod
    def draw(cls, rng: np.random.Generator, phase: Phase, *, strength: float, jitter: float) -> Patient:
        """Draw a patient."""

        def vary(mean: float, spread: float) -> float:
            return mean + strength * spread * float(np.clip(rng.standard_normal(), -2, 2))

        obesity = float(np.clip(vary(1.0, 0.45), 0.35, 2.2))
        return cls(
            strength=strength,
            cavity_mm=(vary(128, 6), vary(86, 5)),
            fat_mm=(17 * obesity, 13 * obesity, 13 * obesity),
            muscle_mm=(vary(11, 2), vary(17, 2), vary(29, 3)),
            dome_mm=(vary(112, 6), vary(102, 6)),
            tissues=draw_tissues(rng, phase, jitter),
            warp=(
                (Lattice.draw(rng, _HALF_EXTENT_MM, 75.0, 3), 5.0 * strength),
                (Lattice.draw(rng, _HALF_EXTENT_MM, 32.0, 3), 1.6 * strength),
            ),
            rough=Lattice.draw(rng, _HALF_EXTENT_MM, 22.0, 1),
            fine=Lattice.draw(rng, _HALF_EXTENT_MM, 7.0, 1),
        )

    @property
    def back_mm(self) -> float:
        """Position of the skin of the back (y), where the table begins."""
        return 8.0 - self.cavity_mm[1] - self.muscle_mm[2] - self.fat_mm[2]

    def wall(self, x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
        """Return the distance to the wall of the body cavity in mm, negative inside."""
        return self._ring(x, y, z, 0.0, 0.0)

    def muscle(self, x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
        """Return the distance to the outside of the muscular wall in mm, negative inside."""
        return self._ring(x, y, z, 1.0, 0.0)

    def skin(self, x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
        """Return the distance to the skin in mm, negative inside the body."""
        return self._ring(x, y, z, 1.0, 1.0)

    def dome(self, x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
        """Return the distance above the diaphragm in mm; its two domes fall off to the sides and the back."""
        dy = y - np.float32(12)
        fall = np.where(dy < 0, np.float32(0.0120), np.float32(0.0055)) * dy * dy
        right = np.float32(self.dome_mm[0]) - np.float32(0.0085) * (x - np.float32(58)) ** 2
        left = np.float32(self.dome_mm[1]) - np.float32(0.0090) * (x + np.float32(60)) ** 2
        top = np.maximum(right, left) - fall
        # About the slope of the domes: turns height into distance, or thin sheets would tear where it is steep.
        sideways = np.float32(0.0175) * (np.abs(x) - np.float32(59))
        slope2 = sideways * sideways + np.float32(0.022) ** 2 * dy * dy
        distance: FloatArray = (z - top) / np.sqrt(1 + slope2)
        return distance

    def _ring(self, x: FloatArray, y: FloatArray, z: FloatArray, muscles: float, fats: float) -> FloatArray:
        front = muscles * self.muscle_mm[0] + fats * self.fat_mm[0]
        side = muscles * self.muscle_mm[1] + fats * self.fat_mm[1]
        back = muscles * self.muscle_mm[2] + fats * self.fat_mm[2]
        middle = 8.0 + (front - back) / 2
        # The waist is narrower than chest and hips.
        waist = 1 - np.float32(0.05) / (1 + ((z + np.float32(55)) * np.float32(1 / 60)) ** 2)
        dy = y - np.float32(middle)
        u = x / (waist * np.float32(self.cavity_mm[0] + side))
        v = dy / (waist * np.float32(self.cavity_mm[1] + (front + back) / 2))
        u2, v2 = u * u, v * v
        q = np.float32(0.55) * np.sqrt(u2 + v2) + np.float32(0.45) * np.sqrt(np.sqrt(u2 * u2 + v2 * v2))
        # The back is flatter, with a furrow over the spine.
        q += np.float32(0.05) * np.maximum(-v, 0) ** 3 * np.maximum(1 - 6 * u2, 0)
        radius = np.sqrt(x * x + dy * dy)
        distance: FloatArray = radius * (1 - 1 / np.maximum(q, np.float32(1e-2)))
        return distance
