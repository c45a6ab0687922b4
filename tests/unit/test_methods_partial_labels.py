"""Methods that learn from the labels alone: merged classes, exclusion, heads, dynamic heads."""

from __future__ import annotations

from dataclasses import replace
from math import log
from typing import Any

import pytest
import torch
from test_methods import batch, build, context, total
from torch import Tensor
from torch.nn import functional

from mskd.config.training import Training
from mskd.losses.supervision import soft_dice_loss, supervised_loss

IGNORE = 255


def one_hot(labels: Tensor, channels: int) -> Tensor:
    return functional.one_hot(labels.long(), channels).movedim(-1, 1).float()


class TestPartial:
    def test_by_hand(self) -> None:
        """Probabilities of background and unlabelled organ are summed: 1/2 + 1/8, not the product of their odds."""
        built = build("partial", context(training=Training(dice_weight=0.0)))
        scores = torch.tensor([0.5, 0.375, 0.125]).log().view(1, 3, 1, 1, 1).expand(1, 3, 2, 1, 1)
        built.network.run = lambda image, deep=False: ([scores], {})
        labels = torch.tensor([0, 1], dtype=torch.uint8).view(1, 2, 1, 1)
        sample = replace(batch(), labels=labels, labelled=torch.tensor([[True, False]]))
        assert built.loss(sample, 0)["supervised"].item() == pytest.approx(-(log(0.625) + log(0.375)) / 2)

    def test_with_all_organs_labelled_it_is_ordinary_cross_entropy_and_dice(self) -> None:
        built = build("partial", context())
        sample = replace(batch(), labelled=torch.ones((2, 2), dtype=torch.bool))
        scores, labels = built.network(sample.image), sample.labels
        entropy = functional.cross_entropy(scores, labels.long(), ignore_index=IGNORE, reduction="none")
        valid = labels != IGNORE
        target = one_hot(torch.where(valid, labels, 0), 3)[:, 1:]
        dice = soft_dice_loss(scores.softmax(1)[:, 1:], target, valid[:, None])
        expected = entropy.sum((1, 2, 3)) / valid.sum((1, 2, 3)) + dice.sum(1)
        assert total(built.loss(sample, 0)).item() == pytest.approx(expected.mean().item())

    def test_with_one_labelled_organ_it_is_the_organ_wise_form(self) -> None:
        built, sample = build("partial", context()), batch()
        expected = supervised_loss(built.network(sample.image), sample.labels, sample.labelled, form="organ_wise")
        assert total(built.loss(sample, 0)).item() == pytest.approx(expected.item(), rel=1e-5)

    def test_the_form_is_the_method(self) -> None:
        sample = replace(batch(), labelled=torch.ones((2, 2), dtype=torch.bool))
        one, two = (
            total(build("partial", context(training=Training(loss=form))).loss(sample, 0))
            for form in ("organ_wise", "marginal")
        )
        assert torch.equal(one, two)
        assert one.item() != pytest.approx(total(build("naive_union", context()).loss(sample, 0)).item(), rel=1e-3)
