"""Labels as DICOM segmentation (SEG), and scans as a DICOM series that a segmentation can refer to.

A segmentation belongs to the series that it was drawn on. It carries the patient and study tags of that series, for a
PACS files it beside the scan by them alone: the one artefact of mskd that identifies a patient wherever its scan does.
A scan that is no DICOM, such as a NIfTI file, is first written as an anonymous series (`write_series`).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mskd import __version__
from mskd.dicom import Series, dicom_library, find_series, read_series_grid, single_series
from mskd.dicom_stack import LPS_TO_RAS, SAME_DIRECTION
from mskd.errors import DataError
from mskd.geometry import Affine, reorient
from mskd.provenance import array_digest
from mskd.storage import atomic_path

SERIES_NUMBER = 900
"""Series number of segmentations: behind those that scanners give."""

# Words of a name without its side → keyword of the SNOMED CT code in pydicom's dictionary.
_CODES = {
    "adrenal": "AdrenalGland",
    "adrenal gland": "AdrenalGland",
    "aorta": "Aorta",
    "bladder": "Bladder",
    "brain": "Brain",
    "colon": "Colon",
    "duodenum": "Duodenum",
    "esophagus": "Esophagus",
    "femur": "Femur",
    "gallbladder": "Gallbladder",
    "heart": "Heart",
    "inferior vena cava": "InferiorVenaCava",
    "ivc": "InferiorVenaCava",
    "kidney": "Kidney",
    "kidneys": "Kidney",
    "liver": "Liver",
    "lung": "Lung",
    "lungs": "Lung",
    "oesophagus": "Esophagus",
    "pancreas": "Pancreas",
    "portal vein": "PortalVein",
    "prostate": "Prostate",
    "rectum": "Rectum",
    "small bowel": "SmallIntestine",
    "small intestine": "SmallIntestine",
    "spleen": "Spleen",
    "splenic vein": "SplenicVein",
    "stomach": "Stomach",
    "thyroid": "Thyroid",
    "trachea": "Trachea",
    "urinary bladder": "Bladder",
    "uterus": "Uterus",
}
_SIDES = {"left": "Left", "l": "Left", "right": "Right", "r": "Right"}


@dataclass(frozen=True, slots=True)
class Segmentation:
    """A segmentation that was read.

    Attributes:
        labels: Segment numbers (X, Y, Z) on the grid of the source series, 0 where there is no segment.
        affine: Affine of the source series.
        names: Segment's label → segment number.
    """

    labels: npt.NDArray[np.uint8]
    affine: Affine
    names: dict[str, int]


def write_segmentation(
    path: Path,
    labels: npt.NDArray[np.uint8],
    affine: Affine,
    names: Mapping[str, int],
    source: Series | Path,
    case: str,
) -> None:
    """Write labels as a binary DICOM segmentation, one segment per organ in the order of their values.

    Organs that the names tell get their SNOMED CT code (with the side, for `left_kidney` and its like); others the code
    of tissue. The segment's label is the organ's name in any case. An organ without a voxel stays a segment.

    Args:
        path: File to write.
        labels: Values (X, Y, Z) in any axes.
        affine: Affine of the labels; must be that of the series, apart from the order and direction of axes.
        names: Organ → value; values that are not named must not occur.
        source: The CT series that was segmented, or its folder.
        case: Case id, for messages.

    Raises:
        DataError: If the source is no DICOM series, or the labels do not lie on its grid or hold other values.
        MskdError: If what writes DICOM is not installed, or the file cannot be written.
    """
    series = _series(source, case)
    on_series = _on_grid(labels, affine, series, case)
    unnamed = sorted({int(value) for value in np.unique(on_series)} - {0, *names.values()})
    if unnamed or not names:
        raise DataError(
            case=case,
            file=path,
            expected=f"labels of the organs {dict(names)}",
            found=f"values {unnamed}" if unnamed else "no organ",
            fix="give the label names of the model that predicted them",
        )
    organs = sorted(names, key=names.__getitem__)
    numbers = np.zeros(256, np.uint8)
    for number, organ in enumerate(organs, 1):
        numbers[names[organ]] = number
    highdicom, pydicom = dicom_library("highdicom"), dicom_library("pydicom")
    headers = [pydicom.dcmread(file, stop_before_pixels=True) for file in series.files]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # highdicom quotes the patient's name where it finds its form unusual
        segmentation = highdicom.seg.Segmentation(
            source_images=headers,
            pixel_array=np.ascontiguousarray(numbers[on_series].transpose(2, 1, 0)),  # (slices, rows, columns)
            segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[_segment(number, organ) for number, organ in enumerate(organs, 1)],
            series_instance_uid=highdicom.UID(),
            series_number=SERIES_NUMBER,
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            manufacturer="mskd",
            manufacturer_model_name="mskd",
            software_versions=__version__,
            device_serial_number="mskd",
            content_label="SEGMENTATION",
            content_description="Organs segmented by mskd, not for clinical use",
            series_description="mskd segmentation",
        )
    with atomic_path(path) as part:
        segmentation.save_as(part)


def read_segmentation(path: Path, source: Series | Path, case: str) -> Segmentation:
    """Read a segmentation on the grid of the series that it refers to.

    Args:
        path: A DICOM segmentation without overlaps.
        source: The CT series that was segmented, or its folder.
        case: Case id, for messages.

    Raises:
        DataError: If the source is no DICOM series, or the file is no segmentation of it.
        MskdError: If what reads DICOM is not installed.
    """
    series = _series(source, case)
    shape, affine = read_series_grid(series, case)
    highdicom, pydicom = dicom_library("highdicom"), dicom_library("pydicom")
    instances = [pydicom.dcmread(file, specific_tags=["SOPInstanceUID"]).SOPInstanceUID for file in series.files]
    try:
        segmentation = highdicom.seg.segread(path)
        strangers = {uid for *_, uid in segmentation.get_source_image_uids()} - set(instances)
        if strangers:
            raise ValueError(f"it refers to {len(strangers)} images of another series")
        frames = segmentation.get_pixels_by_source_instance(
            instances, combine_segments=True, assert_missing_frames_are_empty=True, dtype=np.uint8
        )
    except (OSError, EOFError, LookupError, ValueError, AttributeError, TypeError, RuntimeError) as error:
        raise DataError(
            case=case,
            file=path,
            expected=f"a DICOM segmentation of the series in {series.folder}",
            found=f"{type(error).__name__}: {error}",
            fix="give the series that the segmentation was made from",
        ) from error
    labels = np.ascontiguousarray(frames.transpose(2, 1, 0))
    if labels.shape != shape:
        raise DataError(
            case=case,
            file=path,
            expected=f"the shape of its series, {shape}",
            found=f"{labels.shape}",
            fix="give the series that the segmentation was made from",
        )
    described = (segmentation.get_segment_description(number) for number in segmentation.segment_numbers)
    return Segmentation(labels, affine, {str(item.segment_label): int(item.segment_number) for item in described})


def write_series(folder: Path, scan_hu: npt.NDArray[Any], affine: Affine, case: str) -> Series:
    """Write a scan as an anonymous CT series, so that a segmentation can refer to it.

    The axes are turned so that columns, rows and slices run as nearly as possible to left, posterior and superior;
    every voxel keeps its place. Identifiers are made of the content: the same scan gives the same files.

    Args:
        folder: Folder to write; one that exists is replaced.
        scan_hu: Scan (X, Y, Z) in any axes, in HU; rounded, and limited to the range of int16.
        affine: Its affine.
        case: Case id, for messages; it is not written.

    Returns:
        The series as `find_series` finds it.

    Raises:
        DataError: If the axes of the scan are not at right angles, which DICOM cannot express.
        MskdError: If what writes DICOM is not installed, or the files cannot be written.
    """
    array, lps = reorient(scan_hu, LPS_TO_RAS @ affine, np.eye(4))
    if np.linalg.det(lps[:3, :3]) < 0:  # a grid so oblique that its nearest axes are mirrored
        flip = np.diag([1.0, 1.0, -1.0, 1.0])
        flip[2, 3] = array.shape[2] - 1
        array, lps = array[:, :, ::-1], lps @ flip
    spacing_mm = np.linalg.norm(lps[:3, :3], axis=0)
    directions = lps[:3, :3] / spacing_mm
    if np.abs(directions.T @ directions - np.eye(3)).max() > SAME_DIRECTION:
        raise DataError(
            case=case,
            file=folder,
            expected="a scan with axes at right angles",
            found=f"the affine {np.round(affine, 3).tolist()}",
            fix="resample the scan to a straight grid",
        )
    whole = np.iinfo(np.int16)
    pixels = np.clip(np.rint(array), whole.min, whole.max).astype("<i2")
    common = _series_header(array_digest(pixels, lps), lps, pixels.shape)
    pydicom = dicom_library("pydicom")
    with atomic_path(folder) as part:
        part.mkdir()
        for index in range(pixels.shape[2]):
            image = _slice_header(common, index, lps)
            image.PixelData = np.ascontiguousarray(pixels[:, :, index].T).tobytes()
            image["PixelData"].VR = "OW"
            pydicom.dcmwrite(part / f"slice{index + 1:04d}.dcm", image, enforce_file_format=True)
    return find_series(folder)[0]


def _series(source: Series | Path, case: str) -> Series:
    """Return a series, or the only one of a folder."""
    if isinstance(source, Path) and not source.is_dir():
        raise DataError(
            case=case,
            file=source,
            expected="a scan in DICOM: a segmentation refers to the images that it was drawn on",
            found="a single file",
            fix="write the scan as a series first (mskd.dicom_segmentation.write_series), and refer to that",
        )
    return single_series(source, case)


def _on_grid(labels: npt.NDArray[np.uint8], affine: Affine, series: Series, case: str) -> npt.NDArray[np.uint8]:
    """Return labels in the axes of a series."""
    shape, wanted = read_series_grid(series, case)
    turned, found = reorient(labels, affine, wanted)
    tolerance_mm = 0.1 * float(np.linalg.norm(wanted[:3, :3], axis=0).min())
    if turned.shape != shape or not np.allclose(found, wanted, rtol=0, atol=tolerance_mm):
        raise DataError(
            case=case,
            file=series.folder,
            expected=f"labels on the grid of the series, shape {shape} and affine {np.round(wanted, 3).tolist()}",
            found=f"shape {turned.shape} and affine {np.round(found, 3).tolist()}",
            fix="give the series that was segmented",
        )
    return turned


def _segment(number: int, organ: str) -> Any:
    """Return the description of an organ's segment."""
    highdicom, codes = dicom_library("highdicom"), dicom_library("pydicom.sr.codedict").codes
    words = re.sub(r"[\s_-]+", " ", organ.lower()).strip().split(" ")
    sides = [_SIDES[word] for word in words if word in _SIDES]
    keyword = _CODES.get(" ".join(word for word in words if word not in _SIDES))
    description = highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=organ,
        segmented_property_category=codes.SCT.AnatomicalStructure if keyword else codes.SCT.Tissue,
        segmented_property_type=getattr(codes.SCT, keyword) if keyword else codes.SCT.Tissue,
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name="mskd", version=__version__, family=codes.DCM.ArtificialIntelligence
        ),
    )
    if keyword and len(sides) == 1:
        side = getattr(codes.SCT, sides[0])
        concept = highdicom.sr.CodedConcept.from_code(side)
        description.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [concept]
    return description


def _series_header(digest: str, lps: Affine, shape: tuple[int, ...]) -> Any:
    """Return what all slices of a series share."""
    pydicom = dicom_library("pydicom")
    spacing_mm = np.linalg.norm(lps[:3, :3], axis=0)
    header = pydicom.Dataset()
    header.SOPClassUID = pydicom.uid.CTImageStorage
    header.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
    header.Modality = "CT"
    header.Manufacturer = "mskd"
    header.SoftwareVersions = __version__
    header.SeriesDescription = "CT written by mskd"
    header.PatientName, header.PatientID = "Anonymous", digest[:16]
    header.PatientIdentityRemoved, header.DeidentificationMethod = "YES", "Written from voxels and affine alone"
    for empty in (
        *("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID", "AccessionNumber"),
        *("ReferringPhysicianName", "PatientPosition", "PositionReferenceIndicator", "KVP", "AcquisitionNumber"),
    ):
        setattr(header, empty, None)
    header.SeriesNumber = 1
    header.StudyInstanceUID = _uid(digest, "study")
    header.SeriesInstanceUID = _uid(digest, "series")
    header.FrameOfReferenceUID = _uid(digest, "frame of reference")
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.Columns, header.Rows = shape[0], shape[1]
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 16, 15, 1
    header.RescaleSlope, header.RescaleIntercept, header.RescaleType = 1, 0, "HU"
    header.PixelSpacing = _decimals([spacing_mm[1], spacing_mm[0]])
    header.SliceThickness = header.SpacingBetweenSlices = _decimals([spacing_mm[2]])[0]
    header.ImageOrientationPatient = _decimals([*(lps[:3, 0] / spacing_mm[0]), *(lps[:3, 1] / spacing_mm[1])])
    return header


def _slice_header(common: Any, index: int, lps: Affine) -> Any:
    """Return the header of a slice."""
    pydicom = dicom_library("pydicom")
    header = pydicom.Dataset(common)
    header.InstanceNumber = index + 1
    header.ImagePositionPatient = _decimals((lps @ [0, 0, index, 1])[:3])
    header.SOPInstanceUID = _uid(common.SeriesInstanceUID, f"slice {index}")
    header.file_meta = pydicom.dataset.FileMetaDataset()
    header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID
    header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
    header.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    return header


def _uid(*sources: str) -> str:
    """Return a UID made of texts."""
    return str(dicom_library("pydicom").uid.generate_uid(entropy_srcs=list(sources)))


def _decimals(numbers: Any) -> list[str]:
    """Return numbers as DICOM decimal strings, at most 16 characters."""
    return [dicom_library("pydicom.valuerep").format_number_as_ds(float(number)) for number in numbers]
