"""Populations of deformed copies of the user's label map, with and without its CT."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from mskd.config.phantom import PhantomDataset
from mskd.errors import ConfigError, DataError
from mskd.phantom.cases import simulate_case
from mskd.phantom.population import write_dataset
from mskd.phantom.tissue import ORGAN_VALUES

SPACING_MM = 5.0
LABEL_MAP = {1: "soft_tissue", 2: "liver", 3: "spleen", 7: "fat"}
LIVER, SPLEEN = ORGAN_VALUES["liver"], ORGAN_VALUES["spleen"]


@pytest.fixture
def atlas(tmp_path: Path) -> dict[str, Any]:
    """Return the options of an atlas: a box of fat and soft tissue with a liver right and a spleen left."""
    labels = np.zeros((56, 44, 40), np.uint8)
    labels[6:50, 6:38] = 7
    labels[9:47, 9:35] = 1
    labels[31:45, 12:30, 10:30] = 2
    labels[12:20, 14:24, 16:28] = 3
    # Stored with another axis order and sign, as files of other programs are.
    affine = np.diag([-SPACING_MM, SPACING_MM, SPACING_MM, 1.0])
    save(tmp_path / "labels.nii.gz", labels[::-1], affine)
    ct = np.full(labels.shape, -1000, np.int16)
    for value, hu in ((7, -100), (1, 40), (2, 60), (3, 200)):
        ct[labels == value] = hu
    save(tmp_path / "ct.nii.gz", ct[::-1], affine)
    return {"labels": tmp_path / "labels.nii.gz", "label_map": LABEL_MAP}


def save(path: Path, array: NDArray[Any], affine: NDArray[np.float64]) -> None:
    nib.save(nib.Nifti1Image(array, affine), path)


def spec(atlas: dict[str, Any], **options: Any) -> PhantomDataset:
    scanner = {
        "spacing_mm": (5.0, 5.0, 5.0),
        "slice_thickness_mm": 5.0,
        "fov_mm": (325.0, 260.0, 200.0),
        "noise_hu": 0.0,
        "blur_mm": 0.0,
    }
    plain = {"layout": "btcv", "organs": [], "seed": 1, "n_train": 1, "n_val": 0, "n_test": 1}
    return PhantomDataset.model_validate({**plain, "atlas": atlas, "scanner": scanner, **options})


def volume(labels: NDArray[np.uint8], value: int) -> int:
    return int((labels == value).sum())


def test_without_deformation_the_atlas_comes_back(atlas: dict[str, Any]) -> None:
    options = spec(atlas, deformation=0.0)
    scanner = options.scanner.model_copy(update={"jitter": 0.0})
    found = simulate_case(options.model_copy(update={"scanner": scanner}), 0)
    assert set(np.unique(found.labels)) == {0, LIVER, SPLEEN}
    assert volume(found.labels, LIVER) == 14 * 18 * 20
    assert volume(found.labels, SPLEEN) == 8 * 10 * 12
    # In canonical axes the liver lies on the greater side of x, the patient's right.
    liver, spleen = (np.argwhere(found.labels == value).mean(axis=0) for value in (LIVER, SPLEEN))
    assert (liver - spleen).tolist() == pytest.approx([37.5 - 15.5, 20.5 - 18.5, 19.5 - 21.5])


def test_hu_come_by_tissue(atlas: dict[str, Any]) -> None:
    found = simulate_case(spec(atlas), 0)
    liver = found.image[found.labels == LIVER]
    assert 85 < np.median(liver) < 125
    assert np.median(found.image[found.labels == SPLEEN]) > np.median(liver) - 5
    body = found.image[found.image > -200]
    assert -130 < np.median(body[body < -20]) < -80
    assert found.image.min() < -990
    unenhanced = spec(atlas).scanner.model_copy(update={"phase": "unenhanced"})
    plain = simulate_case(spec(atlas).model_copy(update={"scanner": unenhanced}), 0)
    assert 40 < np.median(plain.image[plain.labels == LIVER]) < 72


def test_copies_are_deformed_and_repeatable(atlas: dict[str, Any]) -> None:
    first, again, other = (simulate_case(spec(atlas), index) for index in (0, 0, 1))
    assert np.array_equal(first.image, again.image)
    liver = first.labels == LIVER, other.labels == LIVER
    overlap = 2 * (liver[0] & liver[1]).sum() / (liver[0].sum() + liver[1].sum())
    assert 0.5 < overlap < 0.97
    assert 0.7 < liver[0].sum() / (14 * 18 * 20) < 1.4


def test_ct_is_deformed_with_its_labels(atlas: dict[str, Any], tmp_path: Path) -> None:
    found = simulate_case(spec({**atlas, "ct": tmp_path / "ct.nii.gz"}), 0)
    # The HU of the file, not those of the phase.
    assert np.median(found.image[found.labels == SPLEEN]) == 200
    assert np.median(found.image[found.labels == LIVER]) == 60
    assert (found.image[found.labels == SPLEEN] > 110).mean() > 0.95
    assert ((found.image > 160) & (found.labels != SPLEEN)).sum() < 20


def test_scale_enlarges_the_copies(atlas: dict[str, Any]) -> None:
    one, larger = (simulate_case(spec(atlas, scale=scale, deformation=0.0), 0) for scale in (1.0, 1.2))
    assert volume(larger.labels, SPLEEN) / volume(one.labels, SPLEEN) == pytest.approx(1.2**3, rel=0.1)


def test_a_dataset_is_made_again_when_the_atlas_changes(atlas: dict[str, Any], tmp_path: Path) -> None:
    first = write_dataset(tmp_path / "out", spec(atlas), key="k")
    assert write_dataset(tmp_path / "out", spec(atlas), key="k") == first
    image = nib.load(atlas["labels"])
    labels = np.asarray(image.dataobj).copy()
    labels[labels == 3] = 1
    labels[40:44, 20:24, 20:24] = 3
    moved = tmp_path / "moved.nii.gz"
    save(moved, labels, image.affine)
    moved.replace(atlas["labels"])
    second = write_dataset(tmp_path / "out", spec(atlas), key="k")
    assert second.keys() == first.keys()
    assert all(second[name]["withheld"] != first[name]["withheld"] for name in first)


def test_single_organ_datasets_of_an_atlas(atlas: dict[str, Any], tmp_path: Path) -> None:
    options = {"layout": "msd", "task": "Task09_Spleen", "organs": ["spleen"]}
    write_dataset(tmp_path / "out", spec(atlas, **options), key="k")
    label = np.asarray(nib.load(tmp_path / "out/labelsTr/spleen_000.nii.gz").dataobj)
    withheld = np.asarray(nib.load(tmp_path / "out/withheld/spleen_000.nii.gz").dataobj)
    assert np.array_equal(label == 1, withheld == SPLEEN)
    assert set(np.unique(withheld)) == {0, LIVER, SPLEEN}


def test_unknown_tissue_is_refused(atlas: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=re.escape("atlas.label_map: 2: 'livr' is no tissue; known are")):
        simulate_case(spec({**atlas, "label_map": {2: "livr"}}), 0)


def test_organ_without_a_value_is_refused(atlas: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"no value for kidney; its organs are liver, spleen[\s\S]*right_kidney"):
        simulate_case(spec(atlas, layout="kits", organs=["kidney"]), 0)
    with pytest.raises(ConfigError, match="no value for any organ"):
        simulate_case(spec({**atlas, "label_map": {}}), 0)


def test_value_that_the_file_does_not_have_is_refused(atlas: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"none with \[99\]"):
        simulate_case(spec({**atlas, "label_map": {2: "liver", 99: "spleen"}}), 0)


def test_missing_and_broken_files_are_named(atlas: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.nii\.gz"):
        simulate_case(spec({**atlas, "labels": tmp_path / "absent.nii.gz"}), 0)
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(atlas["labels"].read_bytes()[:-40])
    with pytest.raises(DataError, match=r"broken\.nii\.gz[\s\S]*a NIfTI file that can be read"):
        simulate_case(spec({**atlas, "labels": broken}), 0)
    with pytest.raises(DataError, match="whole numbers from 0"):
        simulate_case(spec({**atlas, "labels": tmp_path / "ct.nii.gz"}), 0)


@pytest.mark.parametrize("part", ["shape", "affine"])
def test_ct_on_another_grid_is_refused(part: str, atlas: dict[str, Any], tmp_path: Path) -> None:
    image = nib.load(tmp_path / "ct.nii.gz")
    ct, affine = np.asarray(image.dataobj), np.array(image.affine)
    if part == "shape":
        ct = ct[:-1]
    else:
        affine[0, 3] += 10
    other = tmp_path / "other.nii.gz"
    save(other, ct, affine)
    with pytest.raises(DataError, match=r"other\.nii\.gz[\s\S]*the grid of labels\.nii\.gz, \(56, 44, 40\)"):
        simulate_case(spec({**atlas, "ct": other}), 0)


def test_ct_with_nan_is_refused(atlas: dict[str, Any], tmp_path: Path) -> None:
    image = nib.load(tmp_path / "ct.nii.gz")
    ct = np.asarray(image.dataobj).astype(np.float32)
    ct[0, 0, 0] = np.nan
    save(tmp_path / "nan.nii.gz", ct, image.affine)
    with pytest.raises(DataError, match="finite values"):
        simulate_case(spec({**atlas, "ct": tmp_path / "nan.nii.gz"}), 0)
