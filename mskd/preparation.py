"""From a raw scan to prepared arrays: reorient, resample, clip, crop to the body."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from mskd.config.model import Preprocessing
from mskd.geometry import Affine, Geometry
from mskd.prepared import PreparedArrays
from mskd.resampling import image_to_study, labels_to_study
from mskd.scans import IGNORE_VALUE


def prepare_arrays(
    scan_hu: npt.NDArray[np.generic],
    affine: Affine,
    labels: npt.NDArray[np.uint8] | None,
    withheld: npt.NDArray[np.uint8] | None,
    settings: Preprocessing,
    *,
    seed: int = 0,
) -> PreparedArrays:
    """Bring a scan and its labels to the study grid.

    Args:
        scan_hu: Raw scan in its file's own axes, in HU.
        affine: Its affine.
        labels: Study values on the same grid, or None for an unlabelled scan.
        withheld: All known study values on the same grid, or None.
        settings: Preprocessing keys.
        seed: Chooses which foreground voxels are remembered.
    """
    shape = (int(scan_hu.shape[0]), int(scan_hu.shape[1]), int(scan_hu.shape[2]))
    geometry = Geometry.of_raw(shape, affine, settings.spacing_mm)
    image = image_to_study(geometry.to_canonical(scan_hu), geometry, antialias=settings.antialias)
    body = find_body(image, settings.body_threshold_hu)
    if settings.crop_to_body:
        margin = [round(settings.crop_margin_mm / s) for s in settings.spacing_mm]
        box = bounding_box(body, margin)
        geometry = geometry.cropped(
            (box[0].start, box[1].start, box[2].start),
            (box[0].stop - box[0].start, box[1].stop - box[1].start, box[2].stop - box[2].start),
        )
        image, body = image[box], body[box]
    clipped = np.rint(np.clip(image, *settings.hu_clip)).astype(np.int16)
    study_labels = np.zeros(geometry.shape, np.uint8)
    if labels is not None:
        study_labels = labels_to_study(geometry.to_canonical(labels), geometry)
    study_withheld = None if withheld is None else labels_to_study(geometry.to_canonical(withheld), geometry)
    foreground = sample_foreground(study_labels, settings.foreground_voxels, seed)
    return PreparedArrays(clipped, np.ascontiguousarray(body), study_labels, study_withheld, foreground, geometry)


def find_body(image_hu: npt.NDArray[np.float32], threshold_hu: float) -> npt.NDArray[np.bool_]:
    """Return the largest connected dense part, holes in axial slices (lungs, bowel gas) filled.

    The table falls away where it does not touch; an image without anything dense is body as a whole.
    """
    dense = image_hu > threshold_hu
    opened = ndimage.binary_opening(dense) if min(dense.shape) > 4 else dense
    parts, count = ndimage.label(opened)
    if count == 0:
        return np.ones(image_hu.shape, bool)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    body = ndimage.binary_dilation(parts == int(sizes.argmax())) & dense
    filled = np.empty_like(body)
    for z in range(body.shape[2]):
        filled[:, :, z] = ndimage.binary_fill_holes(body[:, :, z])
    return filled


def bounding_box(mask: npt.NDArray[np.bool_], margin: list[int]) -> tuple[slice, slice, slice]:
    """Return the box around True voxels plus a margin in voxels, inside the array."""
    box = []
    for axis in range(3):
        present = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        lo, hi = (int(present[0]), int(present[-1]) + 1) if len(present) else (0, mask.shape[axis])
        box.append(slice(max(0, lo - margin[axis]), min(mask.shape[axis], hi + margin[axis])))
    return box[0], box[1], box[2]


def sample_foreground(labels: npt.NDArray[np.uint8], count: int, seed: int) -> npt.NDArray[np.int32]:
    """Return up to `count` voxels of every organ as rows (value, x, y, z), seeded."""
    rng = np.random.default_rng(seed)
    rows = [np.zeros((0, 4), np.int32)]
    for value in np.unique(labels):
        if value in (0, IGNORE_VALUE):
            continue
        voxels = np.flatnonzero(labels == value)
        chosen = np.sort(rng.choice(voxels, min(count, len(voxels)), replace=False))
        where = np.stack(np.unravel_index(chosen, labels.shape), axis=1)
        rows.append(np.column_stack([np.full(len(chosen), value), where]).astype(np.int32))
    return np.concatenate(rows)
