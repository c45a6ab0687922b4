"""One synthetic case in memory: which patient, how it lies, what the scanner sees."""

from __future__ import annotations

import zlib

import numpy as np

from mskd.config.phantom import PhantomDataset
from mskd.phantom.anatomy import Axes, Pose, build, paint
from mskd.phantom.noise import FloatArray
from mskd.phantom.patient import Patient
from mskd.phantom.scanner import Painter, Scan, acquire
from mskd.phantom.shapes import rotation

# The anatomies reach from the heart to the pelvis; this height lies in the middle of the organs.
_MIDDLE_MM = (0.0, -6.0, 14.0)


def case_generators(spec: PhantomDataset, index: int) -> list[np.random.Generator]:
    """Return the generators of a case's patient, structures, pose and scan; others of the dataset do not matter."""
    name = zlib.crc32(f"{spec.layout}/{spec.task if spec.layout == 'msd' else ''}".encode())
    return [
        np.random.Generator(np.random.PCG64(np.random.SeedSequence([spec.seed, name, index, part])))
        for part in range(4)
    ]


def draw_pose(spec: PhantomDataset, rng: np.random.Generator) -> Pose:
    """Draw how a patient lies in the scanner."""
    angles = np.clip(rng.standard_normal(3), -2, 2) * spec.deformation * np.array([1.5, 1.5, 2.5])
    # Scans are planned along the length by eye, across it by lasers.
    offsets = np.clip(rng.standard_normal(3), -2, 2) * spec.scanner.jitter * np.array([10.0, 10.0, 24.0])
    x, y, z = offsets - np.array(_MIDDLE_MM) * spec.scale
    turn = rotation((float(angles[0]), float(angles[1]), float(angles[2])))
    return Pose(turn, (float(x), float(y), float(z)), spec.scale)


def simulate_case(spec: PhantomDataset, index: int) -> Scan:
    """Return the scan of one case of a synthetic dataset, with the full label map.

    Args:
        spec: The dataset.
        index: Number of the case, from 0.
    """
    if spec.atlas is not None:
        from mskd.phantom.atlas import simulate_from_atlas

        return simulate_from_atlas(spec, index, case_generators(spec, index))
    painter, back_mm = case_painter(spec, index)
    return acquire(spec.scanner, painter, case_generators(spec, index)[3], back_mm=back_mm)


def case_painter(spec: PhantomDataset, index: int) -> tuple[Painter, float]:
    """Return what paints a case's anatomy on any grid (in scanner coordinates), and where the back is in mm (y)."""
    of_patient, of_structures, of_pose, _ = case_generators(spec, index)
    scanner = spec.scanner
    patient = Patient.draw(of_patient, scanner.phase, strength=spec.deformation, jitter=scanner.jitter)
    pose = draw_pose(spec, of_pose)
    structures = build(patient, of_structures, distractors=spec.distractors, pose=pose)
    edge_mm = max(scanner.spacing_mm[:2])

    def painter(axes: Axes) -> tuple[FloatArray, np.ndarray]:
        return paint(patient, structures, axes, pose, edge_mm)

    return painter, patient.back_mm * spec.scale + pose.origin_mm[1]
