"""Separable resampling against scipy, and labels that keep their values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from mskd.geometry import Geometry
from mskd.resampling import (
    apply_matrices,
    cubic_matrix,
    image_to_study,
    labels_to_raw,
    labels_to_study,
    linear_matrix,
    scores_to_raw,
)


def geometry(shape: tuple[int, int, int], raw_mm: tuple[float, ...], study_mm: tuple[float, float, float]) -> Geometry:
    return Geometry.of_raw(shape, np.diag([*raw_mm, 1.0]), study_mm)


def triangle(positions: NDArray[np.float64], n: int, width: float) -> NDArray[np.float64]:
    """Reference: normalised triangle of half width max(1, width), positions clamped, written voxel by voxel."""
    width = max(1.0, width)
    rows = np.zeros((len(positions), n))
    for row, position in enumerate(positions):
        position = min(max(position, 0), n - 1)
        for index in range(n):
            rows[row, index] = max(0.0, 1 - abs(position - index) / width)
        rows[row] /= rows[row].sum()
    return rows


@pytest.mark.parametrize("n_in", [1, 2, 3, 4, 7, 30])
def test_cubic_is_scipys_spline(n_in: int) -> None:
    rng = np.random.default_rng(n_in)
    values = rng.normal(size=n_in)
    inside = np.concatenate([rng.uniform(0, n_in - 1, 40), np.arange(n_in), [n_in - 1 - 1e-9]])
    expected = ndimage.map_coordinates(values, inside[None], order=3, mode="mirror")
    np.testing.assert_allclose(cubic_matrix(inside, n_in) @ values, expected, atol=2e-6)


def test_cubic_clamps_positions_outside_the_array() -> None:
    matrix = cubic_matrix(np.array([-3.0, 0.0, 5.0, 9.5]), 6)
    np.testing.assert_allclose(matrix[0], matrix[1])
    np.testing.assert_allclose(matrix[3], matrix[2])


def test_three_axes_are_scipys_spline_in_space() -> None:
    shape = (9, 11, 20)
    image = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    grid = geometry(shape, (1.9, 1.2, 0.7), (1.4, 1.5, 1.6)).cropped((1, 2, 0), (7, 5, 6))
    positions = np.meshgrid(*[grid.study_positions_in_raw(axis) for axis in range(3)], indexing="ij")
    clamped = [np.clip(p, 0, n - 1) for p, n in zip(positions, shape, strict=True)]
    expected = ndimage.map_coordinates(image.astype(float), clamped, order=3, mode="mirror")
    np.testing.assert_allclose(image_to_study(image, grid, antialias=False), expected, atol=1e-5)


def test_antialiasing_is_scipys_gaussian_before_the_spline() -> None:
    values = np.random.default_rng(2).normal(size=50)
    positions = np.linspace(0.8, 47.3, 13)
    smooth = ndimage.gaussian_filter1d(values, 1.3, mode="mirror")
    expected = ndimage.map_coordinates(smooth, positions[None], order=3, mode="mirror")
    np.testing.assert_allclose(cubic_matrix(positions, 50, sigma=1.3) @ values, expected, atol=2e-6)
    # sampling down by 3.5 smooths with (3.5 − 1) / 2 = 1.25 raw voxels, and only along that axis
    grid = geometry((40, 6, 5), (1.0, 1.0, 1.0), (3.5, 1.0, 1.0))
    image = np.random.default_rng(3).normal(size=(40, 6, 5))
    smooth = ndimage.gaussian_filter1d(image, 1.25, axis=0, mode="mirror")
    np.testing.assert_allclose(
        image_to_study(image, grid, antialias=True), image_to_study(smooth, grid, antialias=False), atol=1e-5
    )
    plain = image_to_study(image, grid, antialias=False)
    assert np.abs(plain).std() > 1.3 * np.abs(image_to_study(image, grid, antialias=True)).std()


@settings(max_examples=60, deadline=None)
@given(
    n_in=st.integers(1, 20),
    positions=st.lists(st.floats(-5, 25, allow_nan=False), min_size=1, max_size=20),
    width=st.floats(0.1, 6),
)
def test_linear_rows_are_the_normalised_triangle(n_in: int, positions: list[float], width: float) -> None:
    where = np.array(positions)
    matrix = linear_matrix(where, n_in, width=width)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)
    assert matrix.min() >= 0
    np.testing.assert_allclose(matrix, triangle(where, n_in, width), atol=1e-6)


def test_slabs_do_not_show() -> None:
    rng = np.random.default_rng(4)
    image = rng.normal(size=(5, 6, 37)).astype(np.float32)  # more planes than a slab, not a multiple of it
    x, y, z = (rng.normal(size=(m, n)).astype(np.float32) for m, n in ((4, 5), (7, 6), (9, 37)))
    expected = np.einsum("ax,by,cz,xyz->abc", x, y, z, image, optimize=True)
    np.testing.assert_allclose(apply_matrices(image, x, y, z), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        apply_matrices(image, x, y, np.eye(37, dtype=np.float32)),
        np.einsum("ax,by,xyz->abz", x, y, image, optimize=True),
        rtol=1e-4,
        atol=1e-4,
    )


CASES = [
    # shape, raw mm, study mm, crop: finer and coarser than the raw grid, along different axes
    ((12, 14, 40), (0.8, 0.9, 0.6), (1.5, 1.5, 2.0), None),
    ((12, 14, 9), (0.8, 0.9, 5.0), (1.5, 1.5, 1.5), None),
    ((13, 9, 37), (1.0, 2.2, 1.0), (1.5, 1.5, 1.5), ((2, 3, 4), (5, 6, 17))),
]


@pytest.mark.parametrize(("shape", "raw_mm", "study_mm", "crop"), CASES)
def test_scores_to_raw_is_the_dense_argmax(shape: Any, raw_mm: Any, study_mm: Any, crop: Any) -> None:
    grid = geometry(shape, raw_mm, study_mm)
    if crop is not None:
        grid = grid.cropped(*crop)
    scores = np.random.default_rng(5).normal(size=(4, *grid.shape)).astype(np.float16)
    matrices = [
        triangle(grid.raw_positions_in_study(axis), grid.shape[axis], raw_mm[axis] / study_mm[axis])
        for axis in range(3)
    ]
    dense = np.einsum("ax,by,cz,kxyz->kabc", *matrices, scores.astype(float), optimize=True)
    ordered = np.sort(dense, axis=0)
    clear = ordered[-1] - ordered[-2] > 1e-4  # no tie
    expected = dense.argmax(0)
    for axis in range(3):  # voxels outside the crop are background; inside = within half a voxel of its voxels
        if crop is not None:
            position = grid.raw_positions_in_study(axis)
            outside = (position < -0.5) | (position > grid.shape[axis] - 0.5)
            assert outside.any()
            expected[(slice(None),) * axis + (outside,)] = 0
    cut = [scores[..., :1], scores[..., 1:2], scores[..., 2:]]  # in pieces, as windows finish them
    found, shares = scores_to_raw(cut, grid, [2])
    assert found.dtype == np.uint8
    assert found.shape == shape
    np.testing.assert_array_equal(found[clear], expected[clear])
    assert clear.mean() > 0.9
    assert len(np.unique(found)) == 4
    share = np.exp(scores[2].astype(float)) / np.exp(scores.astype(float)).sum(0)
    expected_share = np.einsum("ax,by,cz,xyz->abc", *matrices, share, optimize=True)
    for axis in range(3):
        if crop is not None:
            position = grid.raw_positions_in_study(axis)
            outside = (position < -0.5) | (position > grid.shape[axis] - 0.5)
            expected_share[(slice(None),) * axis + (outside,)] = 0
    np.testing.assert_allclose(shares[2], 255 * expected_share, atol=0.8)  # rounded; scores are float16


def test_scores_on_the_raw_grid_are_just_argmax() -> None:
    grid = geometry((5, 6, 33), (1.0, 2.0, 3.0), (1.0, 2.0, 3.0))
    scores = np.random.default_rng(6).normal(size=(3, 5, 6, 33))
    np.testing.assert_array_equal(scores_to_raw([scores], grid)[0], scores.argmax(0))


def random_blobs(shape: tuple[int, ...], values: list[int], seed: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    fields = np.stack([ndimage.gaussian_filter(rng.normal(size=shape), 1.5) for _ in values])
    return np.asarray(np.array(values, np.uint8)[fields.argmax(0)])


@pytest.mark.parametrize(("shape", "raw_mm", "study_mm", "crop"), CASES)
def test_labels_take_the_largest_share(shape: Any, raw_mm: Any, study_mm: Any, crop: Any) -> None:
    grid = geometry(shape, raw_mm, study_mm)
    if crop is not None:
        grid = grid.cropped(*crop)
    values = [0, 1, 4, 255]
    labels = random_blobs(shape, values, seed=7)
    matrices = [
        triangle(grid.study_positions_in_raw(axis), shape[axis], study_mm[axis] / raw_mm[axis]) for axis in range(3)
    ]
    shares = np.stack(
        [np.einsum("ax,by,cz,xyz->abc", *matrices, (labels == v).astype(float), optimize=True) for v in values]
    )
    ordered = np.sort(shares, axis=0)
    clear = ordered[-1] - ordered[-2] > 1e-5
    found = labels_to_study(labels, grid)
    assert found.shape == grid.shape
    np.testing.assert_array_equal(found[clear], np.array(values)[shares.argmax(0)][clear])
    assert clear.mean() > 0.9


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 9)] * 3),
    raw_mm=st.tuples(*[st.floats(0.5, 5)] * 3),
    study_mm=st.tuples(*[st.floats(0.5, 5)] * 3),
    seed=st.integers(0, 999),
)
def test_no_value_is_invented(
    shape: tuple[int, int, int],
    raw_mm: tuple[float, ...],
    study_mm: tuple[float, float, float],
    seed: int,
) -> None:
    grid = geometry(shape, raw_mm, study_mm)
    labels = np.random.default_rng(seed).choice(np.array([0, 2, 7, 255], np.uint8), shape)
    study = labels_to_study(labels, grid)
    assert set(np.unique(study)) <= set(np.unique(labels))
    raw = labels_to_raw(study, grid)
    assert raw.shape == shape
    assert set(np.unique(raw)) <= set(np.unique(study))
    constant = np.full(shape, 255, np.uint8)
    assert (labels_to_study(constant, grid) == 255).all()
    assert (labels_to_raw(np.full(grid.shape, 7, np.uint8), grid) == 7).all()


def test_equal_grids_leave_labels_as_they_are() -> None:
    labels = np.random.default_rng(8).choice(np.array([0, 1, 2, 255], np.uint8), (5, 6, 7))
    grid = geometry((5, 6, 7), (1.3, 1.1, 0.7), (1.3, 1.1, 0.7))
    np.testing.assert_array_equal(labels_to_study(labels, grid), labels)
    np.testing.assert_array_equal(labels_to_raw(labels, grid), labels)


def test_labels_outside_the_crop_come_back_as_background() -> None:
    grid = geometry((10, 10, 10), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0)).cropped((2, 0, 5), (4, 10, 3))
    found = labels_to_raw(np.full((4, 10, 3), 9, np.uint8), grid)
    expected = np.zeros((10, 10, 10), np.uint8)
    expected[2:6, :, 5:8] = 9
    np.testing.assert_array_equal(found, expected)
