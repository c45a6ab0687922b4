"""CT series in DICOM: found in folders, read in HU with their affine, written anonymously.

Needs pydicom and highdicom (`pip install 'mskd[dicom]'`), imported only when a series is met. Names of series come from
folders, never from what a header says of a patient.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mskd.errors import DataError, MskdError
from mskd.storage import atomic_path

if TYPE_CHECKING:
    from pydicom import Dataset

Affine = npt.NDArray[np.float64]
CT_IMAGES = "1.2.840.10008.5.1.4.1.1.2"  # CT Image Storage
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
UNEVEN = 0.01  # share of the slice distance by which a slice may lie elsewhere
HEADER = (
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "Modality",
    "ImageType",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "Rows",
    "Columns",
    "FrameOfReferenceUID",
)


@dataclass(frozen=True)
class Series:
    """A CT series.

    Attributes:
        name: Its folder relative to where it was looked for, numbered where a folder holds several.
        files: Its files, in the order of their names.
    """

    name: str
    files: tuple[Path, ...]


def find_series(folder: Path) -> list[Series]:
    """Return the CT series of a folder and all folders below it, in the order of their folders.

    Files that are no DICOM, other kinds of images, and localisers are left out.
    """
    found: dict[tuple[Path, str], list[Path]] = {}
    for file in _files(folder):
        header = _header(file)
        if header is None or str(header.get("SOPClassUID", "")) != CT_IMAGES:
            continue
        if "LOCALIZER" in header.get("ImageType", []) or "ImagePositionPatient" not in header:
            continue
        found.setdefault((file.parent, str(header.get("SeriesInstanceUID", ""))), []).append(file)
    several = Counter(parent for parent, _ in found)
    numbers: Counter[Path] = Counter()
    series = []
    for (parent, _), files in sorted(found.items(), key=lambda item: (item[0][0], item[1][0])):
        place = parent.relative_to(folder)
        name = folder.resolve().name if place == Path() else place.as_posix()
        numbers[parent] += 1
        series.append(Series(f"{name}-{numbers[parent]}" if several[parent] > 1 else name, tuple(sorted(files))))
    return series


def one_series(folder: Path, case: str) -> Series:
    """Return the one CT series of a folder.

    Raises:
        DataError: If there is none, or there are several.
    """
    series = find_series(folder)
    if len(series) != 1:
        names = ", ".join(item.name for item in series[:5])
        raise DataError(
            case=case,
            file=folder,
            expected="one CT series (DICOM)",
            found=f"{len(series)}: {names}" if series else "none",
            fix="give the folder of one series" if series else "check the folder; MR, PET and others are not read",
            code="listing.layout",
        )
    return series[0]


def series_grid(series: Series, case: str) -> tuple[tuple[int, int, int], Affine]:
    """Return shape (X, Y, Z) and affine (RAS+, mm) of a series from its headers.

    Raises:
        DataError: If its slices make no volume.
    """
    shape, affine, _ = _geometry(series, case)
    return shape, affine


def read_series(series: Series, case: str) -> tuple[npt.NDArray[Any], Affine]:
    """Read a series.

    Returns:
        HU (columns, rows, slices), int16 where all are whole numbers that fit, else float32; affine (RAS+, mm).

    Raises:
        DataError: If its slices make no volume, or a file is damaged.
    """
    shape, affine, order = _geometry(series, case)
    volume = np.empty(shape, np.float32)
    for index, file in enumerate(order):
        try:
            dataset = pydicom_package().dcmread(file)
            slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
            volume[:, :, index] = dataset.pixel_array.T * np.float32(slope) + np.float32(intercept)
        except Exception as error:
            raise _unusable(case, file, "a whole slice", f"{type(error).__name__}: {error}") from error
    if np.array_equal(volume, np.rint(volume)) and volume.min() >= -(2**15) and volume.max() < 2**15:
        return volume.astype(np.int16), affine
    return volume, affine


def series_digest(series: Series) -> str:
    """Return a digest of the content of a series, whatever its files are called."""
    digests = []
    for file in series.files:
        with file.open("rb") as stream:
            digests.append(hashlib.file_digest(stream, "sha256").hexdigest())
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()


def write_series(folder: Path, scan_hu: npt.NDArray[Any], affine: Affine) -> Series:
    """Write a scan as an anonymous axial CT series, for what has to refer to one; equal scans give equal identifiers.

    Args:
        folder: Folder to write, replaced as a whole.
        scan_hu: (X, Y, Z) in any axes; rounded to whole HU.
        affine: 4 × 4, voxel index → world mm, RAS+.
    """
    pydicom, highdicom = pydicom_package(), highdicom_package()
    hu = np.clip(np.rint(scan_hu), -(2**15), 2**15 - 1).astype(np.int16)
    identity = hashlib.sha256(hu.tobytes() + np.round(affine, 4).tobytes()).hexdigest()
    uids = {
        part: pydicom.uid.generate_uid(entropy_srcs=[identity, part])
        for part in ("study", "series", "frame of reference")
    }
    volume = highdicom.Volume(hu, LPS_TO_RAS @ affine, "PATIENT").to_patient_orientation("HPL")
    orientation = [float(v) for v in volume.get_plane_orientation()[0].ImageOrientationPatient]
    files = []
    with atomic_path(folder) as part:
        part.mkdir()
        for index in range(volume.spatial_shape[0]):
            name = f"{index:04d}.dcm"
            meta = pydicom.dataset.FileMetaDataset()
            meta.MediaStorageSOPClassUID = CT_IMAGES
            meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[identity, str(index)])
            meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
            dataset = pydicom.Dataset()
            dataset.file_meta = meta
            pixels = np.ascontiguousarray(volume.array[index])
            fields = {
                "SOPClassUID": CT_IMAGES,
                "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
                "StudyInstanceUID": uids["study"],
                "SeriesInstanceUID": uids["series"],
                "FrameOfReferenceUID": uids["frame of reference"],
                "Modality": "CT",
                "ImageType": ["DERIVED", "SECONDARY", "AXIAL"],
                "PatientName": "Anonymous^",
                "PatientID": "anonymous",
                "PatientBirthDate": "",
                "PatientSex": "",
                "StudyDate": "",
                "StudyTime": "",
                "StudyID": "",
                "AccessionNumber": "",
                "ReferringPhysicianName": "",
                "Manufacturer": "mskd",
                "SeriesNumber": 1,
                "InstanceNumber": index + 1,
                "PositionReferenceIndicator": "",
                "ImagePositionPatient": [_decimal(v) for v in volume.get_plane_position(index)[0].ImagePositionPatient],
                "ImageOrientationPatient": [_decimal(v) for v in orientation],
                "PixelSpacing": [_decimal(v) for v in volume.pixel_spacing],
                "SliceThickness": _decimal(volume.spacing_between_slices),
                "SamplesPerPixel": 1,
                "PhotometricInterpretation": "MONOCHROME2",
                "Rows": pixels.shape[0],
                "Columns": pixels.shape[1],
                "BitsAllocated": 16,
                "BitsStored": 16,
                "HighBit": 15,
                "PixelRepresentation": 1,
                "RescaleIntercept": 0,
                "RescaleSlope": 1,
                "RescaleType": "HU",
                "KVP": None,
                "AcquisitionNumber": None,
            }
            for field, value in fields.items():
                setattr(dataset, field, value)
            dataset.PixelData = pixels.tobytes()
            pydicom.dcmwrite(part / name, dataset, enforce_file_format=True)
            files.append(folder / name)
    return Series(folder.name, tuple(files))


def _geometry(series: Series, case: str) -> tuple[tuple[int, int, int], Affine, list[Path]]:
    """Return shape, affine and files in the order of the slices."""
    headers = [(file, _header(file)) for file in series.files]
    slices = [(file, header) for file, header in headers if header is not None]
    first = slices[0][1]
    for file, header in slices:
        for field in ("Rows", "Columns", "PixelSpacing", "ImageOrientationPatient"):
            if field not in header:
                raise _unusable(case, file, f"a slice with {field}", "none")
            if not np.allclose(
                np.asarray(header[field].value, float), np.asarray(first[field].value, float), atol=1e-4
            ):
                raise _unusable(
                    case, file, f"{field} of the other slices, {first[field].value}", str(header[field].value)
                )
    across, down = np.asarray(first.ImageOrientationPatient, float).reshape(2, 3)
    normal = np.cross(across, down)
    places = np.array([np.asarray(header.ImagePositionPatient, float) for _, header in slices])
    heights = places @ normal
    order = np.argsort(heights, kind="stable")
    place = series.files[0].parent
    if len(slices) < 2:
        raise _unusable(case, place, "two slices at least", f"{len(slices)}")
    steps = np.diff(heights[order])
    step = float(np.median(steps))
    if steps.min() < UNEVEN * max(step, 1e-3):
        raise _unusable(case, place, "one slice at each position", "several at one (another phase, or a slice twice)")
    if np.abs(steps - step).max() > UNEVEN * step:
        missing = int(np.rint(steps / steps.min()).sum()) - len(steps)
        found = f"distances from {steps.min():.3f} to {steps.max():.3f} mm" + (
            f"; {missing} missing" if missing else ""
        )
        raise _unusable(case, place, "slices at even distances", found)
    drift = np.diff(places[order], axis=0) - steps[:, None] * normal
    if np.abs(drift).max() > UNEVEN * step + 1e-3:
        raise _unusable(case, place, "slices above each other", "a shift from slice to slice (tilted gantry)")
    between_rows, between_columns = (float(v) for v in first.PixelSpacing)
    in_lps = np.eye(4)
    in_lps[:3, 0], in_lps[:3, 1] = across * between_columns, down * between_rows
    in_lps[:3, 2] = normal * (heights[order[-1]] - heights[order[0]]) / (len(slices) - 1)
    in_lps[:3, 3] = places[order[0]]
    affine = LPS_TO_RAS @ in_lps
    return (int(first.Columns), int(first.Rows), len(slices)), affine, [slices[i][0] for i in order]


def _header(file: Path) -> Dataset | None:
    """Return the few tags that are looked at, None for a file that is no DICOM."""
    pydicom = pydicom_package()
    try:
        dataset: Dataset = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(HEADER))
    except (pydicom.errors.InvalidDicomError, EOFError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return dataset


def _files(folder: Path) -> Iterable[Path]:
    for parent, folders, names in os.walk(folder):
        folders.sort()
        yield from (
            Path(parent, name) for name in sorted(names) if not name.startswith(".") and Path(parent, name).is_file()
        )


def _decimal(value: Any) -> str:
    """Return a number as DICOM writes decimals: at most 16 characters."""
    from pydicom.valuerep import format_number_as_ds

    return str(format_number_as_ds(float(value)))


def _unusable(case: str, file: Path, expected: str, found: str) -> DataError:
    return DataError(
        case=case,
        file=file,
        expected=expected,
        found=found,
        fix="fetch the series again, or convert it with a tool that resamples, and check the result",
        code="file.damaged",
    )


def pydicom_package() -> Any:
    """Return pydicom.

    Raises:
        MskdError: If it is not installed.
    """
    try:
        import pydicom
        import pydicom.uid
    except ImportError as error:
        raise MskdError("DICOM needs pydicom and highdicom: pip install 'mskd[dicom]'") from error
    return pydicom


def highdicom_package() -> Any:
    """Return highdicom.

    Raises:
        MskdError: If it is not installed.
    """
    try:
        import highdicom
    except ImportError as error:
        raise MskdError("DICOM needs pydicom and highdicom: pip install 'mskd[dicom]'") from error
    return highdicom
