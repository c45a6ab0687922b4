"""What is in a label file, measured in one pass, and findings from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from mskd.checks.headers import Problem
from mskd.geometry import Affine
from mskd.organs import plausible_ml
from mskd.scans import whole_numbers

MAX_VALUES = 256  # a label map of more values is an image
EDGE_MM2 = 200.0  # an organ that shows so much of itself on a face of the scan is cut there


@dataclass
class Tally:
    """Voxels with one value, or of one organ.

    Attributes:
        voxels: Their number.
        index_sum: Sum of their voxel indices.
        faces: Voxels on the two faces of each axis, (3, 2).
    """

    voxels: int = 0
    index_sum: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))
    faces: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros((3, 2), np.int64))

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.voxels + other.voxels, self.index_sum + other.index_sum, self.faces + other.faces)

    def centre_mm(self, affine: Affine) -> npt.NDArray[np.float64]:
        """Return the centroid in world coordinates (RAS, mm)."""
        return np.asarray(nib.affines.apply_affine(affine, self.index_sum / self.voxels), np.float64)

    def volume_ml(self, affine: Affine) -> float:
        """Return the volume."""
        return self.voxels * abs(float(np.linalg.det(affine[:3, :3]))) / 1000

    def edge_mm2(self, affine: Affine) -> float:
        """Return the greatest area on one face of the scan."""
        spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
        areas = np.prod(spacing_mm) / spacing_mm
        return float((self.faces.max(axis=1) * areas).max())


def tally(array: npt.NDArray[Any], path: Path, case: str) -> dict[int, Tally]:
    """Return what each value other than 0 covers; reads the array slice by slice and copies none of it.

    Args:
        array: Label values, (X, Y, Z).
        path: Their file, for messages.
        case: Case id, for messages.

    Returns:
        By value, in order; of a file with more than `MAX_VALUES` values only so many and one more.

    Raises:
        DataError: If a value is fractional, NaN or infinite.
    """
    axis, *others = np.argsort(-np.abs(array.strides)).tolist()  # planes across the first lie together in memory
    slices = array.transpose(axis, *others)
    found: dict[int, Tally] = {}
    for index, plane in enumerate(slices):
        plane = whole_numbers(plane, path, case)
        if not plane.any():
            continue
        places = np.flatnonzero(plane != 0)
        rows, columns = np.divmod(places, plane.shape[1])
        values, which = _values_of(plane.ravel()[places])
        counts = np.bincount(which)
        sums = np.bincount(which, rows), np.bincount(which, columns)
        edges = [(rows == 0, rows == plane.shape[0] - 1), (columns == 0, columns == plane.shape[1] - 1)]
        touching = [[np.bincount(which[mask], minlength=len(values)) for mask in pair] for pair in edges]
        for position, value in enumerate(values):
            entry = found.setdefault(int(value), Tally())
            entry.voxels += int(counts[position])
            entry.index_sum[axis] += index * counts[position]
            for k, other in enumerate(others):
                entry.index_sum[other] += sums[k][position]
                entry.faces[other] += [touching[k][0][position], touching[k][1][position]]
            if index in (0, len(slices) - 1):
                entry.faces[axis, int(index > 0)] += counts[position]
        if len(found) > MAX_VALUES:
            break
    return dict(sorted(found.items()))


def _values_of(array: npt.NDArray[Any]) -> tuple[Sequence[int] | npt.NDArray[Any], npt.NDArray[np.int64]]:
    """Return the values and the position of each voxel's value among them; quick for the usual small numbers."""
    low, high = int(array.min()), int(array.max())
    if low == high:
        return [low], np.zeros(len(array), np.int64)
    if low >= 0 and high < 2**16:
        values = np.flatnonzero(np.bincount(array))
        position = np.zeros(high + 1, np.int64)
        position[values] = np.arange(len(values))
        return values, position[array]
    values, which = np.unique(array, return_inverse=True)
    return values, which


def organ_tallies(values: Mapping[int, Tally], label_map: Mapping[int, str]) -> dict[str, Tally]:
    """Return what each organ covers: several values may mean one."""
    found: dict[str, Tally] = {}
    for value, entry in values.items():
        if value in label_map:
            found[label_map[value]] = found.get(label_map[value], Tally()) + entry
    return found


def organ_problems(organs: Mapping[str, Tally], labelled: Sequence[str], affine: Affine) -> Iterator[Problem]:
    """Yield what is odd about the organs of one case.

    Args:
        organs: What each organ covers.
        labelled: Organs that the dataset annotates in every case.
        affine: Affine of the label.
    """
    absent = [organ for organ in labelled if organ not in organs]
    if labelled and len(absent) == len(labelled):
        fix = "check that the label belongs to the image, or accept it where the organ is truly missing"
        yield Problem("label.empty", f"voxels of {', '.join(labelled)}", "none", fix)
    elif absent:
        fix = "complete the annotation; an organ that was removed may be accepted"
        yield Problem("organ.absent", f"voxels of {', '.join(absent)}", "none", fix)
    for organ, entry in organs.items():
        bounds = plausible_ml(organ)
        if bounds is None:
            continue
        volume_ml, edge_mm2 = entry.volume_ml(affine), entry.edge_mm2(affine)
        if edge_mm2 > EDGE_MM2:
            fix = "accept it, or leave the case out of the split: the part outside counts for nobody"
            found = f"{edge_mm2 / 100:.3g} cm² of it on the edge"
            yield Problem("organ.truncated", f"the whole {organ} inside the scan", found, fix)
        if volume_ml > bounds[1] or (volume_ml < bounds[0] and edge_mm2 <= EDGE_MM2):
            expected = f"{bounds[0]:g} to {bounds[1]:g} mL of {organ}"
            fix = "check the label, label_map and the voxel size in the header"
            yield Problem("organ.volume", expected, f"{volume_ml:.3g} mL", fix)
