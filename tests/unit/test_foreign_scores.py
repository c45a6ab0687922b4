"""From scores on a teacher's own grid to margins on the study grid."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage, special

from mskd.errors import MskdError
from mskd.geometry import Geometry
from mskd.inference import FAR
from mskd.teachers import foreign
from mskd.teachers.foreign import ForeignScores, study_margins

RAW_SHAPE, RAW_MM, STUDY_MM = (9, 11, 8), (2.0, 3.0, 2.5), (2.7, 2.2, 3.1)


def raw_affine(flips: tuple[int, ...] = (1, 1, 1)) -> npt.NDArray[np.float64]:
    affine = np.diag([*(f * s for f, s in zip(flips, RAW_MM, strict=True)), 1.0])
    affine[:3, 3] = (10, -20, 30)
    return affine


def grid(order: tuple[int, ...], flips: tuple[int, ...]) -> tuple[npt.NDArray[np.float64], tuple[int, ...]]:
    """Return raw voxel → own voxel, and the own shape: axes in another order, some reversed, another spacing."""
    matrix, shape = np.zeros((4, 4)), []
    matrix[3, 3] = 1
    for own, raw in enumerate(order):
        size = RAW_SHAPE[raw] + 2 + own
        scale = size / RAW_SHAPE[raw]
        matrix[own, raw] = scale * flips[own]
        matrix[own, 3] = 0.5 * scale - 0.5 if flips[own] > 0 else size - 0.5 - 0.5 * scale
        shape.append(size)
    return matrix, tuple(shape)


def expected(found: ForeignScores, geometry: Geometry) -> npt.NDArray[np.float64]:
    """Interpolate every channel at the study's voxels by scipy: (C, X, Y, Z), and whether they lie on the grid."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in geometry.shape), indexing="ij")).reshape(3, -1)
    step = found.to_grid @ np.linalg.inv(np.asarray(geometry.raw_affine)) @ geometry.affine
    at = step[:3, :3] @ index + step[:3, 3:]
    values = [ndimage.map_coordinates(channel, at, order=1, mode="nearest") for channel in found.scores]
    return np.stack(values).reshape(len(values), *geometry.shape)


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("flips", list(product((1, -1), repeat=3))[::3])
def test_any_order_of_axes(order: tuple[int, ...], flips: tuple[int, ...]) -> None:
    geometry = Geometry.of_raw(RAW_SHAPE, raw_affine(flips), STUDY_MM)
    to_grid, shape = grid(order, flips)
    scores = np.random.default_rng(0).normal(0, 5, (3, *shape)).astype(np.float32)
    found = ForeignScores(scores, to_grid)
    margins = study_margins(found, geometry, [[1], [2]])
    values = expected(found, geometry)
    one = values[1] - special.logsumexp(values[[0, 2]], axis=0)
    np.testing.assert_allclose(margins[0], one, atol=1e-4)
    assert margins.shape == (2, *geometry.shape)
    assert margins.dtype == np.float32


def test_an_organ_of_several_classes_is_any_of_them() -> None:
    geometry = Geometry.of_raw(RAW_SHAPE, raw_affine(), STUDY_MM)
    to_grid, shape = grid((0, 1, 2), (1, 1, 1))
    scores = np.random.default_rng(1).normal(0, 3, (4, *shape)).astype(np.float32)
    found = ForeignScores(scores, to_grid)
    values = expected(found, geometry)
    share = special.softmax(values, axis=0)
    np.testing.assert_allclose(
        study_margins(found, geometry, [[1, 3]])[0], special.logit(share[1] + share[3]), atol=1e-4
    )
    sigmoid = study_margins(ForeignScores(scores, to_grid, "sigmoid"), geometry, [[1, 3], [2]])
    np.testing.assert_allclose(sigmoid[0], np.maximum(values[1], values[3]), atol=1e-4)
    np.testing.assert_allclose(sigmoid[1], values[2], atol=1e-4)


@pytest.mark.parametrize(
    "channels", [[[k] for k in range(1, 20)], [[0], [19, 3], [5]], [[7]], [[k] for k in range(20)]]
)
def test_margins_of_many_channels_are_as_defined(channels: list[list[int]]) -> None:
    """LSE of its own channels less LSE of all others."""
    scores = np.random.default_rng(2).normal(0, 8, (20, *RAW_SHAPE)).astype(np.float32)
    found = study_margins(ForeignScores(scores, np.eye(4)), Geometry.of_raw(RAW_SHAPE, np.eye(4), (1, 1, 1)), channels)
    for margin, own in zip(found, channels, strict=True):
        others = [channel for channel in range(20) if channel not in own]
        expected = special.logsumexp(scores[own], axis=0) - special.logsumexp(scores[others], axis=0)
        np.testing.assert_allclose(margin, expected, atol=1e-4)


def test_work_grows_with_the_channels_and_not_with_their_square(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(foreign.np, "logaddexp", lambda a, b: calls.append(1) or np.maximum(a, b))
    foreign._compared(lambda channel: np.zeros((1, 1, 1), np.float32), 21, [[k] for k in range(1, 21)], "softmax")
    assert len(calls) < 3 * 21


def test_outside_of_its_grid_the_background_wins() -> None:
    geometry = Geometry.of_raw(RAW_SHAPE, np.eye(4), (1, 1, 1))
    to_grid = np.eye(4)
    to_grid[0, 3] = -3  # it cropped three voxels away, and two at the other end
    found = ForeignScores(np.ones((2, RAW_SHAPE[0] - 5, *RAW_SHAPE[1:]), np.float32), to_grid)
    margins = study_margins(found, geometry, [[1]])[0]
    assert (margins[:3] == -FAR).all()
    assert (margins[-2:] == -FAR).all()
    np.testing.assert_allclose(margins[3:-2], 0, atol=1e-6)
    to_grid[0, 3] = -100
    assert (study_margins(found, geometry, [[1]]) == -FAR).all()


def test_a_rotated_grid_is_refused() -> None:
    geometry = Geometry.of_raw(RAW_SHAPE, np.eye(4), (1, 1, 1))
    turned = np.eye(4)
    turned[:2, :2] = [[0.9, -0.436], [0.436, 0.9]]
    with pytest.raises(MskdError, match="rotates the scan"):
        study_margins(ForeignScores(np.zeros((2, 9, 11, 8), np.float32), turned), geometry, [[1]])


def test_channels_that_are_not_there() -> None:
    geometry = Geometry.of_raw(RAW_SHAPE, np.eye(4), (1, 1, 1))
    found = ForeignScores(np.zeros((2, *RAW_SHAPE), np.float32), np.eye(4))
    with pytest.raises(MskdError, match="gives 2 channels"):
        study_margins(found, geometry, [[2]])
    with pytest.raises(MskdError, match="softmax needs a background"):
        study_margins(found, geometry, [[0, 1]])
