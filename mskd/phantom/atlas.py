"""A population of deformed copies of the user's label map, with its CT or with HU by tissue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from mskd.config.phantom import PhantomAtlas, PhantomDataset
from mskd.errors import ConfigError, DataError
from mskd.phantom.noise import FloatArray, Lattice
from mskd.phantom.scanner import Axes, Scan, acquire
from mskd.phantom.shapes import rotation
from mskd.phantom.tissue import ORGAN_VALUES, draw_tissues

_HALF_EXTENT_MM = (320.0, 320.0, 420.0)
_OUTSIDE_HU = -1000.0
# What organs without a tissue of their own are made of.
_TISSUE_OF_ORGAN = {"right_kidney": "kidney_cortex", "left_kidney": "kidney_cortex"}
_TEXTURE_HU = {
    "fat": 5.0,
    "bone": 45.0,
    "lung": 25.0,
    "soft_tissue": 14.0,
    "small_intestine": 22.0,
    "muscle": 8.0,
}


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


@lru_cache(maxsize=2)
def load_atlas(labels: Path, ct: Path | None, organ_values: tuple[int, ...]) -> Atlas:
    """Read an atlas.

    Args:
        labels: Label map.
        ct: CT on the same grid, or None.
        organ_values: File values about which the field of view is centred.

    Raises:
        DataError: If a file is missing, unreadable or not on the label map's grid.
    """
    values, affine = _read(labels)
    hu = None
    if ct is not None:
        image, ct_affine = _read(ct)
        if image.shape != values.shape or not np.allclose(affine, ct_affine, atol=1e-2):
            raise DataError(
                case="atlas",
                file=ct,
                expected=f"the grid of {labels.name}, {values.shape}",
                found=f"{image.shape}, or another affine",
                fix="resample the CT onto the grid of its label map",
            )
        hu = image.astype(np.float32)
    label_map = np.rint(values).astype(np.int32)
    inside = np.isin(label_map, organ_values) if organ_values else label_map > 0
    if not inside.any():
        raise DataError(
            case="atlas",
            file=labels,
            expected=f"voxels with one of the values {list(organ_values)}",
            found=f"values {np.unique(label_map)[:20].tolist()}",
            fix="correct atlas.label_map",
        )
    corners = [np.flatnonzero(inside.any(axis=others))[[0, -1]] for others in ((1, 2), (0, 2), (0, 1))]
    centre = np.array([pair.mean() for pair in corners])
    return Atlas(label_map, hu, np.sqrt((affine[:3, :3] ** 2).sum(axis=0)), centre)


def _read(path: Path) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    import nibabel as nib

    try:
        image = nib.as_closest_canonical(nib.load(path))
        array = np.asarray(image.dataobj, dtype=np.float32)
    except (OSError, nib.filebasedimages.ImageFileError) as error:
        raise DataError(
            case="atlas",
            file=path,
            expected="a NIfTI file",
            found=str(error),
            fix="correct the path in `atlas`",
        ) from error
    if array.ndim != 3:
        raise DataError(
            case="atlas",
            file=path,
            expected="three axes",
            found=f"shape {array.shape}",
            fix="give a single volume",
        )
    return array, np.asarray(image.affine)


def simulate_from_atlas(spec: PhantomDataset, index: int, generators: Sequence[np.random.Generator]) -> Scan:
    """Return one scan of a deformed copy of the atlas.

    Args:
        spec: The dataset; `spec.atlas` is set.
        index: Number of the case, for messages.
        generators: Generators of tissues, deformation, pose and scan.

    Raises:
        ConfigError: If `spec` has no atlas, or its label map names an unknown tissue.
        DataError: If the files cannot be used.
    """
    if spec.atlas is None:
        raise ConfigError(f"case {index}: this dataset has no `atlas:` section")
    of_tissue, of_shape, of_pose, of_scan = generators
    tissues = dict(draw_tissues(of_tissue, spec.scanner.phase, spec.scanner.jitter))
    tissues["soft_tissue"] = 42.0
    names = _names(spec.atlas, tissues)
    atlas = load_atlas(
        spec.atlas.labels, spec.atlas.ct, tuple(v for v, name in names.items() if name in ORGAN_VALUES)
    )
    strength = spec.deformation
    matrix = _affine_change(of_pose, strength) / spec.scale
    offset_mm = np.clip(of_pose.standard_normal(3), -2, 2) * spec.scanner.jitter * 8
    warp = [
        (Lattice.draw(of_shape, _HALF_EXTENT_MM, 80.0, 3), 6.0 * strength),
        (Lattice.draw(of_shape, _HALF_EXTENT_MM, 35.0, 3), 2.0 * strength),
    ]
    texture = Lattice.draw(of_shape, _HALF_EXTENT_MM, 8.0, 1)

    def painter(axes: Axes) -> tuple[FloatArray, npt.NDArray[np.uint8]]:
        where = _atlas_positions(atlas, axes, matrix, offset_mm, warp)
        grain = texture.sample(axes)[0] if atlas.ct is None else None
        return _sample(atlas, names, tissues, where, grain)

    return acquire(spec.scanner, painter, of_scan, back_mm=None)


def _names(atlas: PhantomAtlas, tissues: Mapping[str, float]) -> dict[int, str]:
    known = sorted({*tissues, *ORGAN_VALUES})
    for value, name in atlas.label_map.items():
        if name not in known:
            raise ConfigError(
                f"atlas.label_map: {value}: {name!r} is no tissue; known are {', '.join(known)}\n"
                f"  write, for instance, `label_map: {{{value}: liver}}`"
            )
    return {0: "air", **atlas.label_map}


def _affine_change(rng: np.random.Generator, strength: float) -> npt.NDArray[np.float64]:
    angles = np.clip(rng.standard_normal(3), -2, 2) * strength * np.array([2.0, 2.0, 3.0])
    sizes = 1 + np.clip(rng.standard_normal(3), -2, 2) * strength * 0.05
    shear = np.eye(3)
    shear[0, 1], shear[1, 2], shear[0, 2] = np.clip(rng.standard_normal(3), -2, 2) * strength * 0.03
    turn = rotation((float(angles[0]), float(angles[1]), float(angles[2])))
    return np.asarray(turn @ np.diag(1 / sizes) @ shear)


def _atlas_positions(
    atlas: Atlas,
    axes: Axes,
    matrix: npt.NDArray[np.float64],
    offset_mm: npt.NDArray[np.float64],
    warp: Sequence[tuple[Lattice, float]],
) -> FloatArray:
    """Return the (3, X, Y, Z) voxel positions in the atlas of every voxel of a scanner grid (mm)."""
    grid = [axis - np.float32(offset) for axis, offset in zip(axes, offset_mm, strict=True)]
    x, y, z = grid[0][:, None, None], grid[1][None, :, None], grid[2][None, None, :]
    position = np.stack([np.float32(a) * x + np.float32(b) * y + np.float32(c) * z for a, b, c in matrix])
    for lattice, amplitude_mm in warp:
        if amplitude_mm:
            position += np.clip(lattice.sample(axes), -3, 3) * np.float32(amplitude_mm)
    for axis in range(3):
        position[axis] *= np.float32(1 / atlas.spacing_mm[axis])
        position[axis] += np.float32(atlas.centre[axis])
    return position


def _sample(
    atlas: Atlas,
    names: Mapping[int, str],
    tissues: Mapping[str, float],
    where: FloatArray,
    grain: FloatArray | None,
) -> tuple[FloatArray, npt.NDArray[np.uint8]]:
    """Return HU and labels at atlas positions.

    Each value's share is interpolated, the greatest gives the label; with a CT its values are interpolated, else the
    HU of the tissues are mixed by their shares.
    """
    shape = where.shape[1:]
    labels = np.zeros(shape, np.uint8)
    best = np.full(shape, np.float32(0))
    mix = np.zeros(shape, np.float32)
    total = np.zeros(shape, np.float32)
    for value, extent in _boxes(atlas.labels):
        name = names.get(value, "soft_tissue")
        organ = ORGAN_VALUES.get(name, 0)
        if atlas.ct is not None and not organ and value not in names:
            continue
        found = _near(where, extent)
        if found is None:
            continue
        share = ndimage.map_coordinates(
            (atlas.labels == value).astype(np.float32)[_padded(extent, atlas.labels.shape)],
            [where[axis][found] - max(extent[axis].start - 1, 0) for axis in range(3)],
            order=1,
            mode="constant",
            prefilter=False,
        )
        wins = share > best[found]
        labels[found][wins] = organ
        best[found][wins] = share[wins]
        if atlas.ct is None:
            hu = np.full(share.shape, np.float32(tissues[_TISSUE_OF_ORGAN.get(name, name)]))
            if grain is not None and name != "air":
                hu += np.float32(_TEXTURE_HU.get(name, 3.0)) * grain[found]
            mix[found] += share * hu
            total[found] += share
    if atlas.ct is not None:
        # Where no mapped value has the greater part, the voxel belongs to none.
        labels[best <= 0.5] = 0
        ct = ndimage.map_coordinates(
            atlas.ct, where, order=1, mode="constant", cval=_OUTSIDE_HU, prefilter=False
        )
        return ct.astype(np.float32), labels
    return mix + (1 - np.clip(total, 0, 1)) * np.float32(_OUTSIDE_HU), labels


def _boxes(labels: npt.NDArray[np.int32]) -> list[tuple[int, tuple[slice, slice, slice]]]:
    """Return every value with the box that holds it; the background too, whatever its value."""
    shifted = labels - int(labels.min()) + 1
    boxes = ndimage.find_objects(shifted)
    return [(n + int(labels.min()), box) for n, box in enumerate(boxes) if box is not None]


def _padded(box: tuple[slice, slice, slice], shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(
        slice(max(part.start - 1, 0), min(part.stop + 1, size)) for part, size in zip(box, shape, strict=True)
    )


def _near(where: FloatArray, box: tuple[slice, slice, slice]) -> tuple[slice, slice, slice] | None:
    """Return the slices of the grid whose atlas positions can lie in a box of the atlas."""
    slices = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        position = where[axis]
        low, high = position.min(axis=others), position.max(axis=others)
        inside = np.flatnonzero((high >= box[axis].start - 1) & (low <= box[axis].stop))
        if len(inside) == 0:
            return None
        slices.append(slice(int(inside[0]), int(inside[-1]) + 1))
    return slices[0], slices[1], slices[2]
