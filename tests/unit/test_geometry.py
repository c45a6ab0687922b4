"""Grids: agreement with nibabel for every axis order, world points that stay where they are, labels that come back."""

from __future__ import annotations

import json
from itertools import permutations, product
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from mskd.geometry import Geometry
from mskd.resampling import image_to_study, labels_to_raw, labels_to_study

RAW_SHAPE = (7, 9, 11)
RAW_SPACING_MM = (0.8, 1.7, 3.1)
STUDY_MM = (1.5, 1.2, 2.0)
ORIENTATIONS = [(p, s) for p in permutations(range(3)) for s in product((1, -1), repeat=3)]
TILT_DEG = (11.0, -7.0, 15.0)


def rotation(degrees: tuple[float, float, float]) -> NDArray[np.float64]:
    a, b, c = np.radians(degrees)
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return np.asarray(x @ y @ z)


def raw_affine(
    order: tuple[int, ...] = (0, 1, 2),
    signs: tuple[int, ...] = (1, 1, 1),
    degrees: tuple[float, float, float] = (0.0, 0.0, 0.0),
    spacing_mm: tuple[float, ...] = RAW_SPACING_MM,
) -> NDArray[np.float64]:
    """Affine whose raw axis i runs along world axis order[i], in direction signs[i]."""
    axes = np.zeros((3, 3))
    for raw_axis, (world_axis, sign) in enumerate(zip(order, signs, strict=True)):
        axes[world_axis, raw_axis] = sign * spacing_mm[raw_axis]
    affine = np.eye(4)
    affine[:3, :3] = rotation(degrees) @ axes
    affine[:3, 3] = (-31.0, 12.5, 240.0)
    return affine


def world(affine: NDArray[np.float64], voxels: NDArray[Any]) -> NDArray[np.float64]:
    """Points (3, ...) in mm of voxels (3, ...)."""
    return np.einsum("ij,j...->i...", affine[:3, :3], voxels) + affine[:3, 3].reshape(3, *[1] * (voxels.ndim - 1))


@pytest.mark.parametrize("degrees", [(0.0, 0.0, 0.0), TILT_DEG], ids=["straight", "oblique"])
@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_agrees_with_nibabel_for_every_axis_order(
    order: tuple[int, ...], signs: tuple[int, ...], degrees: tuple[float, float, float]
) -> None:
    affine = raw_affine(order, signs, degrees)
    raw = np.random.default_rng(0).normal(size=RAW_SHAPE)
    geometry = Geometry.of_raw(RAW_SHAPE, affine, STUDY_MM)
    expected = nib.as_closest_canonical(nib.Nifti1Image(raw, affine))

    canonical = geometry.to_canonical(raw)
    np.testing.assert_array_equal(canonical, np.asarray(expected.dataobj))
    assert geometry.canonical_shape == expected.shape
    np.testing.assert_allclose(geometry.canonical_affine, expected.affine, atol=1e-10)
    np.testing.assert_allclose(geometry.raw_spacing_mm, expected.header.get_zooms(), rtol=1e-6)
    assert nib.aff2axcodes(geometry.canonical_affine) == ("R", "A", "S")
    back = geometry.to_raw_axes(canonical)
    assert back.shape == RAW_SHAPE
    np.testing.assert_array_equal(back, raw)


@pytest.mark.parametrize("degrees", [(0.0, 0.0, 0.0), TILT_DEG], ids=["straight", "oblique"])
@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS[::5])
def test_prepared_voxels_stay_at_their_world_points(
    order: tuple[int, ...], signs: tuple[int, ...], degrees: tuple[float, float, float]
) -> None:
    # an image whose value is a linear function of the world point, written in raw axes; interpolation is exact on
    # linear functions away from the border, so the prepared image has to be the same function of its own affine
    shape = (20, 22, 24)
    affine = raw_affine(order, signs, degrees)
    slope = np.array([1.3, -0.7, 0.45])
    raw = np.einsum("i,ixyz->xyz", slope, world(affine, np.indices(shape)))
    geometry = Geometry.of_raw(shape, affine, STUDY_MM)
    start = tuple(n // 3 for n in geometry.full_shape)
    size = tuple(max(1, n // 3) for n in geometry.full_shape)
    for grid in (geometry, geometry.cropped(start, size)):  # type: ignore[arg-type]
        image = image_to_study(grid.to_canonical(raw), grid, antialias=False)
        expected = np.einsum("i,ixyz->xyz", slope, world(grid.affine, np.indices(grid.shape)))
        inner = tuple(slice(n // 3, n - n // 3) for n in grid.shape)
        np.testing.assert_allclose(image[inner], expected[inner], atol=0.02)


def test_study_grid_has_the_spacing_centre_and_field_of_view_of_the_raw_scan() -> None:
    affine = raw_affine((2, 0, 1), (-1, 1, -1), TILT_DEG)
    geometry = Geometry.of_raw(RAW_SHAPE, affine, STUDY_MM)
    # raw axes run along z, x, y: canonical extents 9 × 1.7 mm, 11 × 3.1 mm, 7 × 0.8 mm
    assert geometry.canonical_shape == (9, 11, 7)
    np.testing.assert_allclose(geometry.raw_spacing_mm, (1.7, 3.1, 0.8))
    assert geometry.full_shape == (10, 28, 3)  # 15.3 / 1.5 = 10.2, 34.1 / 1.2 = 28.4, 5.6 / 2 = 2.8
    np.testing.assert_allclose(np.linalg.norm(geometry.affine[:3, :3], axis=0), STUDY_MM)
    centre = world(affine, (np.asarray(RAW_SHAPE) - 1) / 2)
    np.testing.assert_allclose(world(geometry.affine, (np.asarray(geometry.shape) - 1) / 2), centre)


def test_a_grid_of_the_same_spacing_is_the_canonical_raw_grid() -> None:
    geometry = Geometry.of_raw(RAW_SHAPE, raw_affine((1, 0, 2), (-1, -1, 1)), (1.7, 0.8, 3.1))
    assert geometry.shape == geometry.canonical_shape
    np.testing.assert_allclose(geometry.affine, geometry.canonical_affine)
    for axis in range(3):
        np.testing.assert_allclose(geometry.study_positions_in_raw(axis), np.arange(geometry.shape[axis]))


def test_crop_moves_the_origin_by_whole_voxels() -> None:
    full = Geometry.of_raw((30, 30, 30), raw_affine(), STUDY_MM)
    crop = full.cropped((3, 1, 2), (5, 6, 7))
    assert crop.shape == (5, 6, 7)
    assert crop.full_shape == full.full_shape
    np.testing.assert_allclose(world(crop.affine, np.zeros(3)), world(full.affine, np.array([3.0, 1, 2])))
    np.testing.assert_allclose(crop.study_positions_in_raw(0), full.study_positions_in_raw(0)[3:8])
    np.testing.assert_allclose(crop.raw_positions_in_study(2), full.raw_positions_in_study(2) - 2)


def test_positions_are_inverse_of_each_other() -> None:
    geometry = Geometry.of_raw((13, 17, 19), raw_affine(), STUDY_MM).cropped((1, 2, 3), (4, 5, 6))
    for axis in range(3):
        there = geometry.study_positions_in_raw(axis)  # raw index of each study voxel, linear in the index
        back = geometry.raw_positions_in_study(axis)
        step = back[1] - back[0]
        np.testing.assert_allclose(back[0] + there * step, np.arange(geometry.shape[axis]), atol=1e-9)


def test_geometry_survives_json_exactly() -> None:
    geometry = Geometry.of_raw(RAW_SHAPE, raw_affine((2, 1, 0), (1, -1, 1), TILT_DEG), STUDY_MM)
    geometry = geometry.cropped((1, 0, 2), (3, 4, 1))
    assert Geometry.from_json(json.loads(json.dumps(geometry.to_json()))) == geometry


@pytest.mark.parametrize(
    ("raw_mm", "study_mm"),
    [
        ((0.8, 0.8, 2.5), (1.5, 1.5, 1.5)),
        ((0.7, 0.7, 5.0), (1.5, 1.5, 1.5)),
        ((0.6, 0.9, 1.0), (2.0, 2.0, 3.0)),
        ((2.0, 2.0, 1.0), (1.5, 1.5, 1.5)),
    ],
)
@pytest.mark.parametrize(("order", "signs"), [((0, 1, 2), (1, 1, 1)), ((2, 0, 1), (-1, 1, -1))])
def test_labels_come_back_from_the_study_grid(
    raw_mm: tuple[float, float, float],
    study_mm: tuple[float, float, float],
    order: tuple[int, ...],
    signs: tuple[int, ...],
) -> None:
    radius_mm = 10.5 * max(*study_mm, *raw_mm)
    shape = tuple(int(2.6 * radius_mm / s) for s in raw_mm)
    centre = [n * s * f for n, s, f in zip(shape, raw_mm, (0.48, 0.5, 0.53), strict=True)]
    grids = np.meshgrid(*[np.arange(n) * s for n, s in zip(shape, raw_mm, strict=True)], indexing="ij")
    ball = sum((g - c) ** 2 for g, c in zip(grids, centre, strict=True)) <= radius_mm**2
    raw = ball.astype(np.uint8) * 3
    geometry = Geometry.of_raw(raw.shape, raw_affine(order, signs, spacing_mm=raw_mm), study_mm)
    study = labels_to_study(geometry.to_canonical(raw), geometry)
    found = geometry.to_raw_axes(labels_to_raw(study, geometry))
    assert set(np.unique(study)) == {0, 3}
    assert found.shape == raw.shape
    overlap = 2 * ((found == 3) & (raw == 3)).sum() / ((found == 3).sum() + (raw == 3).sum())
    assert overlap >= 0.98
    # the volume in mm³ does not drift either
    assert (study == 3).sum() * np.prod(study_mm) == pytest.approx((raw == 3).sum() * np.prod(raw_mm), rel=0.03)
