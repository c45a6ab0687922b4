"""Where the slices of a CT series lie, and whether they are one even, straight stack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mskd.errors import DataError
from mskd.geometry import MAX_VOXELS, Affine, Shape

SLICE_TOLERANCE = 0.1
"""Most by which a slice may lie off the even stack, in slice spacings."""

TILT_TOLERANCE = 0.5
"""Most by which the stack of slices may lean off their normal, in pixels over its whole height."""

SAME_MM = 1e-3
"""Positions (in mm) closer than this are the same."""

SAME_DIRECTION = 1e-3
"""Largest difference of direction cosines, and largest relative difference of pixel spacings, that counts as none."""

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""From DICOM's world axes to those of NIfTI, and back."""


@dataclass(frozen=True, slots=True)
class Slice:
    """What the header of a CT image says of where it lies; a tuple is empty where it does not say so.

    Attributes:
        path: The file.
        shape: Rows and columns.
        spacing_mm: Between rows and between columns.
        position_mm: Centre of the first pixel, in DICOM's LPS axes.
        orientation: Direction along a row (of growing columns), then along a column, in LPS axes.
        multi_frame: Whether the file holds several slices (enhanced CT).
    """

    path: Path
    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    position_mm: tuple[float, ...]
    orientation: tuple[float, ...]
    multi_frame: bool

    @property
    def normal(self) -> npt.NDArray[np.float64]:
        """Direction across the slice, so that columns, rows and normal are right-handed."""
        return np.cross(self.orientation[:3], self.orientation[3:])


def ordered(slices: Sequence[Slice]) -> list[Slice]:
    """Return slices by their positions along the normal; as they are where positions are missing."""
    if not all(found.position_mm and found.orientation for found in slices):
        return list(slices)
    normal = slices[0].normal
    return sorted(slices, key=lambda found: float(normal @ np.asarray(found.position_mm)))


def stack_grid(slices: Sequence[Slice], folder: Path, case: str) -> tuple[Shape, Affine]:
    """Return shape (columns, rows, slices) and affine (voxel index → world mm, RAS+) of a stack of slices.

    Args:
        slices: In the order of `ordered`.
        folder: Their folder, for messages.
        case: Case id, for messages.

    Raises:
        DataError: If slices are missing, fewer than 2, unevenly spaced, twice there, of different shape, spacing or
            orientation, stacked askew (gantry tilt), or in one multi-frame file.
    """
    _check_kind(slices, folder, case)
    _check_alike(slices, case)
    first = slices[0]
    along_row, along_column = np.asarray(first.orientation[:3]), np.asarray(first.orientation[3:])
    normal = first.normal
    cosines = [along_row @ along_row - 1, along_column @ along_column - 1, along_row @ along_column]
    if np.abs(cosines).max() > SAME_DIRECTION or min(first.spacing_mm) <= 0:
        raise _fault(
            case,
            first.path,
            "rows and columns at right angles, directions of length 1, and pixel spacings above 0",
            f"ImageOrientationPatient {list(first.orientation)}, PixelSpacing {list(first.spacing_mm)}",
        )
    positions = np.asarray([found.position_mm for found in slices])
    step_mm = _step_mm(slices, positions @ normal, folder, case)
    lean = positions - positions[0] - np.outer((positions - positions[0]) @ normal, normal)
    if np.linalg.norm(lean, axis=1).max() > TILT_TOLERANCE * min(first.spacing_mm):
        rise, shift = (positions[-1] - positions[0]) @ normal, np.linalg.norm(lean, axis=1).max()
        raise DataError(
            case=case,
            file=folder,
            expected=f"slices stacked along their normal, to within {TILT_TOLERANCE} pixels over the whole stack",
            found=f"a stack {rise:.4g} mm high that leans by {shift:.4g} mm (gantry tilt)",
            fix="resample the series to a straight grid, for example with dcm2niix, and use the NIfTI file",
        )
    rows, columns = first.shape
    shape = (columns, rows, len(slices))
    if min(shape) < 1 or np.prod(shape, dtype=np.float64) > MAX_VOXELS:
        raise _fault(case, first.path, f"at most {MAX_VOXELS} voxels", f"shape {shape}")
    lps = np.eye(4)
    lps[:3, 0] = along_row * first.spacing_mm[1]
    lps[:3, 1] = along_column * first.spacing_mm[0]
    lps[:3, 2] = normal * step_mm
    lps[:3, 3] = positions[0]
    return shape, LPS_TO_RAS @ lps


def _check_kind(slices: Sequence[Slice], folder: Path, case: str) -> None:
    """Refuse files that cannot be slices of one stack."""
    for found in slices:
        if found.multi_frame:
            raise DataError(
                case=case,
                file=found.path,
                expected="a file per slice",
                found="a multi-frame (enhanced) CT file",
                fix="convert it to NIfTI, for example with dcm2niix, or to a file per slice",
            )
    if len(slices) < 2:
        raise DataError(
            case=case,
            file=folder,
            expected="at least 2 slices",
            found=f"{len(slices)}",
            fix="give the folder with all files of the series",
        )
    for found in slices:
        tags = {
            "PixelSpacing": found.spacing_mm,
            "ImagePositionPatient": found.position_mm,
            "ImageOrientationPatient": found.orientation,
        }
        missing = [tag for tag, value in tags.items() if not value]
        if missing:
            raise _fault(case, found.path, f"the tag {missing[0]}", "none, or not the numbers that it should hold")


def _check_alike(slices: Sequence[Slice], case: str) -> None:
    """Refuse slices that differ in more than their position."""
    first = slices[0]
    for found in slices[1:]:
        alike = {
            "rows and columns": (first.shape, found.shape, 0.0, 0.0),
            "PixelSpacing": (first.spacing_mm, found.spacing_mm, SAME_DIRECTION, 0.0),
            "ImageOrientationPatient": (first.orientation, found.orientation, 0.0, SAME_DIRECTION),
        }
        for what, (wanted, has, rtol, atol) in alike.items():
            if not np.allclose(has, wanted, rtol=rtol, atol=atol):
                raise _fault(case, found.path, f"{what} {list(wanted)}, as in {first.path.name}", f"{list(has)}")


def _step_mm(slices: Sequence[Slice], heights_mm: npt.NDArray[np.float64], folder: Path, case: str) -> float:
    """Return the spacing of slices, given their places along the normal in rising order."""
    gaps = np.diff(heights_mm)
    names = [found.path.name for found in slices]
    if gaps.min() < SAME_MM:
        here = int(gaps.argmin())
        raise DataError(
            case=case,
            file=folder,
            expected="one slice at each position",
            found=f"{int((gaps < SAME_MM).sum())} positions twice, such as that of {names[here]} and {names[here + 1]}",
            fix="remove the copies; where the series holds several phases or acquisitions, give each its own folder",
        )
    step_mm = float(heights_mm[-1] - heights_mm[0]) / len(gaps)
    off = np.abs(heights_mm - heights_mm[0] - step_mm * np.arange(len(heights_mm)))
    if off.max() > SLICE_TOLERANCE * step_mm:
        usual, widest = float(np.median(gaps)), int(gaps.argmax())
        raise DataError(
            case=case,
            file=folder,
            expected=f"slices at even spacing, each to within {SLICE_TOLERANCE:.0%} of it",
            found=f"{usual:.4g} mm mostly, {gaps[widest]:.4g} mm between {names[widest]} and {names[widest + 1]}"
            + (" (missing slices?)" if gaps[widest] > 1.5 * usual else f", {gaps.min():.4g} mm at the narrowest"),
            fix="fetch the missing files, or resample the series to even spacing",
        )
    return step_mm


def _fault(case: str, path: Path, expected: str, found: str) -> DataError:
    fix = "export the series again from where it came from, or convert it to NIfTI"
    return DataError(case=case, file=path, expected=expected, found=found, fix=fix)
