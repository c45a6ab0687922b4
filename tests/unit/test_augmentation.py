"""Augmentation: drawn changes, exact turns, resampling in closed form, intensities."""

from __future__ import annotations

from math import cos, exp, radians, sin
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from mskd.config.training import Augmentation
from mskd.training.augmentation import (
    SpatialChange,
    change_intensity,
    draw_spatial,
    resample,
    source_box,
    source_positions,
    turn,
)

PATCH = (16, 12, 8)
SPACING_MM = (1.0, 2.0, 3.0)
QUIET: dict[str, Any] = dict.fromkeys(
    (
        "affine_probability",
        "elastic_probability",
        "noise_probability",
        "blur_probability",
        "contrast_probability",
        "gamma_probability",
    ),
    0.0,
)
SPATIAL = Augmentation(**{**QUIET, "affine_probability": 1.0, "elastic_probability": 1.0})


def draw(seed: int, settings: Augmentation = SPATIAL, patch: tuple[int, int, int] = PATCH) -> SpatialChange:
    return draw_spatial(np.random.default_rng(seed), settings, patch, SPACING_MM)


def coordinates(start: tuple[int, int, int], size: tuple[int, int, int]) -> Tensor:
    """Return the position of every voxel of a box, (3, X, Y, Z)."""
    axes = [torch.arange(s, s + n, dtype=torch.float32) for s, n in zip(start, size, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


class TestDraws:
    def test_are_a_function_of_the_generator(self) -> None:
        one, same, other = draw(1), draw(1), draw(2)
        np.testing.assert_array_equal(one.matrix, same.matrix)
        np.testing.assert_array_equal(one.control, same.control)
        assert not np.array_equal(one.matrix, other.matrix)
        assert not np.array_equal(one.control, other.control)

    def test_off_means_nothing(self) -> None:
        for seed in range(20):
            change = draw(seed, Augmentation(**QUIET))
            assert change == SpatialChange()
            assert not change.resamples

    def test_only_the_axes_that_may_be_flipped(self) -> None:
        settings = Augmentation(**QUIET, flip_axes=["y", "z"])
        found = {draw(seed, settings).flips for seed in range(60)}
        assert found == {(), (1,), (2,), (1, 2)}

    def test_all_quarter_turns_come_up(self) -> None:
        settings = Augmentation(**QUIET, quarter_turns=True)
        assert {draw(seed, settings).turns for seed in range(60)} == {0, 1, 2, 3}

    def test_what_is_off_does_not_change_the_rest(self) -> None:
        everything = Augmentation(
            **{**QUIET, "affine_probability": 1.0, "elastic_probability": 1.0}, flip_axes=["x", "y"], quarter_turns=True
        )
        less = everything.model_copy(update={"elastic_probability": 0.0, "quarter_turns": False})
        for seed in range(10):
            one, two = draw(seed, everything), draw(seed, less)
            np.testing.assert_array_equal(one.matrix, two.matrix)
            assert one.flips == two.flips
            assert two.control is None
            assert two.turns == 0

    @settings(max_examples=40, deadline=None, derandomize=True)
    @given(seed=st.integers(0, 10_000))
    def test_rotation_and_zoom_stay_in_their_ranges(self, seed: int) -> None:
        settings = Augmentation(**{**QUIET, "affine_probability": 1.0}, rotation_deg=20.0, scale=(1.0, 2.0))
        matrix = draw(seed, settings).matrix
        assert matrix is not None
        in_mm = np.diag(SPACING_MM) @ matrix @ np.diag(1 / np.asarray(SPACING_MM))
        zoom = float(np.linalg.det(in_mm)) ** (-1 / 3)
        assert 1 - 1e-9 <= zoom <= 2 + 1e-9
        rotation = in_mm * zoom
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)
        # three turns of 20° each reach 60° at most
        assert (np.trace(rotation) - 1) / 2 >= cos(radians(60))

    def test_elastic_displacements_are_in_mm(self) -> None:
        settings = Augmentation(**{**QUIET, "elastic_probability": 1.0}, elastic_mm=6.0, elastic_grid_mm=2.0)
        control = draw(0, settings).control
        assert control is not None
        for axis, spacing in enumerate(SPACING_MM):
            assert control[axis].std() * spacing == pytest.approx(6.0, rel=0.2)

    def test_elastic_control_points_are_so_far_apart(self) -> None:
        settings = Augmentation(**{**QUIET, "elastic_probability": 1.0}, elastic_grid_mm=4.0)
        control = draw(0, settings).control
        assert control is not None
        # 16, 24 and 24 mm: so many gaps of 4 mm or less, and room at both ends
        assert control.shape == (3, 7, 9, 9)


class TestPositions:
    def test_no_change_is_the_identity(self) -> None:
        torch.testing.assert_close(source_positions(SpatialChange(), PATCH), coordinates((0, 0, 0), PATCH))

    def test_zoom_about_the_centre(self) -> None:
        found = source_positions(SpatialChange(matrix=np.eye(3) / 2), PATCH)
        # twice as large: the patch shows half the extent
        assert found[:, 0, 0, 0].tolist() == pytest.approx([7.5 / 2, 5.5 / 2, 3.5 / 2])
        assert found[:, -1, -1, -1].tolist() == pytest.approx([7.5 * 1.5, 5.5 * 1.5, 3.5 * 1.5])

    def test_a_constant_displacement(self) -> None:
        control = np.tile(np.array([1.0, -2.0, 0.5], np.float32).reshape(3, 1, 1, 1), (1, 4, 4, 4))
        moved = source_positions(SpatialChange(control=control), PATCH) - coordinates((0, 0, 0), PATCH)
        for axis, expected in enumerate((1.0, -2.0, 0.5)):
            torch.testing.assert_close(moved[axis], torch.full(PATCH, expected))

    @settings(max_examples=40, deadline=None, derandomize=True)
    @given(seed=st.integers(0, 10_000), align=st.sampled_from([(1, 1, 1), (2, 2, 2), (4, 4, 2)]))
    def test_the_box_holds_them_all(self, seed: int, align: tuple[int, int, int]) -> None:
        positions = source_positions(draw(seed), PATCH)
        start, size = source_box(positions, align)
        for axis in range(3):
            assert start[axis] % align[axis] == size[axis] % align[axis] == 0
            low, high = positions[axis].min().item(), positions[axis].max().item()
            # with half a cell to spare, and no more than a cell and a half
            assert start[axis] <= low - (align[axis] - 1) / 2
            assert start[axis] + size[axis] - 1 >= high + (align[axis] - 1) / 2
            assert start[axis] > low - 1 - 1.5 * align[axis]
            assert start[axis] + size[axis] - 1 < high + 1 + 1.5 * align[axis]


class TestResampling:
    """A linear image is reproduced exactly by linear interpolation: every voxel shows where it came from."""

    @pytest.mark.parametrize("seed", range(4))
    def test_full_resolution(self, seed: int) -> None:
        positions = source_positions(draw(seed), PATCH)
        start, size = source_box(positions, (1, 1, 1))
        found = resample(coordinates(start, size), positions, start, (1, 1, 1))
        torch.testing.assert_close(found, positions, atol=1e-3, rtol=0)

    @pytest.mark.parametrize("stride", [(2, 2, 2), (4, 4, 4), (1, 2, 4)])
    @pytest.mark.parametrize("seed", range(4))
    def test_features_move_with_the_image_on_their_own_grid(self, seed: int, stride: tuple[int, int, int]) -> None:
        positions = source_positions(draw(seed), PATCH)
        start, size = source_box(positions, (4, 4, 4))
        features = functional.avg_pool3d(coordinates(start, size)[None], stride, stride)[0]
        found = resample(features, positions, start, stride)
        expected = functional.avg_pool3d(positions[None], stride, stride)[0]
        assert found.shape[1:] == tuple(n // s for n, s in zip(PATCH, stride, strict=True))
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)

    def test_labels_take_the_nearest_voxel(self) -> None:
        positions = source_positions(draw(3), PATCH)
        start, size = source_box(positions, (1, 1, 1))
        found = resample(coordinates(start, size), positions, start, (1, 1, 1), nearest=True)
        assert torch.equal(found, found.round())
        assert (found - positions).abs().max().item() <= 0.5 + 1e-3

    def test_a_quarter_turn_as_a_matrix_is_a_quarter_turn(self) -> None:
        image = torch.rand((2, 8, 8, 4), generator=torch.Generator().manual_seed(0))
        turned = np.array(
            [[cos(radians(90)), -sin(radians(90)), 0], [sin(radians(90)), cos(radians(90)), 0], [0, 0, 1]]
        )
        positions = source_positions(SpatialChange(matrix=turned), (8, 8, 4))
        found = resample(image, positions, (0, 0, 0), (1, 1, 1))
        # patch offset (a, b) shows what lies at (−b, a)
        torch.testing.assert_close(found, torch.rot90(image, -1, (1, 2)), atol=1e-4, rtol=0)
        torch.testing.assert_close(found[:, 1, 3], image[:, 4, 1], atol=1e-4, rtol=0)


class TestTurns:
    @pytest.mark.parametrize("flips", [(), (0,), (1,), (2,), (0, 1), (0, 1, 2)])
    @pytest.mark.parametrize("turns", [0, 1, 2, 3])
    def test_move_arrays_of_all_grids_alike(self, flips: tuple[int, ...], turns: int) -> None:
        change = SpatialChange(flips=flips, turns=turns)
        generator = torch.Generator().manual_seed(0)
        image = torch.randint(-64, 64, (1, 8, 8, 4), generator=generator).float()
        moved = turn(image, change)
        assert torch.equal(turn(3 * image - 1, change), 3 * moved - 1)
        pooled = functional.avg_pool3d(image, 2)
        assert torch.equal(turn(pooled, change), functional.avg_pool3d(moved, 2))
        assert torch.equal(turn(image[None], change), moved[None])  # any number of leading axes

    def test_by_hand(self) -> None:
        image = torch.arange(8).view(1, 2, 2, 2)
        assert turn(image, SpatialChange(flips=(2,))).flatten().tolist() == [1, 0, 3, 2, 5, 4, 7, 6]
        # (x, y) → (y, 1 − x): what lay at (0, 1) comes to (0, 0)
        assert turn(image, SpatialChange(turns=1)).flatten().tolist() == [2, 3, 6, 7, 0, 1, 4, 5]
        both = turn(image, SpatialChange(flips=(0,), turns=1))
        assert torch.equal(both, turn(turn(image, SpatialChange(flips=(0,))), SpatialChange(turns=1)))


def intensity(seed: int, image: Tensor, **changes: Any) -> Tensor:
    settings = Augmentation(**{**QUIET, **changes})
    return change_intensity(image, np.random.default_rng(seed), settings, SPACING_MM)


class TestIntensity:
    IMAGE = torch.linspace(-1, 1, 16 * 12 * 8).view(1, *PATCH)

    def test_off_means_nothing(self) -> None:
        assert torch.equal(intensity(0, self.IMAGE), self.IMAGE)

    def test_contrast_and_brightness_by_hand(self) -> None:
        found = intensity(0, self.IMAGE, contrast_probability=1.0, contrast=(0.5, 0.5), brightness=0.0)
        torch.testing.assert_close(found, 0.5 * self.IMAGE)
        shifts = [
            intensity(s, self.IMAGE * 0, contrast_probability=1.0, brightness=0.3)[0, 0, 0, 0].item() for s in range(40)
        ]
        assert -0.3 <= min(shifts) < -0.15
        assert 0.15 < max(shifts) <= 0.3

    def test_gamma_by_hand(self) -> None:
        found = intensity(0, self.IMAGE, gamma_probability=1.0, gamma=(2.0, 2.0))
        torch.testing.assert_close(found, ((self.IMAGE + 1) / 2) ** 2 * 2 - 1)

    def test_noise_has_at_most_its_deviation(self) -> None:
        stds = [intensity(s, self.IMAGE * 0, noise_probability=1.0, noise_std=0.1).std().item() for s in range(20)]
        assert 0.07 < max(stds) <= 0.104
        assert min(stds) < 0.03

    def test_blur_keeps_constants_and_spreads_a_point(self) -> None:
        constant = torch.full_like(self.IMAGE, 0.25)
        torch.testing.assert_close(intensity(1, constant, blur_probability=1.0, blur_mm=6.0), constant)
        point = torch.full((1, 15, 15, 15), -1.0)
        point[0, 7, 7, 7] = 1.0
        found = intensity(1, point, blur_probability=1.0, blur_mm=2.0) + 1
        assert found.sum().item() == pytest.approx(2.0, rel=1e-3)
        # sigma is in mm: of axes with spacing 1, 2, 3 mm the first is blurred most, and by the Gaussian's ratio
        along = [found[0, 8, 7, 7].item(), found[0, 7, 8, 7].item(), found[0, 7, 7, 8].item()]
        assert along[0] > along[1] > along[2]
        centre = found[0, 7, 7, 7].item()
        s2 = -0.5 / np.log(along[0] / centre)
        assert along[1] / centre == pytest.approx(exp(-0.5 * 4 / s2), rel=1e-3)
        assert along[2] / centre == pytest.approx(exp(-0.5 * 9 / s2), rel=1e-3)

    @settings(max_examples=40, deadline=None, derandomize=True)
    @given(seed=st.integers(0, 10_000))
    def test_all_together_are_reproducible_and_in_range(self, seed: int) -> None:
        on = dict.fromkeys(QUIET, 0.5)
        one, same = intensity(seed, self.IMAGE, **on), intensity(seed, self.IMAGE, **on)
        assert torch.equal(one, same)
        assert one.shape == self.IMAGE.shape
        assert one.abs().max().item() <= 1
