"""Sliding windows: placement, blending, features on their own grid, volumes of any shape; largest components."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mskd.config.loading import parse_study
from mskd.inference import AIR, FAR, Precision, Windows, score_planes, sliding_window, study_windows
from mskd.prediction import keep_largest

WINDOWS = Windows((8, 8, 4), 0.5, (4, 4, 2))
STUDY: dict[str, object] = {
    "study": "tiny",
    "organs": ["liver"],
    "datasets": {"liver": {"path": "/d/liver", "label_map": {1: "liver"}}},
    "methods": {"mskd": {}},
}
edges = st.integers(1, 21)


def noise(shape: tuple[int, int, int]) -> NDArray[np.float32]:
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def pointwise(image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """A network whose every answer is a function of the voxel, or of the cell of its features' grid."""
    scores = torch.cat((image, 1 - image, image**2), 1)
    features = {
        "decoder1": functional.avg_pool3d(image, (2, 2, 1)),
        "encoder2": functional.avg_pool3d(-image, (4, 4, 2)),
    }
    return scores, features


class TestPlacement:
    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(
        shape=st.tuples(edges, edges, edges),
        overlap=st.sampled_from([0.0, 0.25, 0.5, 0.75]),
        stride=st.sampled_from([(1, 1, 1), (2, 4, 1), (4, 4, 4)]),
    )
    def test_windows_cover_the_volume_at_multiples_of_the_stride(
        self, shape: tuple[int, int, int], overlap: float, stride: tuple[int, int, int]
    ) -> None:
        windows = Windows((8, 4, 8), overlap, stride)
        padded, starts = windows.padded(shape), windows.starts(shape)
        assert len(set(starts)) == len(starts)
        covered = np.zeros(padded, bool)
        for start in starts:
            assert all(s % g == 0 for s, g in zip(start, stride, strict=True))
            box = tuple(slice(s, s + w) for s, w in zip(start, windows.size, strict=True))
            assert covered[box].shape == windows.size
            covered[box] = True
        assert covered.all()
        for n, p, w, g in zip(shape, padded, windows.size, stride, strict=True):
            assert p >= max(n, w)
            assert p < max(n + g, w + 1)

    def test_by_hand(self) -> None:
        # 20 voxels, windows of 8 half over another: 0, 4, 8, 12
        assert Windows((8, 8, 8), 0.5, (4, 4, 4)).starts((20, 8, 3)) == [(x, 0, 0) for x in (0, 4, 8, 12)]
        assert Windows((8, 8, 8), 0.0, (4, 4, 4)).starts((13, 8, 8)) == [(x, 0, 0) for x in (0, 8)]
        assert Windows((8, 8, 8), 0.5, (4, 4, 4)).padded((13, 8, 3)) == (16, 8, 8)


class TestPointwiseNetwork:
    @settings(max_examples=25, deadline=None, derandomize=True)
    @given(shape=st.tuples(edges, edges, st.integers(1, 9)), batch_size=st.integers(1, 5))
    def test_windows_equal_the_whole_volume(self, shape: tuple[int, int, int], batch_size: int) -> None:
        """Whether the volume is smaller than the window, odd, or many windows large."""
        image = noise(shape)
        windows = Windows(WINDOWS.size, WINDOWS.overlap, WINDOWS.stride, batch_size)
        found = sliding_window(pointwise, image, windows)
        whole = np.full(windows.padded(shape), AIR, np.float32)
        whole[: shape[0], : shape[1], : shape[2]] = image
        scores, features = pointwise(torch.from_numpy(whole)[None, None])
        assert found.scores.shape == (3, *shape)
        pieces = list(score_planes(pointwise, image, windows))
        assert all(piece.shape[-1] <= windows.size[2] for piece in pieces)
        np.testing.assert_allclose(np.concatenate(pieces, axis=-1), found.scores, atol=1e-6)
        np.testing.assert_allclose(found.scores, scores[0, :, : shape[0], : shape[1], : shape[2]], atol=1e-5)
        assert found.features.keys() == features.keys()
        for tap, stride in (("decoder1", (2, 2, 1)), ("encoder2", (4, 4, 2))):
            n = [-(-m // s) for m, s in zip(shape, stride, strict=True)]
            assert found.features[tap].shape == (1, *n)
            np.testing.assert_allclose(found.features[tap], features[tap][0, :, : n[0], : n[1], : n[2]], atol=1e-5)

    def test_dtypes(self) -> None:
        found = sliding_window(lambda x: (pointwise(x)[0].bfloat16(), {}), noise((8, 8, 4)), WINDOWS)
        assert found.scores.dtype == np.float32
        assert found.features == {}


class TestPrecision:
    def test_bfloat16_rounds_what_the_network_computes_and_no_more(self) -> None:
        torch.manual_seed(0)
        network, image = torch.nn.Conv3d(1, 2, 3, padding=1), noise((20, 16, 8))
        found: dict[Precision, NDArray[np.float32]] = {}
        precisions: tuple[Precision, ...] = ("float32", "bfloat16")
        for precision in precisions:
            windows = Windows(WINDOWS.size, WINDOWS.overlap, WINDOWS.stride, 2, precision)
            outputs = sliding_window(lambda x: (network(x), {"tap": network(x)}), image, windows)
            assert outputs.scores.dtype == outputs.features["tap"].dtype == np.float32
            pieces = list(score_planes(lambda x: (network(x), {}), image, windows))
            np.testing.assert_allclose(np.concatenate(pieces, axis=-1), outputs.scores, atol=1e-6)
            found[precision] = outputs.scores
        error = np.abs(found["bfloat16"] - found["float32"]).max()
        assert 1e-4 < error < 27 * 2**-8  # 27 products of numbers below 1, each rounded to 8 bits

    def test_the_study_says_which(self) -> None:
        study = parse_study({**STUDY, "inference": {"precision": "bfloat16"}})
        assert study_windows(study).precision == "bfloat16"
        assert study_windows(parse_study(STUDY)).precision == "float32"


class TestBlending:
    def test_windows_are_weighted_by_a_gaussian(self) -> None:
        """Two windows of 8, the second at 4: each answers with its number; the mean is by closed form."""
        numbers = iter([0.0, 1.0])

        def numbered(image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            return torch.full_like(image, next(numbers)), {}

        found = sliding_window(numbered, noise((12, 1, 1)), Windows((8, 1, 1), 0.5, (4, 1, 1)))
        assert found.windows == 2
        weight = np.exp(-0.5 * ((np.arange(8) - 3.5) / 1.0) ** 2).clip(1e-4)
        expected = [0.0] * 4 + [weight[i] / (weight[i] + weight[i + 4]) for i in range(4)] + [1.0] * 4
        np.testing.assert_allclose(found.scores[0, :, 0, 0], expected, rtol=1e-5)

    def test_answers_stay_between_those_of_the_windows(self) -> None:
        image = noise((20, 16, 8))

        def mean_of_window(x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            return x.mean((2, 3, 4), keepdim=True).expand_as(x), {}

        one = sliding_window(mean_of_window, image, WINDOWS).scores
        three = sliding_window(mean_of_window, image, Windows(WINDOWS.size, 0.5, WINDOWS.stride, 3)).scores
        np.testing.assert_allclose(one, three, atol=1e-6)
        means = [image[x : x + 8, y : y + 8, z : z + 4].mean() for x, y, z in WINDOWS.starts(image.shape)]
        assert min(means) - 1e-6 <= one.min() < one.max() <= max(means) + 1e-6


class TestBody:
    def test_windows_without_it_are_skipped_and_background(self) -> None:
        image, body = noise((24, 8, 4)), np.zeros((24, 8, 4), bool)
        body[1, 1, 1] = True
        seen = []

        def watched(x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            seen.append(x.clone())
            return pointwise(x)

        found = sliding_window(watched, image, WINDOWS, body=body)
        assert found.windows == len(seen) == 1  # the window at 4 begins behind the body
        np.testing.assert_array_equal(seen[0][0, 0], image[:8])
        np.testing.assert_allclose(found.scores[1, :8], 1 - image[:8], atol=1e-6)
        assert (found.scores[0, 8:] == FAR).all()
        assert (found.scores[1:, 8:] == -FAR).all()
        assert (found.features["decoder1"][:, 4:] == 0).all()

    @pytest.mark.parametrize("planes", [(0,), (25,), (3, 22), (9, 10, 11)])
    def test_layers_without_it_are_background_in_pieces_too(self, planes: tuple[int, ...]) -> None:
        image, body = noise((9, 8, 26)), np.zeros((9, 8, 26), bool)
        body[4, 4, list(planes)] = True
        whole = sliding_window(pointwise, image, WINDOWS, body=body).scores
        pieces = list(score_planes(pointwise, image, WINDOWS, body=body))
        np.testing.assert_allclose(np.concatenate(pieces, axis=-1), whole, atol=1e-6)
        assert (whole[0] == FAR).any()

    def test_a_scan_without_a_body_has_an_answer(self) -> None:
        shape = (24, 8, 4)
        found = sliding_window(pointwise, noise(shape), WINDOWS, body=np.zeros(shape, bool))
        assert found.scores.shape == (3, *shape)
        assert (found.scores[:, 8:].argmax(0) == 0).all()

    def test_no_gradient_is_kept(self) -> None:
        weight = torch.ones(1, requires_grad=True)
        states = []

        def forward(x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            states.append((x * weight).requires_grad)
            return x * weight, {}

        sliding_window(forward, noise((8, 8, 4)), WINDOWS)
        assert states == [False]


class TestLargestComponent:
    def test_small_parts_become_background(self) -> None:
        labels = np.zeros((6, 3, 3), np.uint8)
        labels[0, 0, 0] = labels[5, 2, 2] = labels[4, 2, 2] = 1
        labels[2] = 2
        labels[0, 2, 2] = 2
        keep_largest(labels, [1])
        assert np.argwhere(labels == 1).tolist() == [[4, 2, 2], [5, 2, 2]]
        assert (labels == 2).sum() == 10  # was not asked for

    def test_organs_that_are_not_there(self) -> None:
        labels = np.zeros((2, 2, 2), np.uint8)
        labels[0, 0, 0] = 2
        keep_largest(labels, [1, 2, 3])
        assert labels.sum() == 2

    @pytest.mark.parametrize("parts", [1, 3])
    def test_one_part_is_left(self, parts: int) -> None:
        labels = np.zeros((parts * 2, 2, 2), np.uint8)
        labels[::2] = 1
        keep_largest(labels, [1])
        assert (labels == 1).sum() == 4
