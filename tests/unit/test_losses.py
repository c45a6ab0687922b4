"""Supervision by labels: numbers by hand, ignored voxels, unlabelled organs, empty masks."""

from __future__ import annotations

from math import log
from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mskd.losses.supervision import masked_mean, soft_dice_loss, supervised_loss

Form = Literal["organ_wise", "marginal"]
FORMS: list[Form] = ["organ_wise", "marginal"]
BOTH = torch.tensor([[True, True]])


def voxels(*channels: list[float]) -> Tensor:
    """Return (1, C, n, 1, 1) from the values of each channel."""
    return torch.tensor(channels, dtype=torch.float64)[None, :, :, None, None]


def labels_of(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.uint8)[None, :, None, None]


def random_case(seed: int, batch: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = 3 * torch.randn((batch, 4, 3, 4, 2), generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 4, (batch, 3, 4, 2), generator=generator).to(torch.uint8)
    return scores, labels


def gradient(scores: Tensor, labels: Tensor, labelled: Tensor, form: Form) -> Tensor:
    scores = scores.clone().requires_grad_()
    loss = supervised_loss(scores, labels, labelled, form=form)
    (found,) = torch.autograd.grad(loss, scores)
    assert found.isfinite().all()
    return found


class TestByHand:
    # one voxel with probabilities 1/6, 2/6, 3/6; its label is organ 1
    SCORES = voxels([0.0], [log(2)], [log(3)])

    def test_organ_wise(self) -> None:
        # organ 1: −ln 1/3; organ 2: −ln (1 − 1/2)
        loss = supervised_loss(self.SCORES, labels_of(1), BOTH, dice_weight=0)
        assert loss.item() == pytest.approx(log(3) + log(2))

    def test_organ_wise_of_one_labelled_organ(self) -> None:
        only_second = torch.tensor([[False, True]])
        loss = supervised_loss(self.SCORES, labels_of(0), only_second, dice_weight=0)
        assert loss.item() == pytest.approx(log(2))

    def test_marginal_with_every_organ_labelled(self) -> None:
        loss = supervised_loss(self.SCORES, labels_of(1), BOTH, form="marginal", dice_weight=0)
        assert loss.item() == pytest.approx(log(3))

    @pytest.mark.parametrize(
        ("labelled", "label", "probability"),
        [
            ([False, True], 2, 1 / 2),
            ([False, True], 0, 1 / 6 + 1 / 3),  # background and organ 1 are one class
            ([True, False], 1, 1 / 3),
            ([True, False], 0, 1 / 6 + 1 / 2),
            ([False, False], 0, 1.0),
        ],
    )
    def test_marginal_sums_probabilities(self, labelled: list[bool], label: int, probability: float) -> None:
        known = torch.tensor([labelled])
        loss = supervised_loss(self.SCORES, labels_of(label), known, form="marginal", dice_weight=0)
        assert loss.item() == pytest.approx(-log(probability), abs=1e-12)

    @pytest.mark.parametrize("form", FORMS)
    def test_dice_term(self, form: Form) -> None:
        # organ 1: 1 − 2 · 1/3 / (1/3 + 1) = 1/2; organ 2 is not there: 1
        with_dice = supervised_loss(self.SCORES, labels_of(1), BOTH, form=form, dice_weight=2)
        without = supervised_loss(self.SCORES, labels_of(1), BOTH, form=form, dice_weight=0)
        assert (with_dice - without).item() == pytest.approx(2 * (1 / 2 + 1), abs=1e-4)

    def test_dice_over_several_voxels(self) -> None:
        probability, target = voxels([0.5, 0.5, 1.0]), voxels([1.0, 0.0, 1.0])
        everywhere, two = torch.ones_like(target, dtype=torch.bool), voxels([1.0, 1.0, 0.0]).bool()
        assert soft_dice_loss(probability, target, everywhere).item() == pytest.approx(1 - 2 * 1.5 / 4, abs=1e-5)
        assert soft_dice_loss(probability, target, two).item() == pytest.approx(1 - 2 * 0.5 / 2, abs=1e-5)

    def test_masked_mean(self) -> None:
        values = voxels([1.0, 2.0, 6.0], [10.0, 20.0, 60.0])
        mask = voxels([1.0, 0.0, 1.0]).bool()
        assert masked_mean(values, mask).tolist() == [[3.5, 35.0]]
        assert masked_mean(values, mask & False).tolist() == [[0.0, 0.0]]


def test_marginal_is_ordinary_cross_entropy_when_all_is_labelled() -> None:
    scores, labels = random_case(0)
    loss = supervised_loss(scores, labels, torch.ones((2, 3), dtype=torch.bool), form="marginal", dice_weight=0)
    assert loss.item() == pytest.approx(functional.cross_entropy(scores, labels.long()).item())


def test_organ_wise_is_ordinary_binary_cross_entropy_of_one_organ() -> None:
    scores, labels = random_case(1)
    labels = (labels == 1).to(torch.uint8)
    loss = supervised_loss(scores[:, :2], labels, torch.ones((2, 1), dtype=torch.bool), dice_weight=0)
    assert loss.item() == pytest.approx(functional.cross_entropy(scores[:, :2], labels.long()).item())


@pytest.mark.parametrize("form", FORMS)
class TestIdentities:
    def test_samples_are_averaged_one_by_one(self, form: Form) -> None:
        """A sample with few valid voxels weighs as much as any other, on however many GPUs."""
        scores, labels = random_case(2)
        labels[0, 1:] = 255
        labelled = torch.tensor([[True, False, True], [True, True, False]])
        both = supervised_loss(scores, labels, labelled, form=form)
        apart = [supervised_loss(scores[i : i + 1], labels[i : i + 1], labelled[i : i + 1], form=form) for i in (0, 1)]
        assert both.item() == pytest.approx((apart[0].item() + apart[1].item()) / 2)

    def test_ignored_voxels_do_not_count(self, form: Form) -> None:
        scores, labels = random_case(3)
        labels[:, 1] = 255
        labelled = torch.ones((2, 3), dtype=torch.bool)
        loss = supervised_loss(scores, labels, labelled, form=form)
        left_out = supervised_loss(scores[:, :, [0, 2]], labels[:, [0, 2]], labelled, form=form)
        assert loss.item() == pytest.approx(left_out.item())
        found = gradient(scores, labels, labelled, form)
        assert (found[:, :, 1] == 0).all()
        assert (found[:, :, [0, 2]] != 0).all()

    def test_nothing_labelled_gives_no_gradient(self, form: Form) -> None:
        scores, labels = random_case(4)
        labelled = torch.zeros((2, 3), dtype=torch.bool)
        assert supervised_loss(scores, labels * 0, labelled, form=form).item() == pytest.approx(0, abs=1e-12)
        assert gradient(scores, labels * 0, labelled, form).abs().max().item() < 1e-12

    def test_everything_ignored_is_zero(self, form: Form) -> None:
        scores, labels = random_case(5)
        labelled = torch.ones((2, 3), dtype=torch.bool)
        labels[...] = 255
        assert supervised_loss(scores, labels, labelled, form=form).item() == 0
        assert (gradient(scores, labels, labelled, form) == 0).all()

    def test_background_and_unlabelled_organs_are_one_class(self, form: Form) -> None:
        """Moving probability between background and an unlabelled organ changes nothing: neither is preferred."""
        scores, labels = random_case(6)
        labelled = torch.tensor([[True, False, True]] * 2)
        labels[labels == 2] = 0
        moved = scores.softmax(1)
        moved[:, 0], moved[:, 2] = 0.9 * (moved[:, 0] + moved[:, 2]), 0.1 * (moved[:, 0] + moved[:, 2])
        loss = supervised_loss(scores, labels, labelled, form=form)
        assert supervised_loss(moved.log(), labels, labelled, form=form).item() == pytest.approx(loss.item())
        # hence both are pushed in proportion to their own probability
        found, p = gradient(scores, labels, labelled, form), scores.softmax(1)
        torch.testing.assert_close(found[:, 2] * p[:, 0], found[:, 0] * p[:, 2])

    def test_taken_for_background_it_would_not_be(self, form: Form) -> None:
        scores, labels = random_case(6)
        labels[labels == 2] = 0
        found, p = gradient(scores, labels, torch.ones((2, 3), dtype=torch.bool), form), scores.softmax(1)
        assert not torch.allclose(found[:, 2] * p[:, 0], found[:, 0] * p[:, 2])

    def test_a_perfect_answer_costs_nothing(self, form: Form) -> None:
        _, labels = random_case(7)
        scores = 60 * functional.one_hot(labels.long(), 4).movedim(-1, 1).double()
        labelled = torch.ones((2, 3), dtype=torch.bool)
        assert supervised_loss(scores, labels, labelled, form=form).item() == pytest.approx(0, abs=1e-6)

    def test_a_constant_on_all_channels_changes_nothing(self, form: Form) -> None:
        scores, labels = random_case(8)
        labelled = torch.tensor([[True, False, False], [True, True, True]])
        one = supervised_loss(scores, labels, labelled, form=form)
        two = supervised_loss(scores + 7, labels, labelled, form=form)
        assert two.item() == pytest.approx(one.item())

    def test_an_organ_that_is_not_there(self, form: Form) -> None:
        """No division by zero; what is predicted of it is punished, what is not is not."""
        scores = voxels([30.0, 30.0], [0.0, 0.0]).clone()
        labelled = torch.tensor([[True]])
        nothing = labels_of(0, 0)
        assert supervised_loss(scores, nothing, labelled, form=form).item() == pytest.approx(0, abs=1e-4)
        scores[0, 1, 0] = 30
        assert supervised_loss(scores, nothing, labelled, form=form).item() > 1
        assert gradient(scores, nothing, labelled, form)[0, 1, 0].item() > 0
