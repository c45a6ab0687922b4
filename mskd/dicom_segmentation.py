"""Label maps as DICOM-SEG: one segment per organ, referring to the series that was segmented.

The one artefact that keeps identifiers: an archive can show a segmentation over its scan only if it carries the study,
series and patient of that scan, so highdicom copies them from there.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mskd import __version__
from mskd.dicom import LPS_TO_RAS, Affine, Series, highdicom_package, pydicom_package
from mskd.errors import DataError

# organ → keyword of the SNOMED CT code in pydicom's dictionary
CODES = {
    "liver": "Liver",
    "spleen": "Spleen",
    "kidney": "Kidney",
    "pancreas": "Pancreas",
    "gallbladder": "Gallbladder",
    "stomach": "Stomach",
    "aorta": "Aorta",
    "esophagus": "Esophagus",
    "oesophagus": "Esophagus",
    "duodenum": "Duodenum",
    "colon": "Colon",
    "bladder": "Bladder",
    "prostate": "Prostate",
    "uterus": "Uterus",
    "inferior_vena_cava": "InferiorVenaCava",
    "adrenal_gland": "AdrenalGland",
}
SIDED = {
    "kidney_left": ("18639004", "Left kidney"),
    "left_kidney": ("18639004", "Left kidney"),
    "kidney_right": ("9846003", "Right kidney"),
    "right_kidney": ("9846003", "Right kidney"),
}


def write_segmentation(
    path: Path, labels: npt.NDArray[np.uint8], affine: Affine, names: Mapping[str, int], series: Series
) -> None:
    """Write a label map as DICOM-SEG.

    Args:
        path: File to write.
        labels: (X, Y, Z) in any axes.
        affine: Of the label map: 4 × 4, voxel index → world mm, RAS+.
        names: Organ → value.
        series: The CT series that it was made from.

    Raises:
        MskdError: If highdicom is not installed.
    """
    highdicom, pydicom = highdicom_package(), pydicom_package()
    sources = [pydicom.dcmread(file, stop_before_pixels=True) for file in series.files]
    numbers = {organ: number for number, organ in enumerate(names, start=1)}
    numbered = np.zeros(labels.shape, np.uint8)
    for organ, value in names.items():
        numbered[labels == value] = numbers[organ]
    frame = sources[0].FrameOfReferenceUID
    volume = highdicom.Volume(numbered, LPS_TO_RAS @ affine, "PATIENT", frame_of_reference_uid=frame)
    identity = [series.name, *(str(source.SOPInstanceUID) for source in sources[:1]), str(numbered.sum())]
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name="mskd", version=__version__, family=pydicom.sr.codedict.codes.DCM.ArtificialIntelligence
    )
    with warnings.catch_warnings():
        # of names and values that the scan has, and that are not ours to change
        warnings.simplefilter("ignore", UserWarning)
        segmentation = highdicom.seg.Segmentation(
            source_images=sources,
            pixel_array=volume.to_patient_orientation("HPL"),
            segmentation_type="BINARY",
            segment_descriptions=[
                highdicom.seg.SegmentDescription(
                    segment_number=number,
                    segment_label=organ,
                    segmented_property_category=pydicom.sr.codedict.codes.SCT.Organ,
                    segmented_property_type=_code(organ),
                    algorithm_type="AUTOMATIC",
                    algorithm_identification=algorithm,
                )
                for organ, number in numbers.items()
            ],
            series_instance_uid=pydicom.uid.generate_uid(entropy_srcs=[*identity, "series"]),
            series_number=1000,
            sop_instance_uid=pydicom.uid.generate_uid(entropy_srcs=[*identity, "instance"]),
            instance_number=1,
            manufacturer="mskd",
            manufacturer_model_name="mskd",
            software_versions=__version__,
            device_serial_number="0",
            content_description="Not for clinical use",
        )
    segmentation.save_as(path)


def read_segmentation(path: Path) -> tuple[npt.NDArray[np.uint8], Affine, dict[str, int]]:
    """Read a DICOM-SEG whose segments do not overlap.

    Returns:
        Label map (X, Y, Z) of the planes that hold a segment, its affine (RAS+, mm), organ → value.

    Raises:
        DataError: If it is none.
    """
    highdicom = highdicom_package()
    try:
        segmentation = highdicom.seg.segread(path)
        volume = segmentation.get_volume(combine_segments=True)
    except Exception as error:
        raise DataError(
            case=path.name,
            file=path,
            expected="a DICOM-SEG",
            found=f"{type(error).__name__}: {error}",
            fix="write it again",
        ) from error
    names = {
        segmentation.get_segment_description(number).segment_label: number for number in segmentation.segment_numbers
    }
    affine = (LPS_TO_RAS @ volume.affine)[:, [2, 1, 0, 3]]
    return volume.array.transpose(2, 1, 0).astype(np.uint8), affine, names


def _code(organ: str) -> Any:
    """Return the SNOMED CT code of an organ; that of organs in general for one that has none here."""
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    if organ in SIDED:
        value, meaning = SIDED[organ]
        return Code(value, "SCT", meaning)
    return getattr(codes.SCT, CODES[organ]) if organ in CODES else codes.SCT.Organ
