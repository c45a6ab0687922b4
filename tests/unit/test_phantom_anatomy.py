"""Synthetic anatomies: human volumes, HU by contrast phase, sides, whole organs, look-alikes."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from mskd.config.phantom import PhantomDataset, Phase, Scanner
from mskd.phantom.cases import simulate_case
from mskd.phantom.scanner import Scan
from mskd.phantom.tissue import ORGAN_VALUES

SPACING_MM = (4.0, 4.0, 5.0)
VOXEL_ML = 0.08
SEEDS = (0, 1, 2, 3, 4, 5)
PHASES: tuple[Phase, ...] = ("unenhanced", "arterial", "portal_venous", "nephrographic")
VOLUMES_ML = {
    "liver": (1000, 2200),
    "spleen": (100, 400),
    "right_kidney": (120, 250),
    "left_kidney": (120, 250),
    "pancreas": (50, 120),
}
# Lowest and highest plausible median of an organ's inside, in PHASES' order.
HU = {
    "liver": [(40, 70), (50, 90), (90, 125), (78, 112)],
    "spleen": [(38, 58), (100, 145), (100, 135), (85, 115)],
    "pancreas": [(25, 50), (78, 125), (68, 108), (58, 92)],
    "right_kidney": [(22, 42), (95, 200), (145, 205), (140, 190)],
    "left_kidney": [(22, 42), (95, 200), (145, 205), (140, 190)],
    "aorta": [(30, 55), (250, 370), (120, 180), (95, 150)],
    "gallbladder": [(-5, 35), (-5, 35), (-5, 35), (-5, 35)],
}


def spec(seed: int, phase: Phase = "portal_venous", *, distractors: bool = True, **scanner: float) -> PhantomDataset:
    return PhantomDataset(
        layout="btcv",
        organs=[],
        seed=seed,
        distractors=distractors,
        scanner=Scanner(phase=phase, spacing_mm=SPACING_MM, slice_thickness_mm=5.0, **scanner),
    )


@functools.cache
def scan(seed: int) -> Scan:
    return simulate_case(spec(seed, PHASES[seed % 4]), 0)


def organ(case: Scan, name: str) -> NDArray[np.bool_]:
    return case.labels == ORGAN_VALUES[name]


def body_of(image: NDArray[np.int16]) -> NDArray[np.bool_]:
    """Return the body, lungs and bowel gas included, without the table."""
    solid = ndimage.binary_opening(image > -400, iterations=2)
    return np.stack([ndimage.binary_fill_holes(part) for part in np.moveaxis(solid, 2, 0)], axis=2)


@pytest.mark.parametrize("seed", SEEDS)
def test_volumes_are_human(seed: int) -> None:
    volumes = {name: float(organ(scan(seed), name).sum()) * VOXEL_ML for name in VOLUMES_ML}
    outside = {
        name: volume for name, volume in volumes.items() if not VOLUMES_ML[name][0] <= volume <= VOLUMES_ML[name][1]
    }
    assert outside == {}


@pytest.mark.parametrize("seed", SEEDS)
def test_hounsfield_units_follow_the_phase(seed: int) -> None:
    case, column = scan(seed), seed % 4
    found = {}
    for name, ranges in HU.items():
        inside = ndimage.binary_erosion(organ(case, name), np.ones((3, 3, 1)))
        found[name] = float(np.median(case.image[inside]))
        assert ranges[column][0] <= found[name] <= ranges[column][1], (PHASES[column], found)


@pytest.mark.parametrize("seed", SEEDS)
def test_organs_are_whole_and_on_their_side(seed: int) -> None:
    case = scan(seed)
    centres = {}
    for name in ORGAN_VALUES:
        mask = organ(case, name)
        parts, count = ndimage.label(mask, np.ones((3, 3, 3)))
        assert count > 0
        assert np.bincount(parts.ravel())[1:].max() > 0.97 * mask.sum(), name
        voxel = np.array([axis.mean() for axis in np.nonzero(mask)])
        centres[name] = (case.affine @ [*voxel, 1])[:3]
    # World x grows to the patient's right, y to the front, z to the head.
    for right, left in (("liver", "spleen"), ("right_kidney", "left_kidney"), ("ivc", "aorta"), ("liver", "stomach")):
        assert centres[right][0] > centres[left][0] + 10
    for front, back in (("pancreas", "left_kidney"), ("gallbladder", "right_kidney"), ("stomach", "aorta")):
        assert centres[front][1] > centres[back][1] + 10
    assert centres["spleen"][2] > centres["right_kidney"][2]


@pytest.mark.parametrize("seed", SEEDS)
def test_organs_touch_neither_the_air_nor_the_skin(seed: int) -> None:
    case = scan(seed)
    # Two voxels of skin and fat lie around every organ.
    core = ndimage.binary_erosion(body_of(case.image), np.ones((3, 3, 1)), iterations=2)
    solid = np.isin(case.labels, [ORGAN_VALUES[name] for name in VOLUMES_ML])
    assert (solid & ~core).sum() == 0


def test_a_body_has_fat_lung_bone_and_gas() -> None:
    image = scan(2).image
    body = body_of(image)
    share = {
        "fat": np.mean((image[body] > -140) & (image[body] < -60)),
        "lung": np.mean((image[body] > -900) & (image[body] < -750)),
        "muscle": np.mean((image[body] > 30) & (image[body] < 90)),
        "bone": np.mean(image[body] > 220),
    }
    assert 0.15 < share["fat"] < 0.6
    assert 0.05 < share["lung"] < 0.4
    assert 0.05 < share["muscle"] < 0.4
    assert 0.01 < share["bone"] < 0.1
    lowest_third = image[..., : image.shape[2] // 3]
    assert (ndimage.binary_erosion(body[..., : image.shape[2] // 3], iterations=3) & (lowest_third < -500)).any()


def test_patients_differ() -> None:
    volumes = [float(organ(scan(seed), "liver").sum()) * VOXEL_ML for seed in SEEDS]
    assert np.std(volumes) > 50
    # A map that knew only where organs usually lie would be a poor segmentation.
    for name, limit in (("spleen", 0.8), ("right_kidney", 0.85), ("pancreas", 0.65)):
        masks = [organ(scan(seed), name) for seed in SEEDS]
        dice = [2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in itertools.pairwise(masks)]
        assert np.mean(dice) < limit, (name, dice)


def test_the_mean_patient_has_no_variation() -> None:
    plain = {"deformation": 0.0, "distractors": False}
    first, second = (simulate_case(spec(seed, noise_hu=0.0, jitter=0.0).model_copy(update=plain), 0) for seed in (0, 1))
    liver = organ(first, "liver"), organ(second, "liver")
    # Only the fine texture of the liver's border differs.
    assert (liver[0] ^ liver[1]).sum() < 0.12 * liver[0].sum()


def test_lookalikes_have_an_organs_hu_and_no_label() -> None:
    volumes = {}
    for distractors in (False, True):
        case = simulate_case(spec(1, distractors=distractors, noise_hu=0.0), 0)
        spleen_hu = np.median(case.image[ndimage.binary_erosion(organ(case, "spleen"))])
        alike = (case.labels == 0) & (np.abs(case.image - spleen_hu) < 10)
        parts, _ = ndimage.label(ndimage.binary_opening(alike))
        volumes[distractors] = float(np.bincount(parts.ravel())[1:].max(initial=0)) * VOXEL_ML
    assert volumes[False] < 3
    assert volumes[True] > 8


def test_scale_makes_patients_smaller() -> None:
    small = simulate_case(spec(3).model_copy(update={"scale": 0.7}), 0)
    ratio = organ(small, "liver").sum() / organ(scan(3), "liver").sum()
    assert ratio == pytest.approx(0.7**3, rel=0.1)
