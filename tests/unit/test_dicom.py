"""CT series in DICOM: found by their headers, read in HU with the right affine, or refused with a reason."""

from __future__ import annotations

import locale
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless, RLELossless, generate_uid

from mskd import dicom
from mskd.dicom import find_series, read_series, read_series_grid
from mskd.errors import DataError, MskdError
from mskd.provenance import file_digest
from mskd.scans import read_scan, read_scan_grid
from tests.unit.made_series import AXIAL, SECRET, Edit, made_hu, made_series, set_tag

OBLIQUE = (0.96, 0.28, 0.0, -0.28 * 0.8, 0.96 * 0.8, 0.6)
ORIENTATIONS = {
    "axial": AXIAL,
    "sagittal": (0.0, 1.0, 0.0, 0.0, 0.0, -1.0),
    "coronal": (1.0, 0.0, 0.0, 0.0, 0.0, -1.0),
    "prone": (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0),
    "oblique": OBLIQUE,
}


def fault(source: Path) -> DataError:
    with pytest.raises(DataError) as caught:
        read_series(source, "set/case")
    assert "way out" in str(caught.value)
    assert SECRET not in str(caught.value)
    assert "4711" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("orientation", ORIENTATIONS.values(), ids=ORIENTATIONS)
def test_voxels_and_affine(tmp_path: Path, orientation: tuple[float, ...]) -> None:
    hu = made_hu()
    affine = made_series(tmp_path, hu, orientation=orientation)
    array, found = read_series(tmp_path, "a")
    np.testing.assert_array_equal(array, hu)
    assert array.dtype == np.int16
    np.testing.assert_allclose(found, affine, atol=1e-5)
    shape, grid = read_series_grid(tmp_path, "a")
    assert shape == hu.shape
    np.testing.assert_array_equal(grid, found)


def test_axial_affine_by_hand(tmp_path: Path) -> None:
    made_series(tmp_path, made_hu(), origin_mm=(-10, 20, 30), spacing_mm=(0.75, 0.5, 2.5))
    expected = [[-0.75, 0, 0, 10], [0, -0.5, 0, -20], [0, 0, 2.5, 30], [0, 0, 0, 1]]
    np.testing.assert_allclose(read_series(tmp_path, "a")[1], expected)


def test_order_is_that_of_positions(tmp_path: Path) -> None:
    hu = made_hu()
    made_series(tmp_path, hu, names=["e", "b", "d", "a", "c"])
    np.testing.assert_array_equal(read_series(tmp_path, "a")[0], hu)
    assert [file.name for file in find_series(tmp_path)[0].files] == ["e", "b", "d", "a", "c"]


def test_agrees_with_an_independent_reader(tmp_path: Path) -> None:
    """The whole volume as SimpleITK's series reader places it."""
    made_series(tmp_path, made_hu(), orientation=OBLIQUE)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    image = reader.Execute()
    array, affine = read_series(tmp_path, "a")
    np.testing.assert_array_equal(array, SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0))
    for index in [(0, 0, 0), (6, 0, 0), (0, 5, 0), (3, 2, 4)]:
        world = np.asarray(image.TransformIndexToPhysicalPoint(index)) * [-1, -1, 1]
        np.testing.assert_allclose((affine @ [*index, 1])[:3], world, atol=1e-4)


def test_rescale_of_each_slice(tmp_path: Path) -> None:
    def edit(ds: Dataset, index: int) -> None:
        ds.RescaleSlope, ds.RescaleIntercept = index + 1, -100 * index

    hu = made_hu()
    made_series(tmp_path, hu, edit=edit)
    array = read_series(tmp_path, "a")[0]
    np.testing.assert_array_equal(array, hu.astype(int) * np.arange(1, 6) - 100 * np.arange(5))
    assert array.dtype == np.int16


def test_fractional_rescale(tmp_path: Path) -> None:
    made_series(tmp_path, made_hu(), edit=set_tag("RescaleSlope", 0.5, only=2))
    array = read_series(tmp_path, "a")[0]
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, made_hu() * np.asarray([1, 1, 0.5, 1, 1]))


def test_unsigned_values_beyond_int16(tmp_path: Path) -> None:
    def edit(ds: Dataset, index: int) -> None:
        ds.PixelRepresentation = 0
        ds.PixelData = np.full((6, 7), 65535, np.uint16).tobytes()
        ds.RescaleIntercept = -1024

    made_series(tmp_path, made_hu(), edit=edit)
    assert np.unique(read_series(tmp_path, "a")[0]).tolist() == [64511.0]


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless], ids=["rle", "jpeg-ls"])
def test_compressed(tmp_path: Path, syntax: str) -> None:
    hu = made_hu((16, 12, 3))
    made_series(tmp_path, hu, syntax=syntax)
    np.testing.assert_array_equal(read_series(tmp_path, "a")[0], hu)


@pytest.fixture
def kept_locale() -> Iterator[None]:
    """Undo what GDCM's writer does to the process (its reader does not): it sets the locale, and with it encodings."""
    before = locale.setlocale(locale.LC_ALL)
    yield
    locale.setlocale(locale.LC_ALL, before)


@pytest.mark.usefixtures("kept_locale")
@pytest.mark.parametrize("compressor", ["JPEG", "JPEG2000"])
def test_compressed_as_archives_do(tmp_path: Path, compressor: str) -> None:
    """JPEG lossless (process 14) and JPEG 2000, written by GDCM, for pydicom writes neither."""
    hu = made_hu((16, 12, 3))
    affine = made_series(tmp_path / "raw", hu)
    (tmp_path / "small").mkdir()
    for file in (tmp_path / "raw").iterdir():
        image = SimpleITK.ReadImage(str(file), imageIO="GDCMImageIO")
        stored = SimpleITK.Cast(image, SimpleITK.sitkInt16)
        for tag in image.GetMetaDataKeys():
            stored.SetMetaData(tag, image.GetMetaData(tag))
        writer = SimpleITK.ImageFileWriter()
        writer.SetImageIO("GDCMImageIO")
        writer.KeepOriginalImageUIDOn()
        writer.UseCompressionOn()
        writer.SetCompressor(compressor)
        writer.SetFileName(str(tmp_path / "small" / f"{file.name}.dcm"))
        writer.Execute(stored)
        syntax = pydicom.dcmread(tmp_path / "small" / f"{file.name}.dcm").file_meta.TransferSyntaxUID
        assert syntax == {"JPEG": JPEGLosslessSV1, "JPEG2000": JPEG2000Lossless}[compressor]
    array, found = read_series(tmp_path / "small", "a")
    np.testing.assert_array_equal(array, hu)
    np.testing.assert_allclose(found, affine, atol=1e-5)


def test_positions_rounded_to_a_tenth_of_a_slice(tmp_path: Path) -> None:
    def edit(ds: Dataset, index: int) -> None:
        ds.ImagePositionPatient = [-12.5, 40.25, round(-100 + 0.625 * index, 1)]

    affine = made_series(tmp_path, made_hu((4, 4, 33)), spacing_mm=(1, 1, 0.625), edit=edit)
    np.testing.assert_allclose(read_series(tmp_path, "a")[1], affine, atol=1e-6)


class TestFindSeries:
    def test_names_come_from_folders(self, tmp_path: Path) -> None:
        made_series(tmp_path / "p2" / "study" / "ax", made_hu())
        made_series(tmp_path / "p10" / "study", made_hu())
        made_series(tmp_path / "p1" / "1.2.826.0.1.3680043.2.1125.1" / "ax 3/mm", made_hu())
        assert [series.name for series in find_series(tmp_path)] == ["p1_ax_3_mm", "p2_study_ax", "p10_study"]
        assert find_series(tmp_path / "p10")[0].name == "study"
        assert find_series(tmp_path / "p10" / "study")[0].name == "study"

    def test_several_in_a_folder_are_numbered(self, tmp_path: Path) -> None:
        for series in "ba":
            made_series(tmp_path / "p", made_hu(), names=[f"{series}{i}" for i in range(5)])
        made_series(tmp_path / "p-1", made_hu())
        found = find_series(tmp_path)
        assert [(series.name, series.files[0].name) for series in found] == [
            ("p-2", "a0"),
            ("p-3", "b0"),
            ("p-1", "IM000"),
        ]

    def test_one_series_in_several_folders(self, tmp_path: Path) -> None:
        hu, uid = made_hu(), generate_uid()
        made_series(tmp_path / "s", hu, names=[f"{i // 2}_{i}" for i in range(5)], uid=uid)
        for file in list((tmp_path / "s").iterdir()):
            (tmp_path / "s" / f"part{file.name[0]}").mkdir(exist_ok=True)
            file.rename(tmp_path / "s" / f"part{file.name[0]}" / file.name)
        assert [series.name for series in find_series(tmp_path)] == ["s"]
        np.testing.assert_array_equal(read_series(tmp_path, "a")[0], hu)

    def test_other_files_are_ignored(self, tmp_path: Path) -> None:
        hu = made_hu()
        made_series(tmp_path / "ct", hu)
        made_series(tmp_path / "scout", hu[:, :, :1], edit=set_tag("ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"]))
        made_series(tmp_path / "mr", hu, edit=set_tag("Modality", "MR"))

        def segmentation(ds: Dataset, index: int) -> None:
            ds.Modality = "SEG"
            ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = pydicom.uid.SegmentationStorage

        made_series(tmp_path / "seg", hu[:, :, :1], edit=segmentation)

        def directory(ds: Dataset, index: int) -> None:
            ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = pydicom.uid.MediaStorageDirectoryStorage

        made_series(tmp_path, hu[:, :, :1], names=["DICOMDIR"], edit=directory)
        (tmp_path / "ct" / "notes.txt").write_text("x" * 500)
        (tmp_path / "ct" / ".hidden").write_bytes(b"\0" * 128 + b"DICM")
        assert [series.name for series in find_series(tmp_path)] == ["ct"]
        np.testing.assert_array_equal(read_series(tmp_path, "a")[0], hu)

    def test_links_in_a_circle(self, tmp_path: Path) -> None:
        made_series(tmp_path / "ct", made_hu())
        (tmp_path / "ct" / "again").symlink_to(tmp_path)
        assert len(find_series(tmp_path)) == 1

    def test_no_patient_in_what_is_kept(self, tmp_path: Path) -> None:
        made_series(tmp_path, made_hu())
        text = repr(find_series(tmp_path))
        assert SECRET not in text
        assert "4711" not in text
        assert "2020" not in text

    def test_empty(self, tmp_path: Path) -> None:
        assert find_series(tmp_path) == []


class TestFaults:
    def test_no_series(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("a")
        assert fault(tmp_path).found == "no DICOM image among 1 files"
        made_series(tmp_path / "mr", made_hu(), edit=set_tag("Modality", "MR"))
        assert fault(tmp_path).found == "DICOM files: 5 of MR"

    def test_several_series(self, tmp_path: Path) -> None:
        made_series(tmp_path / "thin", made_hu())
        made_series(tmp_path / "thick", made_hu((4, 4, 3)))
        error = fault(tmp_path)
        assert error.found == "2: thick (3 files), thin (5 files)"
        assert "give the folder of the one" in error.fix
        assert read_series(tmp_path / "thick", "a")[0].shape == (4, 4, 3)

    @pytest.mark.parametrize("lost", [1, 2, 3])
    def test_missing_slice(self, tmp_path: Path, lost: int) -> None:
        made_series(tmp_path, made_hu())
        (tmp_path / f"IM{lost:03d}").unlink()
        error = fault(tmp_path)
        assert error.found == f"2.5 mm mostly, 5 mm between IM{lost - 1:03d} and IM{lost + 1:03d} (missing slices?)"

    def test_uneven_spacing(self, tmp_path: Path) -> None:
        made_series(tmp_path, made_hu(), edit=set_tag("ImagePositionPatient", [-12.5, 40.25, -95.7], only=2))
        assert "3 mm" not in (found := fault(tmp_path).found)
        assert "1.8 mm at the narrowest" in found

    def test_position_twice(self, tmp_path: Path) -> None:
        made_series(tmp_path, made_hu())
        shutil.copy(tmp_path / "IM002", tmp_path / "copy")
        error = fault(tmp_path)
        assert error.found == "1 positions twice, such as that of IM002 and copy"
        assert "phases" in error.fix

    @pytest.mark.parametrize(
        ("edit", "said"),
        [
            (set_tag("PixelSpacing", [0.5, 0.76], only=3), "PixelSpacing [0.5, 0.75], as in IM000"),
            (set_tag("ImageOrientationPatient", list(OBLIQUE), only=3), "ImageOrientationPatient"),
            (set_tag("Rows", 5, only=3), "rows and columns [6, 7]"),
            (set_tag("PixelSpacing", None, only=3), "the tag PixelSpacing"),
            (set_tag("ImagePositionPatient", None, only=3), "the tag ImagePositionPatient"),
            (set_tag("ImageOrientationPatient", None, only=3), "the tag ImageOrientationPatient"),
        ],
    )
    def test_slices_that_differ(self, tmp_path: Path, edit: Edit, said: str) -> None:
        made_series(tmp_path, made_hu(), edit=edit)
        error = fault(tmp_path)
        assert said in error.expected
        assert error.file.endswith("IM003")

    def test_directions_that_are_none(self, tmp_path: Path) -> None:
        made_series(tmp_path, made_hu(), edit=set_tag("ImageOrientationPatient", [1, 0, 0, 0.5, 1, 0]))
        assert "right angles" in fault(tmp_path).expected

    def test_gantry_tilt(self, tmp_path: Path) -> None:
        def edit(ds: Dataset, index: int) -> None:
            ds.ImagePositionPatient = [-12.5, 40.25 + 0.5 * index, -100 + 2.5 * index]

        made_series(tmp_path, made_hu(), edit=edit)
        assert fault(tmp_path).found == "a stack 10 mm high that leans by 2 mm (gantry tilt)"

    def test_single_slice(self, tmp_path: Path) -> None:
        made_series(tmp_path, made_hu((4, 4, 1)))
        assert fault(tmp_path).expected == "at least 2 slices"

    def test_multi_frame(self, tmp_path: Path) -> None:
        def edit(ds: Dataset, index: int) -> None:
            ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = pydicom.uid.EnhancedCTImageStorage
            ds.NumberOfFrames = 1

        made_series(tmp_path, made_hu((4, 4, 1)), edit=edit)
        assert "multi-frame" in fault(tmp_path).found

    def test_colours(self, tmp_path: Path) -> None:
        def edit(ds: Dataset, index: int) -> None:
            ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
            ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
            ds.PixelData = bytes(6 * 7 * 3)

        made_series(tmp_path, made_hu(), edit=edit)
        assert "values of shape (1, 6, 7, 3)" in fault(tmp_path).found

    def test_absurd_size(self, tmp_path: Path) -> None:
        def edit(ds: Dataset, index: int) -> None:
            ds.Rows, ds.Columns = 65535, 65535

        made_series(tmp_path, made_hu(), edit=edit)
        assert "at most" in fault(tmp_path).expected

    @pytest.mark.parametrize("where", [0, 2, 4])
    @pytest.mark.parametrize("kept", [0.2, 0.4, 0.6, 0.8, 0.9, 0.99])
    def test_truncated_file(self, tmp_path: Path, where: int, kept: float) -> None:
        """A slice cut off anywhere is noticed, at the ends of the stack too."""
        made_series(tmp_path, made_hu((16, 16, 5)))
        file = tmp_path / f"IM{where:03d}"
        file.write_bytes(file.read_bytes()[: int(kept * file.stat().st_size)])
        error = fault(tmp_path)
        assert error.file == str(file)
        assert "complete DICOM" in error.expected

    def test_empty_dcm_file(self, tmp_path: Path) -> None:
        made_series(tmp_path, made_hu())
        (tmp_path / "IM005.dcm").touch()
        assert fault(tmp_path).file.endswith("IM005.dcm")

    def test_random_bytes_in_the_header_raise_nothing_else(self, tmp_path: Path) -> None:
        made_series(tmp_path, made_hu((4, 4, 2)))
        file, random = tmp_path / "IM001", np.random.default_rng(0)
        original = np.frombuffer(file.read_bytes(), np.uint8)
        for _ in range(60):
            changed = original.copy()
            changed[random.integers(132, len(changed), 4)] = random.integers(0, 256, 4)
            file.write_bytes(changed.tobytes())
            try:
                read_series(tmp_path, "a")
            except DataError:
                continue

    def test_no_folder(self, tmp_path: Path) -> None:
        assert "no such file" in fault(tmp_path / "nowhere").found

    @pytest.mark.parametrize("missing", ["pydicom", "SimpleITK"])
    def test_missing_library(self, tmp_path: Path, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
        made_series(tmp_path, made_hu())
        imported = dicom.importlib.import_module

        def without(name: str, package: str | None = None) -> Any:
            if name == missing:
                raise ImportError(name)
            return imported(name, package)

        monkeypatch.setattr(dicom.importlib, "import_module", without)
        with pytest.raises(MskdError, match=rf"{missing}: pip install 'mskd\[dicom\]'"):
            read_series(tmp_path, "a")


def test_a_folder_is_a_scan(tmp_path: Path) -> None:
    hu = made_hu()
    affine = made_series(tmp_path / "ct", hu)
    array, found = read_scan(tmp_path / "ct", "a")
    np.testing.assert_array_equal(array, hu)
    np.testing.assert_allclose(found, affine)
    shape, grid = read_scan_grid(tmp_path / "ct", "a")
    assert shape == hu.shape
    np.testing.assert_array_equal(grid, found)
    nib.save(nib.Nifti1Image(hu, affine), tmp_path / "ct.nii.gz")
    np.testing.assert_array_equal(read_scan(tmp_path / "ct.nii.gz", "a")[0], hu)


def test_digest_of_a_folder(tmp_path: Path) -> None:
    made_series(tmp_path / "a" / "x", made_hu((4, 4, 3)))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    digest = file_digest(tmp_path / "a")
    assert file_digest(tmp_path / "b") == digest
    (tmp_path / "b" / ".DS_Store").touch()
    assert file_digest(tmp_path / "b") == digest
    last = tmp_path / "b" / "x" / "IM002"
    content = last.read_bytes()
    last.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert file_digest(tmp_path / "b") != digest
    last.write_bytes(content)
    assert file_digest(tmp_path / "b") == digest
    last.rename(last.with_name("IM003"))
    assert file_digest(tmp_path / "b") != digest
