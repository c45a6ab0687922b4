"""Reading raw scans and label files, with every doubt turned into a clear error."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from mskd.dicom import read_series, read_series_grid
from mskd.errors import DataError
from mskd.geometry import MAX_VOXELS, Affine

IGNORE_VALUE = 255
_DAMAGED = (OSError, EOFError, zlib.error, ValueError)


def read_scan(path: Path, case: str) -> tuple[npt.NDArray[Any], Affine]:
    """Read a CT in Hounsfield units.

    Args:
        path: NIfTI file, or folder with one DICOM series.
        case: Case id, for messages.

    Returns:
        Array (X, Y, Z) in the file's own axes and dtype (slope and intercept applied), and its 4 × 4 affine.

    Raises:
        DataError: If the file is missing, damaged, not three-dimensional, not finite, or has no usable affine; if the
            folder does not hold one sound CT series.
        MskdError: If what reads DICOM is not installed.
    """
    array, affine = read_series(path, case) if path.is_dir() else _read(path, case)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(
            case=case,
            file=path,
            expected="finite intensities in HU",
            found=f"{int((~np.isfinite(array)).sum())} voxels that are NaN or infinite",
            fix="replace them (air is -1024 HU) or leave the case out of the split",
        )
    return array, affine


def read_labels(path: Path, case: str, values: Mapping[int, int], shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Read a label file and map its values to the study's.

    Args:
        path: NIfTI file.
        case: Case id, for messages.
        values: File value → study value (255 = ignore); others become 0.
        shape: Shape of the scan.

    Returns:
        Labels (X, Y, Z) in the file's own axes.

    Raises:
        DataError: If the file cannot be read, has another shape than the scan, or holds fractional values.
    """
    array, _ = _read(path, case)
    if array.shape != tuple(shape):
        raise DataError(
            case=case,
            file=path,
            expected=f"the shape of its scan, {tuple(shape)}",
            found=f"{array.shape}",
            fix="check that scan and label belong together",
        )
    if array.dtype.kind == "f":
        rounded = np.rint(array)
        if not np.array_equal(rounded, array):
            raise DataError(
                case=case,
                file=path,
                expected="whole-number label values",
                found=f"fractional values such as {array[rounded != array].flat[0]}",
                fix="store the labels without interpolation or intensity scaling",
            )
        array = rounded.astype(np.int64)
    out = np.zeros(array.shape, np.uint8)
    for file_value, study_value in values.items():
        if study_value:
            out[array == file_value] = study_value
    return out


def read_scan_grid(path: Path, case: str) -> tuple[tuple[int, ...], Affine]:
    """Return shape and affine of a file, or of a folder with one DICOM series, without reading voxels.

    Raises:
        DataError: If the file or folder cannot be read.
        MskdError: If what reads DICOM is not installed.
    """
    if path.is_dir():
        return read_series_grid(path, case)
    return _open(path, case)[1:]


def write_labels(path: Path, labels: npt.NDArray[np.uint8], affine: Affine) -> None:
    """Write labels as compressed NIfTI with equal sform and qform; equal labels give equal bytes."""
    image = nib.Nifti1Image(labels, affine)
    image.header.set_xyzt_units("mm", "sec")
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    # gzip through nibabel stores the time; compress the finished bytes without one
    compressor = zlib.compressobj(5, zlib.DEFLATED, 31)
    path.write_bytes(compressor.compress(image.to_bytes()) + compressor.flush())


def _open(path: Path, case: str) -> tuple[Any, tuple[int, ...], Affine]:
    """Return image (voxels unread), shape and affine, checked."""
    try:
        image: Any = nib.load(path)
    except FileNotFoundError as error:
        raise DataError(
            case=case,
            file=path,
            expected="a NIfTI file",
            found="no such file",
            fix="check the dataset's path",
        ) from error
    except (*_DAMAGED, nib.filebasedimages.ImageFileError, nib.spatialimages.HeaderDataError) as error:
        raise _damaged(path, case, error) from error
    shape = tuple(int(n) for n in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3 or min(shape) < 1 or np.prod(shape, dtype=np.float64) > MAX_VOXELS:
        raise DataError(
            case=case,
            file=path,
            expected=f"three dimensions and at most {MAX_VOXELS} voxels",
            found=f"shape {image.shape}",
            fix="extract one volume",
        )
    affine = np.asarray(image.affine, np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise DataError(
            case=case,
            file=path,
            expected="an invertible affine",
            found=f"{affine.tolist()}",
            fix="repair sform and qform",
        )
    return image, shape, affine


def _read(path: Path, case: str) -> tuple[npt.NDArray[Any], Affine]:
    image, shape, affine = _open(path, case)
    try:
        array = np.asanyarray(image.dataobj).reshape(shape)
    except _DAMAGED as error:
        raise _damaged(path, case, error) from error
    if array.dtype.kind not in "iuf":
        raise DataError(
            case=case,
            file=path,
            expected="one number per voxel",
            found=f"data of type {array.dtype}",
            fix="store the intensities (or label values) as numbers, not as colours",
        )
    return array, affine


def _damaged(path: Path, case: str, error: Exception) -> DataError:
    return DataError(
        case=case,
        file=path,
        expected="a complete NIfTI file",
        found=f"{type(error).__name__}: {error}",
        fix="fetch the file again, or leave the case out of the split",
    )
