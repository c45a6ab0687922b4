"""CT series in DICOM files: which there are below a folder, and their voxels in HU with an affine.

Headers are read with pydicom, and only the tags that say what a file is and where its slice lies: no name, date or
number of a patient. Voxels are decoded by SimpleITK (GDCM), which knows the compressed transfer syntaxes, JPEG lossless
included, and applies each slice's own rescale slope and intercept. Both come with the extra `dicom`.
"""

from __future__ import annotations

import importlib
import re
import struct
import warnings
import zlib
from collections import Counter
from dataclasses import dataclass, field
from os.path import commonpath
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mskd.datasets.case import MAX_NAME_BYTES, natural_key
from mskd.datasets.folders import files_below
from mskd.dicom_stack import Slice, ordered, stack_grid
from mskd.errors import DataError, MskdError
from mskd.geometry import Affine, Shape

_CT = "1.2.840.10008.5.1.4.1.1.2"
_MULTI_FRAME_CT = (f"{_CT}.1", f"{_CT}.2")  # enhanced, and legacy converted enhanced
_DIRECTORY = "1.2.840.10008.1.3.10"
_TAGS = [
    *("SOPClassUID", "Modality", "SeriesInstanceUID", "ImageType", "NumberOfFrames", "Rows", "Columns"),
    *("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient"),
]
# What pydicom raises on bytes that are no DICOM, beside errors of its own.
_DAMAGED = (
    *(EOFError, struct.error, zlib.error, LookupError, ValueError, TypeError, AttributeError),
    *(NotImplementedError, ArithmeticError, RecursionError, MemoryError),
)
_UID = re.compile(r"[0-9]+(\.[0-9]+){4,}")
_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Series:
    """A CT series.

    Attributes:
        name: Made of the folders' names below the one that was searched; no tag of the header is in it.
        folder: Folder of its files, or the one above where they lie in several.
        slices: In the order of their positions along the normal; of their names where positions are missing.
        damaged: DICOM files beside them that cannot be read: slices may be missing.
    """

    name: str
    folder: Path
    slices: tuple[Slice, ...]
    damaged: tuple[Path, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """Files in the order of the slices."""
        return tuple(found.path for found in self.slices)


@dataclass(slots=True)
class _Contents:
    """What a folder holds: CT images by series, other DICOM files by modality, damaged ones, all others."""

    series: dict[str, list[Slice]] = field(default_factory=dict)
    others: Counter[str] = field(default_factory=Counter)
    damaged: list[Path] = field(default_factory=list)
    n_files: int = 0


def dicom_library(name: str) -> Any:
    """Return a module of the extra `dicom`.

    Raises:
        MskdError: If it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MskdError(f"DICOM needs {name.split('.')[0]}: pip install 'mskd[dicom]'") from error


def find_series(folder: Path) -> list[Series]:
    """Return the CT series below a folder: of one series, one study, or many studies.

    Files are known by their headers, not by their names. DICOMDIR, other modalities, segmentations, structured
    reports and localizers are left out. The order is that of the files' paths.

    Args:
        folder: Where to search, through all levels.

    Raises:
        DataError: If the folder or a file in it cannot be opened.
        MskdError: If what reads DICOM is not installed.
    """
    return _named(folder, _contents(folder))


def read_series(source: Path | Series, case: str) -> tuple[npt.NDArray[Any], Affine]:
    """Read a CT series.

    Args:
        source: A series, or a folder that holds one.
        case: Case id, for messages.

    Returns:
        Array (X, Y, Z) in HU: columns, rows and slices in the direction of the normal; int16, or float32 where the
        values are no whole numbers of that range. And its 4 × 4 affine (voxel index → world mm, RAS+).

    Raises:
        DataError: If there is no series or several; if slices are missing, unevenly spaced, twice there, of different
            shape, spacing or orientation, stacked askew (gantry tilt), in one multi-frame file, or damaged.
        MskdError: If what reads DICOM is not installed.
    """
    series = single_series(source, case)
    shape, affine = _grid(series, case)
    return _voxels(series, shape, case), affine


def read_series_grid(source: Path | Series, case: str) -> tuple[Shape, Affine]:
    """Return shape and affine of a series as `read_series` does, without reading its voxels.

    Raises:
        DataError: As `read_series`, apart from files whose voxels alone are damaged.
        MskdError: If what reads DICOM is not installed.
    """
    return _grid(single_series(source, case), case)


def single_series(source: Path | Series, case: str) -> Series:
    """Return a series as it is, or the only one of a folder.

    Raises:
        DataError: If a folder holds no CT series, or several.
        MskdError: If what reads DICOM is not installed.
    """
    if isinstance(source, Series):
        return source
    contents = _contents(source)
    found = _named(source, contents)
    if not found:
        raise DataError(
            case=case,
            file=source,
            expected="a CT series in DICOM files",
            found=_account(contents),
            fix="give the folder that holds the CT images",
        )
    if len(found) > 1:
        named = [f"{series.name} ({len(series.slices)} files)" for series in found[:_SHOWN]]
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise DataError(
            case=case,
            file=source,
            expected="one CT series",
            found=f"{len(found)}: {', '.join(named)}{more}",
            fix="give the folder of the one that is meant; where it shares a folder with others, move its files to "
            "a folder of their own",
        )
    return found[0]


def _contents(folder: Path) -> _Contents:
    found = _Contents()
    for path in files_below(folder):
        found.n_files += 1
        if _is_dicom(path):
            _add(found, path)
        elif path.suffix.lower() == ".dcm":
            found.damaged.append(path)
    return found


def _is_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError as error:
        raise DataError(
            case="-",
            file=path,
            expected="a file that can be read",
            found=(error.strerror or type(error).__name__).lower(),
            fix="mend the permissions, or the disk",
        ) from error


def _add(found: _Contents, path: Path) -> None:
    """Read the header of a DICOM file and put the file where it belongs."""
    pydicom = dicom_library("pydicom")
    try:
        # What is odd in a header but of no use here is not worth a warning, which could quote it.
        with pydicom.config.disable_value_validation(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_TAGS)
            kind = str(header.file_meta.get("MediaStorageSOPClassUID", "") or header.get("SOPClassUID", ""))
            modality = str(header.get("Modality") or "")
            if not kind:
                found.damaged.append(path)
            elif kind not in (_CT, *_MULTI_FRAME_CT) or modality not in ("CT", ""):
                if kind != _DIRECTORY:
                    found.others[modality if modality.isalnum() else "unknown modality"] += 1
            elif "LOCALIZER" in (header.get("ImageType") or ()):
                found.others["CT localizer"] += 1
            else:
                uid, image = str(header["SeriesInstanceUID"].value), _slice(path, header, kind)
                found.series.setdefault(uid, []).append(image)
    except (pydicom.errors.InvalidDicomError, pydicom.errors.BytesLengthException, *_DAMAGED):
        found.damaged.append(path)


def _slice(path: Path, header: Any, kind: str) -> Slice:
    return Slice(
        path=path,
        shape=(int(header.Rows), int(header.Columns)),
        spacing_mm=_numbers(header, "PixelSpacing", 2),
        position_mm=_numbers(header, "ImagePositionPatient", 3),
        orientation=_numbers(header, "ImageOrientationPatient", 6),
        multi_frame=kind in _MULTI_FRAME_CT or int(header.get("NumberOfFrames") or 1) > 1,
    )


def _numbers(header: Any, tag: str, count: int) -> tuple[float, ...]:
    """Return the numbers of a tag, empty where it does not hold so many finite ones."""
    value = header.get(tag)
    numbers = () if value is None or isinstance(value, (str, float)) else tuple(float(number) for number in value)
    return numbers if len(numbers) == count and np.isfinite(numbers).all() else ()


def _named(root: Path, contents: _Contents) -> list[Series]:
    """Return series in the order of their first files, each with a name of its own."""
    groups = sorted(contents.series.values(), key=lambda group: _path_key(group[0].path.relative_to(root)))
    folders = [Path(commonpath([found.path.parent for found in group])) for group in groups]
    names = [_name(root, folder) for folder in folders]
    counts, taken = Counter(names), set(names)
    result = []
    for group, folder, name in zip(groups, folders, names, strict=True):
        unique = name
        if counts[name] > 1:
            unique = next(f"{name}-{n}" for n in range(1, len(taken) + 2) if f"{name}-{n}" not in taken)
            taken.add(unique)
        inside = {found.path.parent for found in group}
        damaged = tuple(path for path in contents.damaged if path.parent in inside)
        result.append(Series(unique, folder, tuple(ordered(group)), damaged))
    return result


def _path_key(path: Path) -> list[Any]:
    return [natural_key(part) for part in path.parts]


def _name(root: Path, folder: Path) -> str:
    """Return a name made of the folders from the root to a series; folders named by a UID are left out."""
    parts = folder.relative_to(root).parts or (folder.resolve().name,)
    name = "_".join(re.sub(r"[^\w.+-]", "_", part) for part in parts if not _UID.search(part))
    while len(name.encode()) > MAX_NAME_BYTES - 10:  # leaves room for the counter
        name = name[:-1]
    return name.strip("._-") or "series"


def _account(contents: _Contents) -> str:
    """Return what a folder without a CT series holds."""
    parts = [f"{count} of {kind}" for kind, count in sorted(contents.others.items())]
    if contents.damaged:
        parts.append(f"{len(contents.damaged)} damaged, such as {contents.damaged[0].name}")
    return f"DICOM files: {', '.join(parts)}" if parts else f"no DICOM image among {contents.n_files} files"


def _grid(series: Series, case: str) -> tuple[Shape, Affine]:
    if series.damaged:
        raise _damaged(case, series.damaged[0], "a header that cannot be read")
    return stack_grid(series.slices, series.folder, case)


def _voxels(series: Series, shape: Shape, case: str) -> npt.NDArray[Any]:
    sitk = dicom_library("SimpleITK")
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    array: npt.NDArray[Any] = np.empty(shape, np.int16, order="F")
    whole = np.iinfo(np.int16)
    for index, path in enumerate(series.files):
        reader.SetFileName(str(path))
        try:
            plane = sitk.GetArrayFromImage(reader.Execute())  # (1, rows, columns)
        except RuntimeError as error:
            raise _damaged(case, path, str(error).strip().splitlines()[-1].replace(str(path), path.name)) from error
        if plane.size != shape[0] * shape[1]:
            raise _damaged(case, path, f"values of shape {plane.shape}")
        plane = plane.reshape(shape[1], shape[0])
        fits = plane.dtype.kind in "iu" and plane.min() >= whole.min and plane.max() <= whole.max
        if array.dtype == np.int16 and not fits:
            array = array.astype(np.float32, order="F")
        array[:, :, index] = plane.T
    return array


def _damaged(case: str, path: Path, found: str) -> DataError:
    return DataError(
        case=case,
        file=path,
        expected="a complete DICOM image with one value per pixel, in a transfer syntax that GDCM decodes",
        found=found,
        fix="fetch the file again, or leave the case out of the split",
    )
