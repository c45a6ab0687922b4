"""Synthetic CT series, written with pydicom the way scanners and archives write them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SECRET = "Doe^Jane"

Edit = Callable[[Dataset, int], None]


def made_hu(shape: tuple[int, int, int] = (7, 6, 5)) -> npt.NDArray[np.int16]:
    """Return an array (X, Y, Z) in which every voxel has its own value."""
    return (np.arange(np.prod(shape)).reshape(shape) * 3 - 300).astype(np.int16)


def made_series(
    folder: Path,
    hu: npt.NDArray[np.int16],
    *,
    orientation: Sequence[float] = AXIAL,
    origin_mm: Sequence[float] = (-12.5, 40.25, -100.0),
    spacing_mm: Sequence[float] = (0.75, 0.5, 2.5),
    syntax: str = ExplicitVRLittleEndian,
    names: Sequence[str] | None = None,
    uid: str | None = None,
    edit: Edit | None = None,
) -> npt.NDArray[np.float64]:
    """Write a series and return its affine (RAS+), written down from the standard's equation C.7.6.2.1-1.

    Args:
        folder: Where to write.
        hu: Columns, rows, slices.
        orientation: ImageOrientationPatient.
        origin_mm: ImagePositionPatient of the first slice.
        spacing_mm: Between columns, rows, slices.
        syntax: Transfer syntax.
        names: File name by slice.
        uid: SeriesInstanceUID.
        edit: Changes the header of a slice, given its index, before it is written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    row, column = np.asarray(orientation[:3]), np.asarray(orientation[3:])
    normal = np.cross(row, column)
    uid = uid or generate_uid()
    for index in range(hu.shape[2]):
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = CTImageStorage
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(entropy_srcs=[uid, "study"]), uid
        ds.FrameOfReferenceUID = generate_uid(entropy_srcs=[uid, "frame"])
        ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = SECRET, "4711", "19700101", "F"
        ds.StudyDate, ds.StudyTime, ds.AccessionNumber, ds.StudyID = "20200101", "120000", "A1", "S1"
        ds.ReferringPhysicianName = "Who^Dr"
        ds.ImageType, ds.Modality = ["ORIGINAL", "PRIMARY", "AXIAL"], "CT"
        ds.InstanceNumber = hu.shape[2] - index  # of no use to order slices
        position = np.asarray(origin_mm) + index * spacing_mm[2] * normal
        ds.ImagePositionPatient = [round(float(v), 6) for v in position]
        ds.ImageOrientationPatient = [round(float(v), 9) for v in orientation]
        ds.PixelSpacing = [spacing_mm[1], spacing_mm[0]]
        ds.SliceThickness = 5
        ds.Rows, ds.Columns = hu.shape[1], hu.shape[0]
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
        ds.RescaleSlope, ds.RescaleIntercept = 1, 0
        ds.PixelData = np.ascontiguousarray(hu[:, :, index].T).tobytes()
        ds["PixelData"].VR = "OW"
        if edit is not None:
            edit(ds, index)
        if syntax != ExplicitVRLittleEndian:
            ds.compress(syntax)
        name = names[index] if names else f"IM{index:03d}"
        pydicom.dcmwrite(folder / name, ds, enforce_file_format=True)
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1] = row * spacing_mm[0], column * spacing_mm[1]
    lps[:3, 2], lps[:3, 3] = normal * spacing_mm[2], origin_mm
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps


def set_tag(name: str, value: Any, only: int | None = None) -> Edit:
    """Return an edit that sets a tag of all slices, or of one."""

    def edit(ds: Dataset, index: int) -> None:
        if only is None or index == only:
            setattr(ds, name, value)

    return edit
