"""The scan that all stages share: synthetic in the size of a clinical CT, or one that was given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from benchmarks.speed.options import Options
from mskd.config.phantom import PhantomDataset, Scanner
from mskd.phantom.cases import case_painter, simulate_case
from mskd.phantom.scanner import scan_axes

SCAN, LABELS, TABLE = "scan.nii.gz", "labels.nii.gz", "five_organs.npy"
SLAB = 16  # planes that are painted at a time
ORGANS = ("organ1", "organ2", "organ3", "organ4", "organ5")
VALUES = {organ: value for value, organ in enumerate(ORGANS, 1)}
HU_CLIP = (-325.0, 325.0)


def write_scan(folder: Path, options: Options) -> None:
    """Write scan and label map (five organs, 1 to 5), once for all stages of a run."""
    if (folder / LABELS).is_file():
        return
    if options.scan is not None and options.labels is not None:
        scan: Any = nib.load(options.scan)
        image, affine = np.asarray(scan.dataobj).astype(np.int16), scan.affine
        mask: Any = nib.load(options.labels)
        labels = np.asarray(mask.dataobj).astype(np.uint8)
    else:
        made = simulate_case(phantom(options), 0)
        image, labels, affine = made.image, made.labels, made.affine
    table = five_organs(labels)
    np.save(folder / TABLE, table)
    nib.save(nib.Nifti1Image(image, affine), folder / SCAN)
    nib.save(nib.Nifti1Image(table[labels], affine), folder / LABELS)


def phantom(options: Options) -> PhantomDataset:
    """Return the dataset whose first case is the synthetic scan."""
    spacing_mm, fov_mm = ((3.0, 3.0, 4.5), (384.0, 384.0, 288.0))
    if not options.quick:
        spacing_mm, fov_mm = ((0.75, 0.75, 1.5), (384.0, 384.0, 300.0))
    scanner = Scanner(spacing_mm=spacing_mm, fov_mm=fov_mm, slice_thickness_mm=spacing_mm[2])
    return PhantomDataset(organs=[], layout="btcv", scanner=scanner)


def true_labels(folder: Path, options: Options, places: Sequence[npt.NDArray[np.float64]]) -> npt.NDArray[np.uint8]:
    """Return what the synthetic scan's anatomy is at points between its voxels.

    Args:
        folder: Where the scan was written.
        options: Those that it was written with; no scan of its own.
        places: Per axis the points as fractional voxels of the scan.

    Returns:
        Labels 1 to 5, (X, Y, Z) with as many points as `places` has.
    """
    spec = phantom(options)
    painter, _ = case_painter(spec, 0)
    x, y, z = (
        (axis[0] + at * step).astype(np.float32)
        for axis, at, step in zip(scan_axes(spec.scanner), places, spec.scanner.spacing_mm, strict=True)
    )
    slabs = [painter((x, y, z[start : start + SLAB]))[1] for start in range(0, len(z), SLAB)]
    return np.asarray(np.load(folder / TABLE)[np.concatenate(slabs, axis=2)], np.uint8)


def five_organs(labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return a table (256,) that gives the five most frequent values as 1 to 5, all others as 0."""
    counts = np.bincount(labels.ravel(), minlength=256)
    counts[0] = 0
    chosen = np.argsort(-counts, kind="stable")[: len(ORGANS)]
    table = np.zeros(256, np.uint8)
    table[chosen[counts[chosen] > 0]] = np.arange(1, 1 + int((counts[chosen] > 0).sum()))
    return table


def read(folder: Path, name: str) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
    """Return an array of the shared scan and its affine."""
    file: Any = nib.load(folder / name)
    return np.asarray(file.dataobj), file.affine
