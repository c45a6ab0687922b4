"""The grids of a case: raw file, canonical axes, study grid, and the way between them.

Everything in memory is (X, Y, Z) in canonical RAS axes. Only spacing and orientation change between raw and study
grid, so every step is separable by axis; oblique affines keep their rotation.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

Affine = npt.NDArray[np.float64]
Shape = tuple[int, int, int]
MAX_VOXELS = 2**31  # a header that claims more is refused before memory is allocated


@dataclass(frozen=True)
class Geometry:
    """How a study grid lies in its raw file.

    Attributes:
        raw_shape: Shape of the raw array, in the file's own axes.
        raw_affine: Affine of the raw array (voxel index → world mm, RAS+), 4 × 4, row by row.
        orientation: For each raw axis its canonical axis and its direction (1 or -1), as nibabel's `io_orientation`.
        raw_spacing_mm: Spacing of the canonical (reoriented, not resampled) axes.
        spacing_mm: Spacing of the study grid.
        full_shape: Shape of the study grid before the crop.
        crop_start: First voxel of the crop in the study grid.
        shape: Shape of the crop: that of the prepared arrays.
    """

    raw_shape: Shape
    raw_affine: tuple[tuple[float, ...], ...]
    orientation: tuple[tuple[int, int], ...]
    raw_spacing_mm: tuple[float, float, float]
    spacing_mm: tuple[float, float, float]
    full_shape: Shape
    crop_start: Shape
    shape: Shape

    @classmethod
    def of_raw(cls, raw_shape: Shape, raw_affine: Affine, spacing_mm: tuple[float, float, float]) -> Geometry:
        """Return the uncropped geometry of a raw array; the study grid has the same centre and field of view."""
        orientation = nib.io_orientation(raw_affine)
        permutation = np.argsort(orientation[:, 0])
        lengths = np.linalg.norm(raw_affine[:3, :3], axis=0)[permutation]
        canonical_shape = np.asarray(raw_shape)[permutation]
        full = tuple(
            max(1, round(n * raw / study)) for n, raw, study in zip(canonical_shape, lengths, spacing_mm, strict=True)
        )
        return cls(
            raw_shape=raw_shape,
            raw_affine=tuple(tuple(float(v) for v in row) for row in raw_affine),
            orientation=tuple((int(axis), int(direction)) for axis, direction in orientation),
            raw_spacing_mm=(float(lengths[0]), float(lengths[1]), float(lengths[2])),
            spacing_mm=spacing_mm,
            full_shape=(full[0], full[1], full[2]),
            crop_start=(0, 0, 0),
            shape=(full[0], full[1], full[2]),
        )

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Geometry:
        """Rebuild from `to_json`."""
        return cls(**{name: _tuples(value) for name, value in data.items()})

    def to_json(self) -> dict[str, Any]:
        """Return plain data for attributes."""
        return asdict(self)

    def cropped(self, start: Shape, shape: Shape) -> Geometry:
        """Return the geometry of a box inside the uncropped study grid."""
        return Geometry(**{**asdict(self), "crop_start": start, "shape": shape})

    @property
    def canonical_shape(self) -> Shape:
        """Shape of the raw array after reorientation."""
        shape = [0, 0, 0]
        for raw_axis, (axis, _) in enumerate(self.orientation):
            shape[axis] = self.raw_shape[raw_axis]
        return shape[0], shape[1], shape[2]

    @property
    def canonical_affine(self) -> Affine:
        """Affine of the reoriented raw array."""
        flip = nib.orientations.inv_ornt_aff(np.asarray(self.orientation, float), self.raw_shape)
        return np.asarray(np.asarray(self.raw_affine) @ flip, np.float64)

    @property
    def affine(self) -> Affine:
        """Affine of the prepared (study grid, cropped) array: voxel index → world mm."""
        scale = np.asarray(self.spacing_mm) / np.asarray(self.raw_spacing_mm)
        first = [self.study_positions_in_raw(axis)[0] for axis in range(3)]
        step = np.eye(4)
        step[:3, :3] = np.diag(scale)
        step[:3, 3] = first
        return np.asarray(self.canonical_affine @ step, np.float64)

    def _offset_mm(self, axis: int) -> float:
        raw_extent = self.canonical_shape[axis] * self.raw_spacing_mm[axis]
        return (raw_extent - self.full_shape[axis] * self.spacing_mm[axis]) / 2

    def study_positions_in_raw(self, axis: int) -> npt.NDArray[np.float64]:
        """Return, for each prepared voxel along an axis, its (fractional) index in the canonical raw array."""
        index = np.arange(self.shape[axis]) + self.crop_start[axis]
        mm = self._offset_mm(axis) + (index + 0.5) * self.spacing_mm[axis]
        return np.asarray(mm / self.raw_spacing_mm[axis] - 0.5, np.float64)

    def raw_positions_in_study(self, axis: int) -> npt.NDArray[np.float64]:
        """Return, for each canonical raw voxel along an axis, its (fractional) index in the prepared array."""
        mm = (np.arange(self.canonical_shape[axis]) + 0.5) * self.raw_spacing_mm[axis] - self._offset_mm(axis)
        return np.asarray(mm / self.spacing_mm[axis] - 0.5 - self.crop_start[axis], np.float64)

    def to_canonical(self, raw: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return a view of a raw array in canonical axes."""
        return np.asarray(nib.apply_orientation(raw, np.asarray(self.orientation, float)))

    def to_raw_axes(self, canonical: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return a view of a canonical array in the axes of the raw file."""
        back = nib.orientations.ornt_transform(_IDENTITY, np.asarray(self.orientation, float))
        return np.asarray(nib.apply_orientation(canonical, back))


def reorient(array: npt.NDArray[Any], affine: Affine, like: Affine) -> tuple[npt.NDArray[Any], Affine]:
    """Turn an array to the order and the directions of another grid's axes; no voxel is interpolated.

    Args:
        array: (X, Y, Z).
        affine: Its affine.
        like: Affine of the other grid; its origin does not matter.

    Returns:
        A view of the array, and its affine: every voxel stays where it is in the world.
    """
    # Relative to the other grid, so that oblique grids turn like straight ones.
    turn = nib.io_orientation(np.linalg.inv(like) @ affine)
    back = nib.orientations.inv_ornt_aff(turn, array.shape)
    return np.asarray(nib.apply_orientation(array, turn)), np.asarray(affine @ back, np.float64)


_IDENTITY = np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, (list, tuple)) else value
