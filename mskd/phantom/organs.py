"""The labelled organs: liver, gallbladder, spleen, pancreas, kidneys, stomach, aorta and inferior vena cava."""

# mypy: disable-error-code="no-any-return"
# (products of a numpy scalar and an array are typed Any)

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mskd.phantom.noise import FloatArray
from mskd.phantom.patch import Patch, Point, Structure, flat
from mskd.phantom.patient import Patient
from mskd.phantom.shapes import along, carve, curve, ellipsoid, extent, rotation, smooth_union, tube
from mskd.phantom.tissue import ORGAN_VALUES

# Median volume in ml and its relative spread, with the limits between which the population stays.
_VOLUMES_ML = {
    "liver": (1500.0, 0.17, 1060.0, 2120.0),
    "spleen": (205.0, 0.28, 112.0, 380.0),
    "kidney": (168.0, 0.13, 126.0, 238.0),
    "pancreas": (80.0, 0.18, 54.0, 114.0),
}


class Draws:
    """The random numbers of one patient's organs: `vary(mean, spread)` in units of the spec's strength."""

    def __init__(self, rng: np.random.Generator, strength: float) -> None:
        self.rng, self.strength = rng, strength

    def vary(self, mean: float, spread: float) -> float:
        """Return `mean` plus a normal deviate of the spread, cut at two deviations."""
        return mean + self.strength * spread * float(np.clip(self.rng.standard_normal(), -2, 2))

    def shift(self, spread: float) -> np.ndarray:
        """Return a (3,) random displacement in mm."""
        return np.array([self.vary(0.0, spread) for _ in range(3)])

    def volume(self, organ: str) -> float:
        """Return a volume in ml within the organ's human range."""
        median, spread, low, high = _VOLUMES_ML[organ]
        return float(np.clip(median * np.exp(self.vary(0.0, spread)), low, high))


def _at(point: Point, shift: np.ndarray) -> Point:
    return (point[0] + float(shift[0]), point[1] + float(shift[1]), point[2] + float(shift[2]))


def liver(patient: Patient, draws: Draws) -> Structure:
    """Right and left lobe under the diaphragm, hollow towards stomach, kidney and hilum."""
    shift = draws.shift(4)
    right_turn = rotation((draws.vary(0, 6), draws.vary(-10, 6), draws.vary(0, 6)))
    left_turn = rotation((draws.vary(0, 8), draws.vary(14, 8), draws.vary(-8, 8)))
    left_reach, tip = draws.vary(82, 12), draws.vary(92, 9)
    right_centre, left_centre = _at((72, 2, 32), shift), _at((4, 44, 62), shift + draws.shift(4))
    hollow, fissure = _at((2, -8, -28), shift + draws.shift(4)), _at((14, 62, 22), shift + draws.shift(3))

    def field(p: Patch) -> FloatArray:
        right = ellipsoid(p, right_centre, (66, 84, tip), right_turn, boxy=0.5)
        left = ellipsoid(p, left_centre, (left_reach, 36, 42), left_turn, boxy=0.3)
        d = smooth_union(right, left, 22)
        d = carve(d, ellipsoid(p, hollow, (58, 66, 74), boxy=0.2), 18)
        d = carve(d, ellipsoid(p, fissure, (4, 26, 26), rotation((0, 0, 15))), 6)
        return d + np.float32(3.2) * p.rough + np.float32(0.6) * p.fine

    def limit(p: Patch) -> FloatArray:
        # A large liver grows over the kidney, not between it and the spine.
        beside_spine = ellipsoid(p, (20, -50, -22), (38, 34, 80))
        return np.maximum(np.maximum(p.wall + np.float32(1.5), p.dome + np.float32(2.0)), -beside_spine)

    shade = flat(patient.tissues["liver"], rough=2.5, fine=3.5)
    low, high = (-125.0, -95.0, -105.0), (150.0, 110.0, 140.0)
    return Structure("liver", low, high, field, shade, ORGAN_VALUES["liver"], draws.volume("liver"), limit=limit)


def spleen(patient: Patient, draws: Draws) -> Structure:
    """A crescent against the left back wall, hollow towards stomach and kidney."""
    shift = draws.shift(5)
    centre = _at((-98, -36, 48), shift)
    turn = rotation((draws.vary(-22, 9), draws.vary(8, 8), draws.vary(-22, 9)))
    length, width = draws.vary(56, 6), draws.vary(50, 5)
    hollow = _at((-50, 2, 44), shift + draws.shift(4))
    notch = _at((-108, 30, 40), shift + draws.shift(6))

    def field(p: Patch) -> FloatArray:
        d = ellipsoid(p, centre, (29, width, length), turn, boxy=0.25)
        d = carve(d, ellipsoid(p, hollow, (44, 46, 56)), 10)
        # The notch is open to the front, or it would leave a hole in a large spleen.
        d = carve(d, ellipsoid(p, notch, (26, 25, 7), rotation((0, 25, 0))), 6)
        return d + np.float32(2.4) * p.rough + np.float32(0.5) * p.fine

    def limit(p: Patch) -> FloatArray:
        return -smooth_union(-(p.wall + np.float32(2.0)), -(p.dome + np.float32(2.5)), 8)

    # Early enhancement of the spleen is striped.
    stripes = 22.0 if patient.tissues["aorta"] > 230 else 2.5
    shade = flat(patient.tissues["spleen"], rough=2.5, fine=stripes)
    low, high = (-160.0, -110.0, -50.0), (-35.0, 60.0, 140.0)
    return Structure("spleen", low, high, field, shade, ORGAN_VALUES["spleen"], draws.volume("spleen"), limit=limit)


def pancreas_course(draws: Draws) -> tuple[np.ndarray, np.ndarray]:
    """Return the (N, 3) mid-line of the pancreas from head to tail and its (N,) radii in mm."""
    shift = draws.shift(4)
    tail = draws.vary(34, 10)
    knots = [
        _at((34, 6, -34), shift),
        _at((33, 9, -14), shift),
        _at((16, 15, 2), shift + draws.shift(2)),
        _at((-8, 21, 10), shift + draws.shift(3)),
        _at((-36, 10, 0.5 * tail + 6), shift + draws.shift(3)),
        _at((-58, -6, 0.8 * tail + 4), shift + draws.shift(3)),
        _at((-76, -20, tail + 4), shift + draws.shift(3)),
    ]
    points = curve(knots)
    radii = along([9, draws.vary(14, 1.5), 10, 8.5, draws.vary(10, 1), draws.vary(10.5, 1), 6.5], points)
    return points, radii


def pancreas(patient: Patient, draws: Draws, course: tuple[np.ndarray, np.ndarray]) -> Structure:
    """A lobulated band from the duodenum across the great vessels to the hilum of the spleen."""
    points, radii = course
    lobules = draws.vary(1.7, 0.7)
    low, high = extent(points, 26)
    uncinate = (float(points[3][0]) - 12, float(points[3][1]) - 6, float(points[3][2]) - 14)

    def field(p: Patch) -> FloatArray:
        d = smooth_union(tube(p, points, radii), ellipsoid(p, uncinate, (15, 8, 11)), 8)
        return d + np.float32(1.3) * p.rough + np.float32(lobules) * p.fine

    fat_infiltration = float(np.clip(draws.vary(14, 9), 2, 35))

    def shade(p: Patch, distance: FloatArray) -> FloatArray:
        clefts = np.maximum(p.fine - np.float32(0.6), 0) * np.float32(-fat_infiltration)
        return np.float32(patient.tissues["pancreas"]) + clefts + 3 * p.rough

    return Structure("pancreas", low, high, field, shade, ORGAN_VALUES["pancreas"], draws.volume("pancreas"))


def kidney(patient: Patient, draws: Draws, side: float) -> tuple[Structure, Structure]:
    """Return a kidney and its sinus; `side` is 1 for the right kidney and -1 for the left."""
    shift = draws.shift(5)
    centre = _at((side * 66, -40, -30 if side > 0 else -14), shift)
    turn = rotation((draws.vary(-14, 5), side * draws.vary(-12, 5), side * draws.vary(28, 8)))
    radii = (draws.vary(26, 1.5), draws.vary(29, 1.5), draws.vary(55, 4))
    medial = turn @ np.array([-side * 24.0, 2.0, 0.0])
    hilum = _at(centre, medial)
    sinus_centre = _at(centre, 0.45 * medial)
    cortex = np.float32(patient.tissues["kidney_cortex"])
    medulla = np.float32(patient.tissues["kidney_medulla"])
    name = "right_kidney" if side > 0 else "left_kidney"

    def field(p: Patch) -> FloatArray:
        d = ellipsoid(p, centre, radii, turn, boxy=0.1)
        d = carve(d, ellipsoid(p, hilum, (9, 9, 15), turn), 8)
        return d + np.float32(1.2) * p.rough + np.float32(0.3) * p.fine

    def shade(p: Patch, distance: FloatArray) -> FloatArray:
        pyramids = np.clip((-distance - 5) * np.float32(0.5), 0, 1) * np.clip(p.fine * 2 + 1.4, 0, 1)
        return cortex + pyramids * (medulla - cortex) + 2 * p.rough

    def sinus(p: Patch) -> FloatArray:
        d = ellipsoid(p, sinus_centre, (10, 7, 24), turn)
        d = smooth_union(d, ellipsoid(p, hilum, (11, 6, 12), turn), 6)
        return d + np.float32(1.5) * p.rough + p.fine

    def sinus_shade(p: Patch, distance: FloatArray) -> FloatArray:
        pelvis = np.clip(p.rough * 3 + p.fine * 2 - 1, 0, 1)
        return np.float32(-70) + pelvis * np.float32(patient.tissues["renal_pelvis"] + 70)

    points = np.array([centre])
    low, high = extent(points, 78)
    organ = Structure(name, low, high, field, shade, ORGAN_VALUES[name], draws.volume("kidney"))
    low, high = extent(np.array([sinus_centre, hilum]), 34)
    return organ, Structure("renal_sinus", low, high, sinus, sinus_shade, 0)


def perirenal_fat(patient: Patient, organ: Structure) -> Structure:
    """The capsule of fat that keeps bowel off the kidney."""
    thickness = float(np.clip(6 * patient.fat_mm[0] / 17, 2.5, 13))

    def field(p: Patch) -> FloatArray:
        return np.maximum(organ.distance(p) - np.float32(thickness), p.wall)

    low = (organ.low[0] - 10, organ.low[1] - 10, organ.low[2] - 10)
    high = (organ.high[0] + 10, organ.high[1] + 10, organ.high[2] + 10)
    return Structure("fat", low, high, field, flat(patient.tissues["fat"], rough=4, fine=5))


def gallbladder(patient: Patient, draws: Draws) -> Structure:
    """A pear of bile in its fossa under the right lobe."""
    shift = draws.shift(5)
    points = curve([_at((38, 28, 6), shift), _at((46, 44, -8), shift), _at((54, 60, -28), shift)])
    radii = along([6.0, draws.vary(12, 2.0), draws.vary(14, 2.5)], points)
    low, high = extent(points, 24)

    def field(p: Patch) -> FloatArray:
        return np.maximum(tube(p, points, radii) + np.float32(0.8) * p.rough, p.wall + 4)

    def shade(p: Patch, distance: FloatArray) -> FloatArray:
        wall, bile = np.float32(60), np.float32(patient.tissues["gallbladder"])
        return np.where(distance > -1.5, wall, bile + p.fine)

    return Structure("gallbladder", low, high, field, shade, ORGAN_VALUES["gallbladder"])


def stomach(patient: Patient, draws: Draws, neighbour: Structure) -> Structure:
    """A J from the left dome to the pylorus: wall, food or water, and a bubble of gas at the front.

    Args:
        patient: Size and random fields.
        draws: Random numbers.
        neighbour: The spleen, against which the stomach leans and behind which it does not reach.
    """
    shift = draws.shift(5)
    fill = draws.vary(1.0, 0.16)
    knots: list[Point] = [
        (-56, -14, 88),
        (-68, 2, 72),
        (-70, 28, 42),
        (-54, 46, 14),
        (-24, 54, 0),
        (10, 44, 4),
        (26, 34, 6),
    ]
    points = curve([_at(knot, shift + draws.shift(3)) for knot in knots])
    radii = along([24, 34, 32, 27, 21, 15, 10], points) * fill
    wall_mm, gas_level = draws.vary(5.0, 0.8), draws.vary(50, 12)
    content, lumps = (
        draws.rng.choice([12.0, 30.0, 140.0], p=[0.45, 0.4, 0.15]),
        float(abs(draws.vary(10, 10))),
    )
    low, high = extent(points, 44)
    wall = np.float32(patient.tissues["stomach"])

    def field(p: Patch) -> FloatArray:
        d = tube(p, points, radii) + np.float32(2.5) * p.rough
        # The spleen, and the spleen moved outwards: without the second a rim of stomach would lie behind it.
        behind = neighbour.distance(replace(p, x=p.x + 15, y=p.y + 11))
        d = carve(d, np.minimum(neighbour.distance(p), behind) - np.float32(1), 5)
        return np.maximum(d, np.maximum(p.wall + 3, p.dome + 3))

    def shade(p: Patch, distance: FloatArray) -> FloatArray:
        food = np.float32(content) + np.float32(lumps) * (p.rough + p.fine)
        gas = np.clip((p.y - np.float32(gas_level)) * np.float32(1 / p.edge_mm), 0, 1)
        food += gas * (np.float32(patient.tissues["gas"]) - food)
        folds = np.clip((-distance - np.float32(wall_mm) + p.fine) * np.float32(1 / p.edge_mm) + 0.5, 0, 1)
        return wall + folds * (food - wall)

    return Structure("stomach", low, high, field, shade, ORGAN_VALUES["stomach"])
