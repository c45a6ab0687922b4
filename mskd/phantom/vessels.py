"""Great vessels and their branches: aorta, inferior vena cava, portal system, renal and mesenteric vessels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mskd.phantom.noise import FloatArray
from mskd.phantom.organs import Draws
from mskd.phantom.patch import Patch, Point, Structure, flat
from mskd.phantom.patient import Patient
from mskd.phantom.shapes import along, curve, extent, tube
from mskd.phantom.tissue import ORGAN_VALUES


def vessel(
    name: str,
    knots: Sequence[Point],
    radii_mm: Sequence[float],
    hu: float,
    *,
    label: int | None = None,
    keep: tuple[int, ...] = (),
) -> Structure:
    """Return a vessel along a curve; without a label it leaves the labels below as they are."""
    points = curve(knots)
    radii = along(radii_mm, points)
    low, high = extent(points, float(max(radii_mm)) + 3)

    def field(p: Patch) -> FloatArray:
        return tube(p, points, radii)

    return Structure(name, low, high, field, flat(hu, fine=2), label, keep=keep)


def great_vessels(patient: Patient, draws: Draws) -> list[Structure]:
    """Return aorta and inferior vena cava with their branches outside the organs' labels."""
    hu = patient.tissues
    lean, width = draws.vary(-12, 4), draws.vary(10.5, 1.3)
    artery, vein = hu["aorta"], hu["ivc"]
    aorta = [
        (lean - 2, -36.0, 240.0),
        (lean - 2, -36.0, 120.0),
        (lean, -24.0, 40.0),
        (lean + 4, -20.0, -40.0),
        (lean + 9, -18.0, -92.0),
    ]
    cava = [
        (22.0, -4.0, 128.0),
        (26.0, -14.0, 96.0),
        (25.0, -17.0, 50.0),
        (21.0, -19.0, -10.0),
        (17.0, -22.0, -100.0),
    ]
    left_renal, right_renal = draws.vary(-12, 4), draws.vary(-24, 4)
    parts = [
        vessel(
            "artery",
            [(lean + 3, -22, -4), (lean - 18, -30, -8), (-50, -36, left_renal)],
            [3.2, 2.8, 2.2],
            artery,
        ),
        vessel("artery", [(lean + 5, -22, -8), (24, -33, -20), (50, -36, right_renal)], [3.2, 2.8, 2.2], artery),
        vessel(
            "vein",
            [(20, -18, -14), (-8, -9, -12), (-30, -24, -11), (-50, -36, left_renal)],
            [5, 4, 5, 4],
            vein,
        ),
        vessel("vein", [(24, -18, -22), (50, -36, right_renal)], [5, 4], vein),
        vessel("ivc", cava, [12, 12, 11, 11, 9.5], vein, label=ORGAN_VALUES["ivc"]),
        vessel(
            "aorta",
            aorta,
            [width + 1, width + 1, width, width - 1, width - 2],
            artery,
            label=ORGAN_VALUES["aorta"],
        ),
    ]
    for side in (-1.0, 1.0):
        start = aorta[-1]
        path = [
            start,
            (start[0] + side * 16, -18.0, -122.0),
            (side * 52, -14.0, -180.0),
            (side * 62, 4.0, -240.0),
        ]
        parts.append(vessel("artery", path, [6, 5.5, 5, 4.5], artery))
        path = [
            cava[-1],
            (cava[-1][0] + side * 16, -28.0, -130.0),
            (side * 48, -22.0, -185.0),
            (side * 56, -4, -240.0),
        ]
        parts.append(vessel("vein", path, [8, 7, 6, 6], vein))
    superior = [(lean + 4, -14.0, 6.0), (lean + 8, 2.0, -8.0), (lean + 10, 8.0, -50.0), (2.0, 18.0, -90.0)]
    parts.append(vessel("artery", superior, [4, 3.8, 3.4, 2], artery))
    celiac = [(lean + 2, -16.0, 20.0), (lean + 4, -2.0, 26.0), (18.0, 8.0, 26.0), (38.0, 16.0, 30.0)]
    parts.append(vessel("artery", celiac, [3.8, 3.4, 2.8, 2], artery))
    return parts


def portal_system(patient: Patient, draws: Draws, course: np.ndarray) -> list[Structure]:
    """Return splenic, superior mesenteric and portal vein up to the hilum, following the pancreas."""
    hu = patient.tissues["portal_vein"]
    behind = [(float(x), float(y) - 9.0, float(z) + 3.0) for x, y, z in course[10::3]]
    hilum = (-84.0, -26.0, behind[-1][2] + 8)
    confluence = behind[0]
    mesenteric = [confluence, (14.0, 12.0, -30.0), (10.0, 22.0, -80.0), (6.0, 34.0, -115.0)]
    portal = [confluence, (24.0, 2.0, 18.0), (36.0, 8.0, 34.0), (46.0, 8.0, 44.0)]
    return [
        vessel("vein", [*behind, hilum], [6.0, *([4.2] * (len(behind) - 1)), 3.5], hu),
        vessel("vein", mesenteric, [6.0, 5.5, 4.5, 2.5], hu),
        vessel("vein", portal, [6.5, 7.0, 7.0, 6.0], hu),
    ]


def liver_vessels(patient: Patient, draws: Draws) -> list[Structure]:
    """Return portal branches and hepatic veins; they belong to the liver's label."""
    tissues = patient.tissues
    others = (0, *(value for organ, value in ORGAN_VALUES.items() if organ != "liver"))
    parts: list[Structure] = []

    def branch(start: Point, end: Point, radius: float, hu: float, depth: int) -> None:
        middle = tuple(0.5 * (a + b) + float(s) for a, b, s in zip(start, end, draws.shift(5), strict=True))
        knots = [start, (middle[0], middle[1], middle[2]), end]
        parts.append(vessel("liver_vessel", knots, [radius, 0.85 * radius, 0.6 * radius], hu, keep=others))
        if depth:
            for _ in range(2):
                step = (np.array(end) - np.array(start)) * 0.55 + draws.rng.normal(0, 16, 3)
                stop = np.array(end) + step
                branch(end, (float(stop[0]), float(stop[1]), float(stop[2])), 0.62 * radius, hu, depth - 1)

    portal, hepatic = tissues["portal_vein"], tissues["hepatic_vein"]
    hilum = (46.0, 8.0, 44.0)
    branch(hilum, (80, -12, 44), 5.5, portal, 2)
    branch(hilum, (84, 22, 26), 5.0, portal, 2)
    branch(hilum, (22, 36, 56), 4.5, portal, 2)
    mouth = (26.0, -10.0, 98.0)
    branch(mouth, (70, -22, 78), 5.0, hepatic, 2)
    branch(mouth, (52, 22, 80), 4.8, hepatic, 2)
    branch(mouth, (8, 30, 84), 4.5, hepatic, 1)
    return parts
