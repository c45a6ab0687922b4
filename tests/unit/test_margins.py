"""Margins: one-vs-rest log-odds, by hand and by what defines them."""

from __future__ import annotations

from math import log

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mskd.margins import margins

seeds = st.integers(0, 2**31 - 1)


def voxels(*channels: list[float]) -> Tensor:
    """Return (1, C, n, 1, 1) from the values of each channel."""
    return torch.tensor(channels, dtype=torch.float64)[None, :, :, None, None]


def random_scores(seed: int, channels: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 5 * torch.randn((2, channels, 3, 2, 2), generator=generator, dtype=torch.float64)


def test_of_a_binary_network_by_hand() -> None:
    found = margins(voxels([0.0, 1.0, -2.0], [log(3), 1.0, 5.0]))
    assert found.shape == (1, 1, 3, 1, 1)
    assert found.flatten().tolist() == pytest.approx([log(3), 0.0, 7.0])


def test_of_three_channels_by_hand() -> None:
    # probabilities 1/6, 2/6, 3/6: odds 1/5, 1/2, 1
    scores = voxels([0.0], [log(2)], [log(3)])
    assert margins(scores).flatten().tolist() == pytest.approx([-log(2), 0.0])
    assert margins(scores, [0]).flatten().tolist() == pytest.approx([-log(5)])
    assert margins(scores, [2, 0]).flatten().tolist() == pytest.approx([0.0, -log(5)])


@pytest.mark.parametrize("channels", [[0], [1], [0, 1], [1, 0]])
def test_of_two_channels_agrees_with_the_general_formula(channels: list[int]) -> None:
    scores = random_scores(0, 2)
    with_a_third = torch.cat((scores, torch.full_like(scores[:, :1], -1e9)), 1)
    torch.testing.assert_close(margins(scores, channels), margins(with_a_third, channels))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=seeds, channels=st.integers(2, 6))
def test_their_sigmoid_is_the_softmax(seed: int, channels: int) -> None:
    scores = random_scores(seed, channels)
    torch.testing.assert_close(torch.sigmoid(margins(scores)), scores.softmax(1)[:, 1:])


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=seeds, channels=st.integers(2, 6), constant=st.floats(-100, 100))
def test_a_constant_on_all_channels_changes_nothing(seed: int, channels: int, constant: float) -> None:
    scores = random_scores(seed, channels)
    torch.testing.assert_close(margins(scores + constant), margins(scores))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=seeds, channels=st.integers(2, 6))
def test_round_trip_through_probabilities(seed: int, channels: int) -> None:
    """Probabilities → log-probabilities as scores → margins → the same probabilities."""
    probability = random_scores(seed, channels).softmax(1)
    torch.testing.assert_close(torch.sigmoid(margins(probability.log())), probability[:, 1:])


@settings(max_examples=40, deadline=None, derandomize=True)
@given(margin=st.floats(-80, 80))
def test_a_margin_beside_a_background_of_zero_is_itself(margin: float) -> None:
    assert margins(voxels([0.0], [margin])).item() == margin


@pytest.mark.parametrize("channels", [2, 3, 5])
def test_large_scores_stay_finite(channels: int) -> None:
    scores = torch.zeros((1, channels, 2, 1, 1))
    scores[0, 1, 0], scores[0, 0, 1] = 1e4, 1e4
    scores.requires_grad_()
    found = margins(scores)
    assert found[0, 0, 0] > 9e3
    assert found[0, 0, 1] < -9e3
    found.sum().backward()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()
