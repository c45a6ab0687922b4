"""The piece of a grid on which anatomy is evaluated and painted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mskd.phantom.noise import FloatArray

Point = tuple[float, float, float]
LabelArray = npt.NDArray[np.uint8]


@dataclass
class Patch:
    """Patient coordinates, noise and canvas of a box of voxels; crops are views.

    Attributes:
        x, y, z: (X, Y, Z) float32 patient coordinates in mm (right, anterior, superior), already deformed.
        rough, fine: Smooth noise of unit variance, bumps of about 25 mm and 8 mm.
        wall: Distance in mm to the wall of the body cavity, negative inside the cavity.
        dome: Distance in mm above the diaphragm, negative below it.
        hu: Canvas of Hounsfield units.
        labels: Canvas of label values.
        edge_mm: Width over which a border blends, the partial volume of a voxel.
        ranges: Per axis (lowest, highest) coordinate of every index, from which `crop` finds a box.
    """

    x: FloatArray
    y: FloatArray
    z: FloatArray
    rough: FloatArray
    fine: FloatArray
    wall: FloatArray
    dome: FloatArray
    hu: FloatArray
    labels: LabelArray
    edge_mm: float
    ranges: tuple[tuple[FloatArray, FloatArray], ...]

    def find(self, low: Point, high: Point) -> tuple[slice, slice, slice] | None:
        """Return the slices that hold every voxel with coordinates in the box (mm), None where it is empty."""
        slices: list[slice] = []
        for (lowest, highest), start, stop in zip(self.ranges, low, high, strict=True):
            inside = (highest >= start) & (lowest <= stop)
            first = int(inside.argmax())
            if not inside[first]:
                return None
            slices.append(slice(first, len(inside) - int(inside[::-1].argmax())))
        return slices[0], slices[1], slices[2]

    def crop(self, box: tuple[slice, slice, slice]) -> Patch:
        """Return the view of a box of voxels."""
        arrays = (self.x, self.y, self.z, self.rough, self.fine, self.wall, self.dome, self.hu)
        x, y, z, rough, fine, wall, dome, hu = (array[box] for array in arrays)
        ranges = tuple((low[part], high[part]) for (low, high), part in zip(self.ranges, box, strict=True))
        return Patch(x, y, z, rough, fine, wall, dome, hu, self.labels[box], self.edge_mm, ranges)

    def cover(self, distance_mm: FloatArray) -> FloatArray:
        """Return how much of each voxel lies inside (0–1), from the signed distance (negative inside)."""
        share: FloatArray = np.clip(np.float32(0.5) - distance_mm * np.float32(1 / self.edge_mm), 0, 1)
        return share


Field = Callable[[Patch], FloatArray]
"""A signed distance in mm, negative inside."""
Shade = Callable[[Patch, FloatArray], FloatArray]
"""Hounsfield units of a patch, given it and the signed distance."""


@dataclass
class Structure:
    """Something to paint: later structures cover earlier ones.

    Attributes:
        name: Tissue or organ.
        low, high: Box in patient coordinates (mm) outside of which the structure does not reach.
        field: Signed distance.
        shade: Hounsfield units.
        label: Label value, None where the labels below stay (vessels and lesions inside an organ).
        target_ml: Volume to reach by growing or shrinking, after later structures have taken their part.
        grow_mm: How far the border was moved to reach it.
        keep: Label values that this structure does not cover (their Hounsfield units neither).
        limit: Signed distance of what bounds the structure however much it grows, such as the diaphragm.
    """

    name: str
    low: Point
    high: Point
    field: Field
    shade: Shade
    label: int | None = 0
    target_ml: float | None = None
    grow_mm: float = 0.0
    keep: tuple[int, ...] = ()
    limit: Field | None = None

    def distance(self, patch: Patch) -> FloatArray:
        """Return the signed distance on a patch, growth and limit included."""
        distance = self.field(patch)
        if self.grow_mm:
            distance = distance - np.float32(self.grow_mm)
        return distance if self.limit is None else np.maximum(distance, self.limit(patch))

    def box(self, patch: Patch) -> tuple[slice, slice, slice] | None:
        """Return where on the patch the structure can be, with a margin for growth and borders."""
        margin = max(self.grow_mm, 0.0) + patch.edge_mm
        low, high = self.low, self.high
        return patch.find(
            (low[0] - margin, low[1] - margin, low[2] - margin),
            (high[0] + margin, high[1] + margin, high[2] + margin),
        )

    def paint(self, patch: Patch) -> None:
        """Blend the structure into the canvas and set its label."""
        box = self.box(patch)
        if box is None:
            return
        part = patch.crop(box)
        distance = self.distance(part)
        cover = part.cover(distance)
        if self.keep:
            cover[np.isin(part.labels, self.keep)] = 0
        part.hu += cover * (self.shade(part, distance) - part.hu)
        if self.label is not None:
            part.labels[cover > 0.5] = self.label


def flat(hu: float, *, rough: float = 0.0, fine: float = 0.0) -> Shade:
    """Return the shade of a tissue: a mean HU with texture of the given standard deviations (HU)."""

    def shade(patch: Patch, distance: FloatArray) -> FloatArray:
        values = np.full_like(distance, hu)
        if rough:
            values += np.float32(rough) * patch.rough
        if fine:
            values += np.float32(fine) * patch.fine
        return values

    return shade
