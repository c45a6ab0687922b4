"""The frame of the body: skin, fat, muscular wall, ribs, lungs, heart, spine, pelvis."""

# mypy: disable-error-code="no-any-return"
# (products of a numpy scalar and an array are typed Any)

from __future__ import annotations

import numpy as np

from mskd.phantom.noise import FloatArray
from mskd.phantom.patch import Patch, Shade, Structure, flat
from mskd.phantom.patient import Patient
from mskd.phantom.shapes import along, curve, ellipsoid, extent, rotation, smooth_union, tube

_VERTEBRA_MM = 34.0
_RIB_PITCH_MM = 27.0


def paint_body(patch: Patch, patient: Patient) -> None:
    """Paint skin, fat, muscular wall with ribs, cavity fat, lungs; on the whole patch, in place."""
    hu = patient.tissues
    skin = patient.skin(patch.x, patch.y, patch.z)
    muscle = patient.muscle(patch.x, patch.y, patch.z) + np.float32(1.5) * patch.rough
    fat = np.float32(hu["fat"]) + np.float32(5) * patch.rough + np.float32(6) * patch.fine
    # Septa: thin sheets where the noise crosses zero.
    fat += np.float32(28) * np.maximum(1 - np.abs(patch.fine + patch.rough) * np.float32(9), 0)
    patch.hu += patch.cover(skin) * (np.float32(hu["skin"]) - patch.hu)
    patch.hu += patch.cover(skin + np.float32(2.2)) * (fat - patch.hu)
    del skin
    streaks = np.maximum(np.abs(patch.rough) - np.float32(0.9), 0) * np.float32(-45)
    wall = np.float32(hu["muscle"]) + np.float32(7) * patch.fine + streaks
    patch.hu += patch.cover(muscle) * (wall - patch.hu)
    _paint_ribs(patch, patient, muscle)
    del muscle, streaks, wall
    cavity = patch.cover(patch.wall)
    # Small vessels of the mesentery dot the fat of the cavity.
    dots = np.clip((patch.fine - np.float32(1.75)) * np.float32(6), 0, 1)
    fat += dots * (np.float32(hu["lymph_node"]) - fat)
    patch.hu += cavity * (fat - patch.hu)
    diaphragm = cavity * patch.cover(np.abs(patch.dome) - np.float32(2.0))
    patch.hu += diaphragm * (np.float32(hu["muscle"]) - patch.hu)
    lung = np.maximum(patch.wall + np.float32(2.5), np.float32(2.0) - patch.dome)
    # Between the lungs lies the mediastinum: narrow behind the heart, wider around it.
    middle = np.abs(patch.x + np.float32(4)) - np.float32(19) - np.float32(0.12) * np.maximum(patch.y + 30, 0)
    lung = np.maximum(lung, -(middle + np.float32(4) * patch.rough))
    vessels = np.maximum(patch.fine - np.float32(1.55), 0) * np.float32(750)
    air = np.minimum(np.float32(hu["lung"]) + np.float32(25) * patch.rough + vessels, np.float32(60))
    patch.hu += patch.cover(lung) * (air - patch.hu)


def _paint_ribs(patch: Patch, patient: Patient, muscle: FloatArray) -> None:
    box = patch.find((-400, -400, -30), (400, 400, 400))
    if box is None:
        return
    part = patch.crop(box)
    # Ribs slope downwards to the front; the costal margin rises towards the middle of the front.
    level = part.z + np.float32(0.42) * (part.y + np.float32(90))
    margin = level - np.float32(18) - np.maximum(part.y, 0) * np.float32(0.95)
    phase = level * np.float32(1 / _RIB_PITCH_MM)
    height = (phase - np.floor(phase) - np.float32(0.5)) * np.float32(_RIB_PITCH_MM)
    wall = part.wall
    depth = wall / np.maximum(wall - muscle[box], np.float32(4)) - np.float32(0.42)
    distance = np.sqrt(height * height + (depth * np.float32(15)) ** 2) - np.float32(5.6)
    distance = np.maximum(distance, -margin)
    front = np.clip((part.y - np.float32(62)) * np.float32(0.08), 0, 1)
    core = np.float32(patient.tissues["marrow"]) + np.float32(20) * part.fine
    shell = np.float32(patient.tissues["bone_cortex"])
    bone = np.where(distance > -2.0, shell, core)
    bone += front * (np.float32(patient.tissues["cartilage"]) - bone)
    part.hu += part.cover(distance) * (bone - part.hu)


def frame(patient: Patient, rng: np.random.Generator) -> list[Structure]:
    """Return heart, psoas and back muscles, spine and pelvis, in painting order."""
    hu = patient.tissues
    jitter = patient.strength * rng.uniform(-1, 1, size=8)
    parts = [_heart(patient, jitter)]
    muscle = flat(hu["muscle"], rough=5, fine=6)
    gullet = curve([(-8, -22, 260), (-6, -20, 150), (-14, -8, 112), (-34, -4, 92)])
    parts.append(_tube("oesophagus", gullet, along([8, 8, 9, 9], gullet), flat(hu["stomach"] - 15, fine=12)))
    for side in (-1.0, 1.0):
        crus = curve([(side * 16, -20, 104), (side * 19, -26, 60), (side * 17, -28, 20), (side * 12, -30, -25)])
        parts.append(_tube("crus", crus, along([6, 7, 6, 3], crus), flat(hu["muscle"], fine=5), rough_mm=1.0))
        parts += _adrenal(patient, side)
        psoas = curve(
            [
                (side * 26, -50, 28),
                (side * 33, -48, -30),
                (side * 44, -42, -95),
                (side * 58, -22, -165),
                (side * 66, -5, -230),
            ]
        )
        radii = along([5, 13, 20, 21, 20], psoas)
        parts.append(_tube("psoas", psoas, radii, muscle, rough_mm=1.5))
        quadratus = curve([(side * 52, -66, 12), (side * 66, -67, -60), (side * 78, -66, -135)])
        parts.append(_tube("quadratus", quadratus, along([7, 12, 14], quadratus), muscle, rough_mm=1.5))
        for x_mm, radius_mm in ((24.0, 17.0), (50.0, 15.0)):
            back = np.array([(side * x_mm, -91.0, 260.0), (side * x_mm, -91.0, -260.0)])
            parts.append(_tube("erector", back, np.array([radius_mm, radius_mm + 2]), muscle, rough_mm=2.0))
        parts.append(_iliac_wing(patient, side))
    parts += _spine(patient)
    return parts


def _adrenal(patient: Patient, side: float) -> list[Structure]:
    """Return the two limbs of an adrenal gland above and in front of the kidney."""
    shade = flat(patient.tissues["lymph_node"] + 8, fine=4)
    base = np.array([side * 34.0, -26.0, 30.0 if side > 0 else 26.0])
    limbs = (np.array([side * 9.0, -15.0, -12.0]), np.array([side * -3.0, -17.0, -10.0]))
    return [_tube("adrenal", np.stack([base, base + limb]), np.array([3.4, 2.2]), shade) for limb in limbs]


def _heart(patient: Patient, jitter: np.ndarray) -> Structure:
    centre = (-22.0 + 6 * float(jitter[0]), 34.0, 152.0 + 5 * float(jitter[1]))
    hu = patient.tissues

    def field(p: Patch) -> FloatArray:
        whole = ellipsoid(p, centre, (64, 50, 50), rotation((20, 15, 0)), boxy=0.2) + 3 * p.rough
        return np.maximum(whole, np.maximum(p.wall + 4, 1 - p.dome))

    def shade(p: Patch, distance: FloatArray) -> FloatArray:
        blood = np.where(p.rough > -0.2, np.float32(hu["heart"]), np.float32(hu["muscle"] + 35))
        return np.where(distance > -5, np.float32(hu["fat"] + 40), blood + 4 * p.fine)

    return Structure("heart", (-100, -45, 80), (60, 100, 220), field, shade)


def _tube(name: str, points: np.ndarray, radii: np.ndarray, shade: Shade, *, rough_mm: float = 0.0) -> Structure:
    low, high = extent(points, float(np.max(radii)) + 4)

    def field(p: Patch) -> FloatArray:
        distance = tube(p, points, radii)
        return distance + np.float32(rough_mm) * p.rough if rough_mm else distance

    return Structure(name, low, high, field, shade)


def _bone(patient: Patient, shell_mm: float) -> Shade:
    cortex, marrow = np.float32(patient.tissues["bone_cortex"]), np.float32(patient.tissues["marrow"])

    def shade(p: Patch, distance: FloatArray) -> FloatArray:
        core = marrow + np.float32(22) * p.fine
        rim = np.clip(distance / np.float32(shell_mm) + 1, 0, 1)
        return core + rim * (cortex - core)

    return shade


def _iliac_wing(patient: Patient, side: float) -> Structure:
    def field(p: Patch) -> FloatArray:
        bowl = np.abs(ellipsoid(p, (side * 40, -8, -190), (92, 78, 90), boxy=0.2)) - np.float32(5.5)
        lateral = np.maximum(np.float32(52) - side * p.x, p.z + np.float32(128) - 0.2 * p.y)
        return np.maximum(bowl + p.rough, np.maximum(lateral, np.abs(p.y + 20) - 62))

    low = (min(side * 50, side * 140), -90.0, -300.0)
    high = (max(side * 50, side * 140), 50.0, -110.0)
    return Structure("bone", low, high, field, _bone(patient, 3.0))


def _spine(patient: Patient) -> list[Structure]:
    bone = _bone(patient, 2.2)
    low, high = (-50.0, -125.0, -400.0), (50.0, -25.0, 400.0)

    def lordosis(p: Patch) -> FloatArray:
        return p.y - np.float32(-54) - np.float32(6) * np.cos((p.z + 60) * np.float32(1 / 75))

    def level(p: Patch) -> FloatArray:
        phase = p.z * np.float32(1 / _VERTEBRA_MM)
        return (phase - np.floor(phase) - np.float32(0.5)) * np.float32(_VERTEBRA_MM)

    def body(p: Patch) -> FloatArray:
        height = np.abs(level(p))
        y = lordosis(p)
        waist = np.float32(1.8) * (1 - (height * np.float32(2 / _VERTEBRA_MM)) ** 2)
        q = np.sqrt((p.x * np.float32(1 / 23.0)) ** 2 + (y * np.float32(1 / 17.5)) ** 2)
        return (q - 1) * np.float32(19) + waist + np.float32(0.5) * p.rough

    def vertebra(p: Patch) -> FloatArray:
        return np.maximum(body(p), np.abs(level(p)) - np.float32(12.8))

    def arch(p: Patch) -> FloatArray:
        y = lordosis(p) + np.float32(28)
        ring = np.abs(np.sqrt(p.x * p.x + y * y) - np.float32(12.5)) - np.float32(3.6)
        height = level(p)
        spinous = np.maximum(np.abs(p.x) - np.float32(3.4), np.abs(y + np.float32(24)) - np.float32(15))
        spinous = np.maximum(spinous, np.abs(height + 5) - np.float32(9))
        wing = np.sqrt((y + 1) ** 2 + (height - 3) ** 2) - np.float32(5.0)
        wing = np.maximum(wing, np.abs(p.x) - np.float32(36))
        joint = np.sqrt((np.abs(p.x) - 17) ** 2 + (y + 9) ** 2) - np.float32(7.5)
        processes = smooth_union(smooth_union(ring, spinous, 4), np.minimum(wing, joint), 4)
        return np.maximum(processes, np.maximum(np.float32(8) - np.sqrt(p.x * p.x + y * y), np.abs(height) - 14))

    def canal(p: Patch) -> FloatArray:
        y = lordosis(p) + np.float32(28)
        return np.sqrt((p.x * np.float32(0.85)) ** 2 + y * y) - np.float32(9)

    return [
        Structure("disc", low, high, body, flat(patient.tissues["disc"], fine=6)),
        Structure("canal", low, high, canal, flat(28, fine=5)),
        Structure("arch", low, high, arch, bone),
        Structure("vertebra", low, high, vertebra, bone),
    ]
