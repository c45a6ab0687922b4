"""Findings from a file before its voxels are read: is it there, is it whole, does its header agree with itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import numpy.typing as npt

from mskd.geometry import Affine

SPACING_MM = (0.1, 15.0)  # in-plane 0.3 to 1.5, slices up to 10 mm in public CTs; phantoms are coarser
EXTENT_MM = (30.0, 2500.0)  # from a crop around one organ to a whole body
UNITS = {1: "metre", 3: "micrometre"}  # of NIfTI; 2 is mm, 0 unknown
PIXDIM_TOLERANCE = 0.02  # relative


class Problem(NamedTuple):
    """A finding that does not know its case and file yet."""

    code: str
    expected: str
    found: str
    fix: str


def file_problem(path: Path) -> Problem | None:
    """Return why a file cannot be opened, None if it can; folders (DICOM series) are not looked into."""
    if path.is_dir():
        return None
    try:
        with path.open("rb") as stream:
            if stream.read(1):
                return None
    except FileNotFoundError:
        return Problem("file.missing", "a NIfTI file", "no such file", "restore the file, or check the dataset's path")
    except OSError as error:
        found = (error.strerror or type(error).__name__).lower()
        return Problem("file.unreadable", "a file that can be read", found, "mend the permissions, or the disk")
    return Problem("file.empty", "a NIfTI file", "0 bytes", "fetch the file again; the disk may have been full")


def header_problems(path: Path, *, grid: bool = True) -> Iterator[Problem]:
    """Yield what is wrong with the header of a NIfTI file that can be read.

    Args:
        path: The file.
        grid: Whether voxel size and extent are looked at too (a label shares those of its scan).
    """
    header = nib.load(path).header
    if not isinstance(header, nib.Nifti1Header):
        return
    shape = header.get_data_shape()[:3]
    if min(shape) == 1:
        yield Problem(
            "header.single_slice", "a volume", f"shape {shape}", "convert the whole series, not one slice of it"
        )
    yield from _transforms(header, shape)
    unit = UNITS.get(int(header["xyzt_units"]) & 7)  # nibabel fails on numbers that mean nothing
    if unit is not None:
        fix = "write the affine in millimetres, and `mm` as its unit"
        yield Problem("header.units", "lengths in mm", f"the unit {unit}", fix)
    if grid:
        yield from _grid(header.get_best_affine(), shape)


def _transforms(header: nib.Nifti1Header, shape: tuple[int, ...]) -> Iterator[Problem]:
    sform, qform = int(header["sform_code"]), int(header["qform_code"])
    if not sform and not qform:
        yield Problem(
            "header.no_transform",
            "an sform or a qform that says where right, front and top are",
            "neither (both codes are 0)",
            "convert the series again with a program that writes them, such as dcm2niix",
        )
        return
    fix = "find out which is right (is the liver on the right side?) and write it as both sform and qform"
    affine = header.get_best_affine()
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if sform and qform:
        apart = _apart_mm(header.get_sform(), header.get_qform(), shape)
        if apart > 0.5 * lengths.min():
            found = f"corners of the volume up to {apart:.3g} mm apart"
            yield Problem("header.transforms", "sform and qform that place voxels alike", found, fix)
            return
    zooms = np.asarray(header.get_zooms()[:3], float)
    if np.any(np.abs(zooms - lengths) > PIXDIM_TOLERANCE * lengths):
        expected = f"the voxel size of the affine, {_mm(lengths)}"
        yield Problem("header.transforms", expected, f"{_mm(zooms)} in pixdim", "correct the one that is wrong")


def _apart_mm(first: Affine, second: Affine, shape: tuple[int, ...]) -> float:
    """Return how far the two affines place a corner of the volume apart."""
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.asarray(shape) - 1)
    moved = nib.affines.apply_affine(first, corners) - nib.affines.apply_affine(second, corners)
    return float(np.linalg.norm(moved, axis=1).max())


def _grid(affine: Affine, shape: tuple[int, ...]) -> Iterator[Problem]:
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
    extent_mm = spacing_mm * np.asarray(shape)
    fix = "compare with the DICOM series; lengths in the header are in mm"
    if spacing_mm.min() < SPACING_MM[0] or spacing_mm.max() > SPACING_MM[1]:
        expected = f"voxels of {SPACING_MM[0]:g} to {SPACING_MM[1]:g} mm"
        yield Problem("header.spacing", expected, _mm(spacing_mm), fix)
    elif min(shape) > 1 and (extent_mm.min() < EXTENT_MM[0] or extent_mm.max() > EXTENT_MM[1]):
        expected = f"a volume of {EXTENT_MM[0]:g} to {EXTENT_MM[1]:g} mm along each axis"
        yield Problem("header.spacing", expected, _mm(extent_mm), fix)


def _mm(lengths: npt.NDArray[np.float64]) -> str:
    return " × ".join(f"{length:.3g}" for length in lengths) + " mm"
