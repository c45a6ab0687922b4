"""Structures that look like an organ and are none, and lesions that belong to their organ."""

from __future__ import annotations

import numpy as np

from mskd.phantom.noise import FloatArray
from mskd.phantom.organs import Draws
from mskd.phantom.patch import Patch, Point, Structure, flat
from mskd.phantom.patient import Patient
from mskd.phantom.shapes import curve, ellipsoid, extent, rotation, tube
from mskd.phantom.tissue import ORGAN_VALUES


def blob(
    name: str,
    centre: Point,
    radii: Point,
    hu: float,
    *,
    fine_hu: float = 3.0,
    label: int | None = 0,
    keep: tuple[int, ...] = (),
    turn: Point = (0, 0, 0),
    rough_mm: float = 1.5,
) -> Structure:
    """Return a rough ellipsoid of one tissue."""
    matrix = rotation(turn)

    def field(p: Patch) -> FloatArray:
        d = ellipsoid(p, centre, radii, matrix) + np.float32(rough_mm) * p.rough
        return np.maximum(d, np.maximum(p.wall + 2, p.dome + 3))

    low, high = extent(np.array([centre]), max(radii) + 8)
    return Structure(name, low, high, field, flat(hu, rough=2, fine=fine_hu), label, keep=keep)


def lookalikes(patient: Patient, draws: Draws, course: np.ndarray) -> list[Structure]:
    """Return unlabelled look-alikes among the bowel, painted before the organs.

    Splenunculi and a bowel mass of the spleen's HU, jejunum of the pancreas's HU beside its tail and body, a mass of
    the liver's HU low on the right, a mass of the kidney's HU in the flank, lymph nodes, a cyst.
    """
    hu, rng = patient.tissues, draws.rng
    parts: list[Structure] = []

    def place(centre: Point, spread: float) -> Point:
        x, y, z = np.array(centre) + rng.normal(0, spread, 3)
        return float(x), float(y), float(z)

    def radii(low: float, high: float) -> Point:
        a, b, c = rng.uniform(low, high, 3)
        return float(a), float(b), float(c)

    def turn() -> Point:
        a, b, c = rng.uniform(-60, 60, 3)
        return float(a), float(b), float(c)

    parts.append(blob("mass", place((-62, 36, -70), 16), radii(15, 27), hu["spleen"], turn=turn()))
    if rng.random() < 0.6:
        parts.append(blob("mass", place((56, 40, -92), 14), radii(17, 32), hu["liver"], turn=turn()))
    if rng.random() < 0.6:
        side = float(rng.choice([-1.0, 1.0]))
        parts.append(
            blob("mass", place((side * 80, -6, -118), 10), radii(14, 26), hu["kidney_cortex"] - 12, turn=turn())
        )
    for _ in range(2):
        anchor = course[int(rng.integers(12, len(course) - 4))] + np.array([0.0, 17.0, -17.0])
        step = rng.normal(0, 12, (3, 3)) * np.array([1.4, 0.6, 0.8])
        points = curve(np.cumsum(np.concatenate([anchor[None], step]), axis=0), 3)
        parts.append(_loop(points, float(rng.uniform(8.5, 11)), hu["pancreas"] + float(rng.normal(0, 5))))
    for _ in range(5):
        parts.append(blob("node", place((0, -2, -55), 22), radii(3, 7), hu["lymph_node"], rough_mm=0.5))
    if rng.random() < 0.5:
        parts.append(blob("cyst", place((20, 45, -100), 25), radii(12, 24), hu["water"]))
    return parts


def _loop(points: np.ndarray, radius: float, hu: float) -> Structure:
    low, high = extent(points, radius + 4)

    def field(p: Patch) -> FloatArray:
        return tube(p, points, np.full(len(points), radius)) + p.rough + np.float32(1.2) * p.fine

    return Structure("unopacified_bowel", low, high, field, flat(hu, fine=7, rough=3))


def lesions(patient: Patient, draws: Draws) -> list[Structure]:
    """Return cysts and tumours inside liver, kidneys and pancreas, which keep the organ's label, and splenunculi."""
    hu, rng = patient.tissues, draws.rng

    def inside(organ: str, centre: Point, spread: float, size: tuple[float, float], value: float) -> Structure:
        x, y, z = np.array(centre) + rng.normal(0, spread, 3)
        radius = float(rng.uniform(*size))
        others = (0, *(number for name, number in ORGAN_VALUES.items() if name != organ))
        shape = (radius, radius * float(rng.uniform(0.7, 1.1)), radius * float(rng.uniform(0.7, 1.1)))
        return blob("lesion", (float(x), float(y), float(z)), shape, value, label=None, keep=others, rough_mm=1)

    parts = [
        inside("liver", (75, 5, 40), 32, (5, 16), hu["water"] if rng.random() < 0.4 else hu["tumour"])
        for _ in range(int(rng.integers(0, 4)))
    ]
    for organ, side in (("right_kidney", 1.0), ("left_kidney", -1.0)):
        if rng.random() < 0.35:
            parts.append(inside(organ, (side * 78, -40, -25), 16, (5, 13), hu["water"]))
    if rng.random() < 0.25:
        parts.append(inside("pancreas", (30, 10, -14), 6, (5, 10), hu["tumour"]))
    return parts
