"""Reading the user's label map and CT, from which a population of deformed copies is made."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mskd.errors import DataError
from mskd.phantom.noise import FloatArray

_HIGHEST_VALUE = 65535


@dataclass(frozen=True)
class Atlas:
    """A label map in canonical axes.

    Attributes:
        labels: (X, Y, Z) values of the file.
        ct: (X, Y, Z) float32 HU on the same grid, or None.
        spacing_mm: Voxel spacing.
        centre: Voxel in the middle of the organs, which comes to lie in the middle of the field of view.
    """

    labels: npt.NDArray[np.int32]
    ct: FloatArray | None
    spacing_mm: npt.NDArray[np.float64]
    centre: npt.NDArray[np.float64]


def load_atlas(labels: Path, ct: Path | None, organ_values: tuple[int, ...]) -> Atlas:
    """Read an atlas, or return it again if its files are as they were.

    Args:
        labels: Label map.
        ct: CT on the same grid, or None.
        organ_values: File values about which the field of view is centred.

    Raises:
        DataError: If a file is missing, unreadable or not on the label map's grid.
    """
    return _load(labels, ct, organ_values, (_stamp(labels), _stamp(ct)))


def _stamp(path: Path | None) -> tuple[int, int] | None:
    """Return what changes when a file is written anew; None for a missing file, which `_load` reports."""
    try:
        found = None if path is None else path.stat()
    except OSError:
        return None
    return None if found is None else (found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=2)
def _load(labels: Path, ct: Path | None, organ_values: tuple[int, ...], stamps: tuple[object, ...]) -> Atlas:
    """Read an atlas; `stamps` only tell the cache of changed files."""
    values, affine = _read(labels)
    label_map = np.rint(values).astype(np.int32)
    if not np.array_equal(label_map, values) or label_map.min() < 0 or label_map.max() > _HIGHEST_VALUE:
        raise _error(
            labels,
            f"whole numbers from 0 to {_HIGHEST_VALUE}",
            f"values from {values.min():g} to {values.max():g}",
            "give the label map, not the CT or a probability map, as atlas.labels",
        )
    hu = None if ct is None else _read_ct(ct, labels, values.shape, affine)
    inside = np.isin(label_map, organ_values)
    absent = sorted(set(organ_values) - set(np.unique(label_map[inside]).tolist()))
    if absent:
        raise _error(
            labels,
            f"voxels with each of the values {sorted(organ_values)} that atlas.label_map calls organs",
            f"none with {absent}; values {np.unique(label_map)[:20].tolist()}",
            "correct atlas.label_map, or leave out what the file does not have",
        )
    corners = [np.flatnonzero(inside.any(axis=others))[[0, -1]] for others in ((1, 2), (0, 2), (0, 1))]
    centre = np.array([pair.mean() for pair in corners])
    return Atlas(label_map, hu, np.sqrt((affine[:3, :3] ** 2).sum(axis=0)), centre)


def _read_ct(path: Path, labels: Path, shape: tuple[int, ...], affine: npt.NDArray[np.float64]) -> FloatArray:
    """Return the CT, checked to lie on the grid of the label map."""
    image, ct_affine = _read(path)
    if image.shape != shape or not np.allclose(affine, ct_affine, atol=1e-2):
        found = f"{image.shape}" if image.shape != shape else f"the affine {np.round(ct_affine, 2).tolist()}"
        raise _error(
            path,
            f"the grid of {labels.name}, {shape}, affine {np.round(affine, 2).tolist()}",
            found,
            "resample the CT onto the grid of its label map",
        )
    return image


def _read(path: Path) -> tuple[FloatArray, npt.NDArray[np.float64]]:
    """Return a volume as (X, Y, Z) float32 in canonical axes, and its affine."""
    import nibabel as nib

    try:
        image = nib.as_closest_canonical(nib.load(path))
        array = np.asarray(image.dataobj, dtype=np.float32)
    except (OSError, EOFError, ValueError, zlib.error, nib.filebasedimages.ImageFileError) as error:
        raise _error(
            path,
            "a NIfTI file that can be read",
            str(error) or type(error).__name__,
            "correct the path in `atlas`, or restore the file",
        ) from error
    if array.ndim != 3 or not array.size:
        raise _error(path, "three axes", f"shape {array.shape}", "give a single volume")
    if not np.isfinite(array).all():
        raise _error(path, "finite values", "NaN or infinite values", "replace them, in a CT by -1024")
    return array, np.asarray(image.affine)


def _error(path: Path, expected: str, found: str, fix: str) -> DataError:
    return DataError(case="atlas", file=path, expected=expected, found=found, fix=fix)
