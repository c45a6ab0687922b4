"""Bowel: convoluted small-bowel loops, the frame of the colon, the duodenum."""

# mypy: disable-error-code="no-any-return"
# (products of a numpy scalar and an array are typed Any)

from __future__ import annotations

import numpy as np

from mskd.phantom.noise import FloatArray
from mskd.phantom.organs import Draws
from mskd.phantom.patch import Patch, Point, Structure
from mskd.phantom.patient import Patient
from mskd.phantom.shapes import along, curve, extent, tube

_N_LOOPS = 46
_LOOP_CENTRE_MM = np.array([-6.0, 36.0, -92.0])
_N_JEJUNUM = 9
_JEJUNUM_CENTRE_MM = np.array([-52.0, 36.0, -22.0])
_LOOP_RADII_MM = np.array([88.0, 34.0, 66.0])


def hollow(
    patient: Patient,
    points: np.ndarray,
    radii: np.ndarray,
    *,
    content_hu: float,
    wall_mm: float,
    gas_level_mm: float = 1e4,
    lumps_hu: float = 0.0,
    haustra_mm: float = 0.0,
) -> Structure:
    """Return a tube with an enhancing wall, a content, and gas in front of `gas_level_mm` (y)."""
    low, high = extent(points, float(np.max(radii)) + 8)
    wall = np.float32(patient.tissues["bowel_wall"])
    gas_hu = np.float32(patient.tissues["gas"])

    def field(p: Patch) -> FloatArray:
        d = tube(p, points, radii) + np.float32(1.5) * p.rough
        if haustra_mm:
            d += np.float32(haustra_mm) * np.abs(np.sin((p.x + p.z + 0.6 * p.y) * np.float32(0.085)))
        return np.maximum(d, np.maximum(p.wall + np.float32(2), p.dome + np.float32(4)))

    def shade(p: Patch, distance: FloatArray) -> FloatArray:
        inside = np.float32(content_hu) + np.float32(lumps_hu) * p.fine
        if gas_level_mm < 1e3:
            level = np.clip((p.y - np.float32(gas_level_mm)) * np.float32(1 / p.edge_mm), 0, 1)
            inside = inside + level * (gas_hu - inside)
        lumen = np.clip((-distance - np.float32(wall_mm)) * np.float32(1 / p.edge_mm) + np.float32(0.5), 0, 1)
        return wall + lumen * (inside - wall)

    return Structure("bowel", low, high, field, shade)


def small_bowel(patient: Patient, draws: Draws) -> list[Structure]:
    """Return the loops of jejunum and ileum, each a short random walk in the lower abdomen."""
    rng = draws.rng
    contrast = rng.random() < 0.25  # the patient drank positive contrast
    parts = []
    for number in range(_N_LOOPS):
        direction = rng.normal(size=3)
        direction /= np.linalg.norm(direction)
        offset = rng.normal(size=3)
        offset *= rng.random() ** (1 / 3) / np.linalg.norm(offset)
        position = _LOOP_CENTRE_MM + offset * _LOOP_RADII_MM
        if number < _N_JEJUNUM:
            position = _JEJUNUM_CENTRE_MM + offset * np.array([34.0, 26.0, 26.0])
        knots = [position]
        for _ in range(4):
            direction = direction + 0.9 * rng.normal(size=3)
            # Loops curl back to the middle of the mesentery.
            direction += 0.6 * (_LOOP_CENTRE_MM - position) / _LOOP_RADII_MM
            direction /= np.linalg.norm(direction)
            position = position + 19 * direction
            knots.append(position)
        points = curve(np.array(knots), 3)
        radius = float(rng.uniform(8.5, 13.5))
        kind = rng.random()
        content = float(rng.uniform(5, 45)) if kind < 0.8 or not contrast else float(rng.uniform(150, 280))
        gas = float(np.mean(points[:, 1])) + float(rng.uniform(2, 9)) if kind < 0.3 else 1e4
        wall_mm = float(rng.uniform(2.0, 4.5)) if kind < 0.6 else 7.0
        parts.append(
            hollow(
                patient,
                points,
                np.full(len(points), radius),
                content_hu=content,
                wall_mm=wall_mm,
                gas_level_mm=gas,
                lumps_hu=8,
            )
        )
    return parts


def colon(patient: Patient, draws: Draws) -> list[Structure]:
    """Return ascending, transverse and descending colon with stool and gas."""
    sag = draws.vary(-58, 16)
    right, left = patient.cavity_mm[0] - 24, -(patient.cavity_mm[0] - 20)
    pieces: list[tuple[list[Point], list[float]]] = [
        ([(right - 6, 6, -160), (right, -8, -110), (right - 2, -6, -62)], [24, 23, 20]),
        (
            [
                (right - 2, -6, -62),
                (right - 26, 44, -50),
                (40, 74, sag),
                (-20, 76, sag - 4),
                (-66, 62, sag + 30),
                (left + 12, 18, 8),
            ],
            [20, 19, 18, 18, 17, 17],
        ),
        (
            [(left + 12, 18, 8), (left + 2, -22, -40), (left, -26, -100), (left + 14, 0, -165)],
            [17, 14, 13, 13],
        ),
    ]
    parts = []
    for knots, radii in pieces:
        points = curve(
            [
                (x + s[0], y + s[1], z + s[2])
                for (x, y, z), s in zip(knots, (draws.shift(4) for _ in knots), strict=True)
            ]
        )
        size = draws.vary(1.0, 0.15)
        gas = float(np.mean(points[:, 1])) + draws.vary(-4, 9)
        parts.append(
            hollow(
                patient,
                points,
                along(radii, points) * size,
                content_hu=float(draws.rng.uniform(-30, 45)),
                wall_mm=2.6,
                gas_level_mm=gas,
                lumps_hu=float(draws.rng.uniform(20, 90)),
                haustra_mm=5.0,
            )
        )
    return parts


def duodenum(patient: Patient, draws: Draws, head: Point) -> list[Structure]:
    """Return the duodenum around the head of the pancreas: unopacified, it looks much like pancreas."""
    x, y, z = head
    knots: list[Point] = [
        (x - 4, y + 18, z + 22),
        (x + 12, y + 10, z + 16),
        (x + 23, y - 4, z),
        (x + 20, y - 8, z - 28),
        (x - 4, y - 8, z - 44),
        (-12, -2, z - 42),
        (-34, 6, z - 22),
    ]
    points = curve(
        [(a + s[0], b + s[1], c + s[2]) for (a, b, c), s in zip(knots, (draws.shift(2) for _ in knots), strict=True)]
    )
    radii = along([11, 11, 12, 12, 11, 10, 11], points)
    return [
        hollow(
            patient,
            points,
            radii,
            content_hu=float(draws.rng.uniform(10, 60)),
            wall_mm=draws.vary(5, 1.5),
            lumps_hu=10,
        )
    ]
