"""Anatomies made in code: the list of a patient's structures, fitted to human volumes, on any grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mskd.phantom.body import frame, paint_body
from mskd.phantom.bowel import colon, duodenum, small_bowel
from mskd.phantom.distractors import lesions, lookalikes
from mskd.phantom.noise import FloatArray
from mskd.phantom.organs import (
    Draws,
    gallbladder,
    kidney,
    liver,
    pancreas,
    pancreas_course,
    perirenal_fat,
    spleen,
    stomach,
)
from mskd.phantom.patch import Patch, Structure
from mskd.phantom.patient import Patient
from mskd.phantom.vessels import great_vessels, liver_vessels, portal_system

Axes = tuple[FloatArray, FloatArray, FloatArray]

_FIT_SPACING_MM = 5.0
_FIT_HALF_MM = (160.0, 120.0, 150.0)
_GROWTH_LIMIT_MM = 16.0


@dataclass(frozen=True)
class Pose:
    """How a patient lies: rotation matrix, position of the patient's origin in mm, and size."""

    turn: np.ndarray
    origin_mm: tuple[float, float, float]
    scale: float


def build(
    patient: Patient, rng: np.random.Generator, *, distractors: bool, pose: Pose | None = None
) -> list[Structure]:
    """Return a patient's structures in painting order, organs fitted to their volumes.

    Args:
        patient: Size and random fields.
        rng: Random generator of the structures.
        distractors: Whether to add look-alikes and lesions.
        pose: How the patient will lie, for which the volumes are fitted.
    """
    draws = Draws(rng, patient.strength)
    course = pancreas_course(draws)
    right, right_sinus = kidney(patient, draws, 1.0)
    left, left_sinus = kidney(patient, draws, -1.0)
    lien = spleen(patient, draws)
    head = course[0][4]
    organs = [
        stomach(patient, draws, lien),
        liver(patient, draws),
        pancreas(patient, draws, course),
        lien,
        right,
        left,
        right_sinus,
        left_sinus,
        gallbladder(patient, draws),
    ]
    bowel = [*colon(patient, draws), *small_bowel(patient, draws)]
    extras = lookalikes(patient, draws, course[0]) if distractors else []
    inner = lesions(patient, draws) if distractors else []
    structures = [
        *bowel,
        *extras,
        *duodenum(patient, draws, (float(head[0]), float(head[1]), float(head[2]))),
        perirenal_fat(patient, right),
        perirenal_fat(patient, left),
        *portal_system(patient, draws, course[0]),
        *organs,
        *liver_vessels(patient, draws),
        *inner,
        *frame(patient, rng),
        *great_vessels(patient, draws),
    ]
    fit_volumes(patient, structures, np.eye(3) if pose is None else pose.turn)
    return structures


def make_patch(patient: Patient, axes: Axes, pose: Pose, edge_mm: float) -> Patch:
    """Return an unpainted patch on the grid spanned by scanner coordinates (mm) along the three axes."""
    centred: Axes = tuple(  # type: ignore[assignment]
        ((axis - np.float32(origin)) / np.float32(pose.scale)).astype(np.float32)
        for axis, origin in zip(axes, pose.origin_mm, strict=True)
    )
    moved = [centred[0][:, None, None], centred[1][None, :, None], centred[2][None, None, :]]
    shift: FloatArray | None = None
    for lattice, amplitude_mm in patient.warp:
        if amplitude_mm:
            # Cut at three deviations: the deformation must not fold.
            part = np.clip(lattice.sample(centred), -3, 3) * np.float32(amplitude_mm)
            shift = part if shift is None else shift + part
    turn = pose.turn.astype(np.float32)
    shape = (len(axes[0]), len(axes[1]), len(axes[2]))
    xyz = []
    for row, turned in enumerate(turn):
        value = np.broadcast_to(turned[0] * moved[0] + turned[1] * moved[1] + turned[2] * moved[2], shape)
        xyz.append(value + shift[row] if shift is not None else np.array(value))
    x, y, z = xyz
    ranges = tuple(
        (value.min(axis=others), value.max(axis=others))
        for value, others in zip((x, y, z), ((1, 2), (0, 2), (0, 1)), strict=True)
    )
    rough, fine = (np.clip(noise.sample(centred)[0], -3, 3) for noise in (patient.rough, patient.fine))
    return Patch(
        x=x,
        y=y,
        z=z,
        rough=rough,
        fine=fine,
        wall=patient.wall(x, y, z),
        dome=patient.dome(x, y, z),
        hu=np.full(shape, np.float32(-1000)),
        labels=np.zeros(shape, np.uint8),
        edge_mm=edge_mm / pose.scale,
        ranges=ranges,
    )


def fit_volumes(patient: Patient, structures: list[Structure], turn: np.ndarray) -> None:
    """Grow or shrink every organ that has a target until the part left to it has that volume; in place.

    Works from the last painted structure back, so that what covers an organ is known when its turn comes.
    """
    axes: Axes = tuple(  # type: ignore[assignment]
        np.arange(-half, half + 1, _FIT_SPACING_MM, dtype=np.float32) for half in _FIT_HALF_MM
    )
    patch = make_patch(patient, axes, Pose(turn, (0.0, 0.0, 0.0), 1.0), _FIT_SPACING_MM)
    free = np.ones(patch.x.shape, np.float32)
    voxel_ml = _FIT_SPACING_MM**3 / 1000
    targets = [number for number, part in enumerate(structures) if part.target_ml is not None]
    for structure in reversed(structures[targets[0] :]):
        box = patch.find(
            tuple(value - _GROWTH_LIMIT_MM for value in structure.low),  # type: ignore[arg-type]
            tuple(value + _GROWTH_LIMIT_MM for value in structure.high),  # type: ignore[arg-type]
        )
        if structure.label is None or box is None:
            continue
        part = patch.crop(box)
        if structure.target_ml is not None:
            structure.grow_mm = _growth(part, structure, free[box], structure.target_ml / voxel_ml)
        free[box] *= 1 - part.cover(structure.distance(part))


def _growth(patch: Patch, structure: Structure, free: FloatArray, target_voxels: float) -> float:
    """Return by how much to grow (mm) for the free part of the structure to hold so many voxels."""
    distance = structure.field(patch)
    near = distance < _GROWTH_LIMIT_MM + patch.edge_mm
    distance, free = distance[near], free[near]
    limit = None if structure.limit is None else structure.limit(patch)[near]
    low, high = -_GROWTH_LIMIT_MM, _GROWTH_LIMIT_MM
    for _ in range(12):
        middle = (low + high) / 2
        grown = distance - np.float32(middle)
        cover = patch.cover(grown if limit is None else np.maximum(grown, limit))
        if float(np.sum(cover * free, dtype=np.float64)) < target_voxels:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def paint(
    patient: Patient, structures: list[Structure], axes: Axes, pose: Pose, edge_mm: float
) -> tuple[FloatArray, np.ndarray]:
    """Return HU (X, Y, Z) float32 and labels (X, Y, Z) uint8 on the grid spanned by the axes (scanner mm)."""
    patch = make_patch(patient, axes, pose, edge_mm)
    paint_body(patch, patient)
    for structure in structures:
        structure.paint(patch)
    return patch.hu, patch.labels
