"""A population of deformed copies of the user's label map, with its CT or with HU by tissue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from mskd.config.phantom import PhantomDataset
from mskd.errors import ConfigError
from mskd.phantom.atlas_file import Atlas, load_atlas
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


def simulate_from_atlas(spec: PhantomDataset, index: int, generators: Sequence[np.random.Generator]) -> Scan:
    """Return one scan of a deformed copy of the atlas.

    Args:
        spec: The dataset; `spec.atlas` is set.
        index: Number of the case, for messages.
        generators: Generators of tissues, deformation, pose and scan.

    Raises:
        ConfigError: If `spec` has no atlas, or its label map names an unknown tissue or lacks an organ.
        DataError: If the files cannot be used.
    """
    if spec.atlas is None:
        raise ConfigError(f"case {index}: this dataset has no `atlas:` section")
    of_tissue, of_shape, of_pose, of_scan = generators
    tissues = dict(draw_tissues(of_tissue, spec.scanner.phase, spec.scanner.jitter))
    tissues["soft_tissue"] = 42.0
    names = _names(spec, spec.atlas.label_map, tissues)
    atlas = load_atlas(spec.atlas.labels, spec.atlas.ct, tuple(v for v, name in names.items() if name in ORGAN_VALUES))
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


def _names(spec: PhantomDataset, label_map: Mapping[int, str], tissues: Mapping[str, float]) -> dict[int, str]:
    """Return the tissue or organ of each value of the file, checked against what there is and what is asked for."""
    known = sorted({*tissues, *ORGAN_VALUES})
    for value, name in label_map.items():
        if name not in known:
            raise ConfigError(
                f"atlas.label_map: {value}: {name!r} is no tissue; known are {', '.join(known)}\n"
                f"  write, for instance, `label_map: {{{value}: liver}}`"
            )
    named = sorted(set(label_map.values()) & set(ORGAN_VALUES))
    both = {"kidney": ("right_kidney", "left_kidney")}
    missing = [organ for organ in spec.organs if not set(both.get(organ, (organ,))) & set(named)]
    if missing or not named:
        wanted = ", ".join(missing) or "any organ"
        example = both.get(missing[0], (missing[0],))[0] if missing else "liver"
        raise ConfigError(
            f"atlas.label_map has no value for {wanted}; its organs are {', '.join(named) or '(none)'}\n"
            f"  write the value that the label map has for it, for instance `label_map: {{1: {example}}}`"
        )
    return {0: "air", **label_map}


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
        ct = ndimage.map_coordinates(atlas.ct, where, order=1, mode="constant", cval=_OUTSIDE_HU, prefilter=False)
        return ct.astype(np.float32), labels
    return mix + (1 - np.clip(total, 0, 1)) * np.float32(_OUTSIDE_HU), labels


def _boxes(labels: npt.NDArray[np.int32]) -> list[tuple[int, tuple[slice, slice, slice]]]:
    """Return every value with the box that holds it; the background too, whatever its value."""
    shifted = labels - int(labels.min()) + 1
    boxes = enumerate(ndimage.find_objects(shifted), start=int(labels.min()))
    return [(value, (box[0], box[1], box[2])) for value, box in boxes if box is not None]


def _padded(box: tuple[slice, slice, slice], shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(max(part.start - 1, 0), min(part.stop + 1, size)) for part, size in zip(box, shape, strict=True))


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
