"""Reading raw scans and label files, with every doubt turned into a clear error."""

from __future__ import annotations

import gzip
import json
import stat
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from mskd.dicom import Series, read_series, read_series_grid
from mskd.errors import DataError
from mskd.geometry import MAX_VOXELS, Affine
from mskd.provenance import content_key, file_digest

IGNORE_VALUE = 255
_DAMAGED = (OSError, EOFError, OverflowError, MemoryError, zlib.error, ValueError)
_MOST_PACKED = 1032  # deflate makes nothing smaller than this
_MOST_AFTER = 2**26  # bytes behind the voxels that are read, to compare the checksum, before a file is given up


def read_scan(path: Path | Series, case: str) -> tuple[npt.NDArray[Any], Affine]:
    """Read a CT in Hounsfield units.

    Args:
        path: NIfTI file, folder with one DICOM series, or series.
        case: Case id, for messages.

    Returns:
        Array (X, Y, Z) in the file's own axes and dtype (slope and intercept applied), and its 4 × 4 affine.

    Raises:
        DataError: If the file is missing, damaged, not three-dimensional, not finite, or has no usable affine; if the
            folder does not hold one sound CT series.
        MskdError: If what reads DICOM is not installed.
    """
    if isinstance(path, Series) or path.is_dir():
        return read_series(path, case)
    array, affine = _read(path, case)
    require_finite(array, path, case)
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
    array, _ = read_label_values(path, case)
    require_shape(array.shape, path, case, shape)
    # in the file's own order of voxels: across it, this took half of the time of preparing a scan
    out = np.zeros_like(array, np.uint8)
    for file_value, study_value in values.items():
        if study_value:
            np.copyto(out, np.uint8(study_value), where=array == file_value)
    return out


def read_label_values(path: Path, case: str) -> tuple[npt.NDArray[Any], Affine]:
    """Read a label file as it is.

    Args:
        path: NIfTI file.
        case: Case id, for messages.

    Returns:
        Integers (X, Y, Z) in the file's own axes, and its 4 × 4 affine.

    Raises:
        DataError: If the file cannot be read, is not three-dimensional, or holds other than whole numbers.
    """
    array, affine = _read(path, case)
    return whole_numbers(array, path, case), affine


def read_stored(path: Path, case: str) -> tuple[npt.NDArray[Any], float, float, Affine]:
    """Read the voxels of a file as they are stored, without a copy in another type.

    Returns:
        Array (X, Y, Z) in the file's own axes and dtype, slope and intercept that are not applied to it, affine.

    Raises:
        DataError: If the file is missing, damaged, not three-dimensional, or has no usable affine.
    """
    image, shape, affine = _open(path, case)
    try:
        with _whole_file(image, path) as stored:
            array = np.asanyarray(stored.dataobj.get_unscaled()).reshape(shape)
    except _DAMAGED as error:
        raise _damaged(path, case, error) from error
    _require_numbers(array, path, case)
    return array, float(image.dataobj.slope), float(image.dataobj.inter), affine


def require_finite(array: npt.NDArray[Any], path: Path, case: str) -> None:
    """Raise DataError if intensities are NaN or infinite."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(
            case=case,
            file=path,
            expected="finite intensities in HU",
            found=f"{int((~np.isfinite(array)).sum())} voxels that are NaN or infinite",
            fix="replace them (air is -1024 HU) or leave the case out of the split",
            code="image.not_finite",
        )


def require_shape(found: tuple[int, ...], path: Path, case: str, shape: tuple[int, ...]) -> None:
    """Raise DataError if a label file has another shape than its scan."""
    if found != tuple(shape):
        raise DataError(
            case=case,
            file=path,
            expected=f"the shape of its scan, {tuple(shape)}",
            found=f"{found}",
            fix="check that scan and label belong together",
            code="label.shape",
        )


def whole_numbers(array: npt.NDArray[Any], path: Path, case: str) -> npt.NDArray[Any]:
    """Return label values as integers; integers stay as they are.

    Raises:
        DataError: If a value is fractional, NaN or infinite.
    """
    if array.dtype.kind != "f":
        return array
    rounded = np.rint(array)
    wrong = ~((rounded == array) & (np.abs(array) < 2**53))  # of larger floats each is whole; NaN is not smaller
    if wrong.any():
        n_unknown = int(np.count_nonzero(~np.isfinite(array)))
        raise DataError(
            case=case,
            file=path,
            expected="whole-number label values",
            found=f"{n_unknown} voxels that are NaN or infinite"
            if n_unknown
            else f"fractional values such as {array[wrong].flat[0]}",
            fix="write 0 there"
            if n_unknown
            else "store labels, not probabilities, without interpolation or intensity scaling",
            code="label.fractional",
        )
    return np.asarray(rounded, np.int64)


def read_scan_grid(path: Path, case: str) -> tuple[tuple[int, ...], Affine]:
    """Return shape and affine of a file, or of a folder with one DICOM series, without reading its voxels.

    Raises:
        DataError: If the file or folder cannot be read.
        MskdError: If what reads DICOM is not installed.
    """
    if path.is_dir():
        return read_series_grid(path, case)
    return _open(path, case)[1:]


def scan_digest(scan: Path | Series, case: str) -> str:
    """Return the digest of a scan's content: of its file, or of all files of its DICOM series.

    Raises:
        DataError: If it cannot be read.
    """
    try:
        if isinstance(scan, Series):
            return content_key(files=sorted(file_digest(file) for file in scan.files))
        return file_digest(scan)
    except OSError as error:
        raise DataError(
            case=case,
            file=scan,
            expected="a readable file",
            found=error.strerror or str(error),
            fix="check the path and the file's permissions",
            code="file.unreadable",
        ) from error


def write_labels(
    path: Path,
    labels: npt.NDArray[np.uint8],
    affine: Affine,
    names: Mapping[str, int] | None = None,
    *,
    like: Path | None = None,
    scale: float = 1.0,
) -> None:
    """Write a label map (or another map of bytes) as compressed NIfTI; equal content gives equal bytes.

    Args:
        path: File to write, `.nii.gz`.
        labels: (X, Y, Z) in the axes of `affine`.
        affine: 4 × 4, in mm; sform and qform without `like`.
        names: Organ → value, written as JSON into a header extension of the kind "comment".
        like: NIfTI file whose version, sform, qform, their codes and units are taken over.
        scale: Slope of the values.
    """
    image = _image_like(labels, affine, like)
    if scale != 1.0:
        image.header.set_slope_inter(scale, 0)
    if names is not None:
        image.header.set_intent("label")
        text = json.dumps({"labels": {"background": 0, **names}}).encode()
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", text))
    # gzip through nibabel stores the time; compress the finished bytes without one
    compressor = zlib.compressobj(5, zlib.DEFLATED, 31)
    path.write_bytes(compressor.compress(image.to_bytes()) + compressor.flush())


def _image_like(array: npt.NDArray[np.uint8], affine: Affine, like: Path | None) -> Any:
    """Return an image of bytes that lies where another does."""
    source: Any = nib.load(like) if like is not None else None
    if not isinstance(source, nib.Nifti1Image):
        image = nib.Nifti1Image(array, affine)
        image.header.set_xyzt_units("mm", "sec")
        image.set_qform(affine, code=1)
        image.set_sform(affine, code=1)
        return image
    kind: Any = nib.Nifti2Image if isinstance(source, nib.Nifti2Image) else nib.Nifti1Image
    image = kind(array, affine)
    image.header.set_xyzt_units(source.header.get_xyzt_units()[0], "sec")
    qform, code = source.get_qform(coded=True)
    image.set_qform(affine if qform is None else qform, code=int(code))
    sform, code = source.get_sform(coded=True)
    image.set_sform(affine if sform is None else sform, code=int(code))
    return image


def _open(path: Path, case: str) -> tuple[Any, tuple[int, ...], Affine]:
    """Return image (voxels unread), shape and affine, checked."""
    size = _file_bytes(path, case)
    try:
        image = _load(path)
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
            code="header.size" if np.prod(shape, dtype=np.float64) > MAX_VOXELS else "header.dimensions",
        )
    claimed = np.prod(shape, dtype=np.float64) * image.get_data_dtype().itemsize
    if isinstance(image, nib.Nifti1Image) and claimed > size * (_MOST_PACKED if path.suffix == ".gz" else 1):
        raise _damaged(path, case, EOFError(f"its header claims {claimed:.0f} bytes of voxels, the file has {size}"))
    affine = np.asarray(image.affine, np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise DataError(
            case=case,
            file=path,
            expected="an invertible affine",
            found=f"{affine.tolist()}",
            fix="repair sform and qform",
            code="header.affine",
        )
    return image, shape, affine


def _load(path: Path) -> Any:
    """Return the image, voxels unread; none of the other formats that nibabel knows is tried."""
    sniff: Any = None
    for kind in (nib.Nifti1Pair, nib.Nifti1Image, nib.Nifti2Pair, nib.Nifti2Image):
        is_one, sniff = kind.path_maybe_image(path, sniff)
        if is_one:
            return kind.from_filename(path)
    raise nib.filebasedimages.ImageFileError("no NIfTI file")


def _file_bytes(path: Path, case: str) -> int:
    """Return the size of a file; a pipe or a device, which may never end, is not opened."""
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise DataError(
            case=case,
            file=path,
            expected="a NIfTI file",
            found="no such file",
            fix="check the dataset's path",
            code="file.missing",
        ) from error
    except OSError as error:
        raise _damaged(path, case, error) from error
    if not stat.S_ISREG(status.st_mode):
        raise DataError(
            case=case,
            file=path,
            expected="a NIfTI file",
            found="a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, a socket or a device",
            fix="check the dataset's path",
            code="file.unreadable",
        )
    return status.st_size


def _read(path: Path, case: str) -> tuple[npt.NDArray[Any], Affine]:
    image, shape, affine = _open(path, case)
    try:
        with _whole_file(image, path) as stored:
            array = np.asanyarray(stored.dataobj).reshape(shape)
    except _DAMAGED as error:
        raise _damaged(path, case, error) from error
    _require_numbers(array, path, case)
    return array, affine


@contextmanager
def _whole_file(image: Any, path: Path) -> Iterator[Any]:
    """Yield the image on a stream that is then read to its end: only there gzip compares checksum and length."""
    if path.suffix != ".gz" or not isinstance(image, nib.Nifti1Image):
        yield image
        return
    with gzip.open(path) as stream:
        yield type(image).from_stream(stream)
        after = 0
        while part := stream.read(2**20):
            after += len(part)
            if after > _MOST_AFTER:
                raise ValueError(f"more than {_MOST_AFTER} bytes behind the voxels that its header tells of")


def _require_numbers(array: npt.NDArray[Any], path: Path, case: str) -> None:
    if array.dtype.kind not in "iuf":
        raise DataError(
            case=case,
            file=path,
            expected="one number per voxel",
            found=f"data of type {array.dtype}",
            fix="store the intensities (or label values) as numbers, not as colours",
            code="header.data_type",
        )


def _damaged(path: Path, case: str, error: Exception) -> DataError:
    return DataError(
        case=case,
        file=path,
        expected="a complete NIfTI file",
        found=f"{type(error).__name__}: {error}",
        fix="fetch the file again, or leave the case out of the split",
        code="file.damaged",
    )
