"""The scan that all stages share: synthetic in the size of a clinical CT, or one that was given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from benchmarks.speed.options import Options
from mskd.config.phantom import PhantomDataset, Scanner
from mskd.phantom.cases import simulate_case

SCAN, LABELS = "scan.nii.gz", "labels.nii.gz"
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
        spacing_mm, fov_mm = ((3.0, 3.0, 4.5), (384.0, 384.0, 288.0))
        if not options.quick:
            spacing_mm, fov_mm = ((0.75, 0.75, 1.5), (384.0, 384.0, 300.0))
        scanner = Scanner(spacing_mm=spacing_mm, fov_mm=fov_mm, slice_thickness_mm=spacing_mm[2])
        made = simulate_case(PhantomDataset(organs=[], layout="btcv", scanner=scanner), 0)
        image, labels, affine = made.image, made.labels, made.affine
    nib.save(nib.Nifti1Image(image, affine), folder / SCAN)
    nib.save(nib.Nifti1Image(five_organs(labels), affine), folder / LABELS)


def five_organs(labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the five most frequent values as 1 to 5."""
    counts = np.bincount(labels.ravel(), minlength=256)
    counts[0] = 0
    chosen = np.argsort(-counts, kind="stable")[: len(ORGANS)]
    table = np.zeros(256, np.uint8)
    table[chosen[counts[chosen] > 0]] = np.arange(1, 1 + int((counts[chosen] > 0).sum()))
    return table[labels]


def read(folder: Path, name: str) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
    """Return an array of the shared scan and its affine."""
    file: Any = nib.load(folder / name)
    return np.asarray(file.dataobj), file.affine
