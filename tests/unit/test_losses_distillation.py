"""Distillation by logits and features: numbers by hand, and the identities that the method has to obey."""

from __future__ import annotations

from math import log, sqrt
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mskd.losses.distillation import bernoulli_kl, feature_loss, logit_loss, region_at_level, soft_dice_distance
from mskd.margins import margins
from mskd.regions import Regions, find_regions

Form = Literal["margin", "raw", "assembled"]
FORMS: list[Form] = ["margin", "raw", "assembled"]
QUARTER_HALF = 0.75 * log(1.5) + 0.25 * log(0.5)  # KL of Bernoulli(3/4), and of Bernoulli(1/4), from a fair coin


def voxels(*channels: list[float]) -> Tensor:
    """Return (1, C, n, 1, 1) from the values of each channel."""
    return torch.tensor(channels, dtype=torch.float64)[None, :, :, None, None]


def regions_of(
    margin: Tensor, organ: list[list[int]], background: list[int], taught: list[bool] | None = None
) -> Regions:
    """Regions of a row of voxels, from the voxels that each one holds."""
    in_organ = torch.zeros(margin.shape, dtype=torch.bool)
    for k, indices in enumerate(organ):
        in_organ[0, k, indices] = True
    in_background = torch.zeros_like(in_organ[:, :1])
    in_background[0, 0, background] = True
    return Regions(margin, in_organ, in_background, torch.tensor([taught or [True] * margin.shape[1]]))


def values(terms: dict[str, Tensor]) -> dict[str, float]:
    return {name: term.item() for name, term in terms.items()}


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


def random_scene(seed: int, n_organs: int = 3) -> tuple[Tensor, Regions]:
    """Student scores, and regions found from random labels and margins."""
    generator = torch.Generator().manual_seed(seed)
    shape = (2, n_organs, 3, 4, 2)
    scores = 3 * torch.randn((2, n_organs + 1, 3, 4, 2), generator=generator, dtype=torch.float64)
    teacher = 3 * torch.randn(shape, generator=generator, dtype=torch.float64) - 2
    labels = torch.tensor([0, 0, 1, 255], dtype=torch.uint8)[torch.randint(0, 4, (2, 3, 4, 2), generator=generator)]
    labelled = torch.tensor([[True] + [False] * (n_organs - 1), [False] * n_organs])
    return scores, find_regions(teacher, list(range(n_organs)), labels, labelled, n_organs=n_organs)


class TestByHand:
    # teacher 3/4 on voxel 0, 1/4 on voxel 1; the student says 1/2 everywhere; voxel 2 belongs to nobody
    MARGIN = voxels([log(3), -log(3), 50.0])
    SCORES = voxels([0.0, 0.0, 90.0], [0.0, 0.0, 0.0])

    def terms(self, **options: Any) -> dict[str, float]:
        regions = regions_of(self.MARGIN, [[0]], [1])
        return values(logit_loss(self.SCORES, regions, **{"dice_weight": 0.0, **options}))

    def test_mean_over_all_supervised_voxels(self) -> None:
        assert self.terms() == pytest.approx({"logit_organ": QUARTER_HALF / 2, "logit_background": QUARTER_HALF / 2})

    def test_mean_per_region(self) -> None:
        found = self.terms(normalisation="per_region")
        assert found == pytest.approx({"logit_organ": QUARTER_HALF, "logit_background": QUARTER_HALF})

    def test_region_weights(self) -> None:
        found = self.terms(organ_weight=3.0, background_weight=0.5)
        assert found == pytest.approx({"logit_organ": QUARTER_HALF * 1.5, "logit_background": QUARTER_HALF / 4})

    def test_one_region_alone(self) -> None:
        assert self.terms(use="organ") == pytest.approx({"logit_organ": QUARTER_HALF, "logit_background": 0})
        assert self.terms(use="background") == pytest.approx({"logit_organ": 0, "logit_background": QUARTER_HALF})

    def test_temperature(self) -> None:
        # P = σ(ln 9 / 2) = 3/4, Q = 1/2, times τ² = 4
        found = logit_loss(voxels([0.0], [0.0]), regions_of(voxels([log(9)]), [[0]], []), temperature=2, dice_weight=0)
        assert values(found)["logit_organ"] == pytest.approx(4 * QUARTER_HALF)

    def test_hard_targets(self) -> None:
        # the teacher's 3/4 becomes 1, its 1/4 becomes 0: ln 2 each
        found = self.terms(hard=True, normalisation="per_region")
        assert found == pytest.approx({"logit_organ": log(2), "logit_background": log(2)}, abs=1e-6)

    def test_dice(self) -> None:
        # p = (1/2, 1/2), q = (3/4, 1/4): 1 − 2 (3/8 + 1/8) / (1/4 + 1/4 + 9/16 + 1/16) = 1/9
        assert self.terms(dice_weight=2.0)["logit_dice"] == pytest.approx(2 / 9, abs=1e-5)
        # on the organ alone: 1 − 2 · 3/8 / (1/4 + 9/16) = 1/13
        assert self.terms(dice_weight=1.0, use="organ")["logit_dice"] == pytest.approx(1 / 13, abs=1e-5)
        # hard: q = (1, 0): 1 − 2 · 1/2 / (1/4 + 1/4 + 1) = 1/3
        assert self.terms(dice_weight=1.0, hard=True)["logit_dice"] == pytest.approx(1 / 3, abs=1e-5)

    def test_dice_of_a_mask(self) -> None:
        probability, target = voxels([0.5, 0.5, 1.0]), voxels([1.0, 0.5, 0.0])
        mask = voxels([1.0, 1.0, 0.0]).bool()
        # 1 − 2 (1/2 + 1/4) / (1/2 + 5/4)
        assert soft_dice_distance(probability, target, mask).item() == pytest.approx(1 / 7, abs=1e-5)
        assert soft_dice_distance(probability, target, mask & False).item() == 0

    def test_organs_are_summed(self) -> None:
        # organ 1 on voxel 0, organ 2 on voxel 1, voxel 2 background of both; the student is right about organ 2
        margin = voxels([log(3), 9.0, -log(3)], [9.0, log(2), -log(2)])
        scores = voxels([0.0, 0.0, 0.0], [0.0, log(3), log(3)], [0.0, log(8), -0.5 * log(2)])
        # voxel 0: r_1 = −ln 2: Q = 1/3 against P = 3/4; voxel 1: r_2 = ln 8 − ln 4 = m_2; voxel 2: by the formula
        third = 0.75 * log(0.75 * 3) + 0.25 * log(0.25 * 1.5)
        found = values(logit_loss(scores, regions_of(margin, [[0], [1]], [2]), use="organ", dice_weight=0))
        assert found["logit_organ"] == pytest.approx(third)

    def test_margin_and_raw_differ_in_the_student_background(self) -> None:
        # organ 2 is likely: Q_1 = 1/5 against the rest, but 1/2 against the background channel alone
        regions = regions_of(voxels([0.0], [0.0]), [[0], []], [], taught=[True, False])
        scores = voxels([0.0], [0.0], [log(3)])
        fifth = 0.5 * log(0.5 / 0.2) + 0.5 * log(0.5 / 0.8)
        assert values(logit_loss(scores, regions, dice_weight=0))["logit_organ"] == pytest.approx(fifth)
        raw = logit_loss(scores, regions, form="raw", dice_weight=0)
        assert values(raw)["logit_organ"] == pytest.approx(0, abs=1e-12)

    @pytest.mark.parametrize("temperature", [1.0, 2.0])
    def test_assembled(self, temperature: float) -> None:
        # target (1, 2, 3) / 6 against 1/3 each; O_1 ∪ O_2 is voxel 0, which counts once
        margin = temperature * voxels([log(2)], [log(3)])
        regions = regions_of(margin, [[0], [0]], [])
        found = logit_loss(
            voxels([0.0], [0.0], [0.0]), regions, form="assembled", temperature=temperature, dice_weight=0
        )
        expected = (log(0.5) / 6 + log(1) / 3 + log(1.5) / 2) * temperature**2
        assert values(found) == pytest.approx({"logit_organ": expected, "logit_background": 0})

    def test_assembled_without_a_teacher_for_one_organ(self) -> None:
        # target (1, 3) / 4; the student's background and organ 2 are one class: (1 + 5, 2) / 8
        regions = regions_of(voxels([log(3)], [0.0]), [[0], []], [], taught=[True, False])
        scores = voxels([0.0], [log(2)], [log(5)]).requires_grad_()
        found = total(logit_loss(scores, regions, form="assembled", dice_weight=0))
        assert found.item() == pytest.approx(0.25 * log(1 / 3) + 0.75 * log(3))
        (slope,) = torch.autograd.grad(found, scores)
        assert slope.flatten().tolist() == pytest.approx([0.5 / 6, -0.5, 2.5 / 6])  # q − p, shared as 1 : 5

    @pytest.mark.parametrize("form", FORMS)
    def test_the_region_of_an_untaught_organ_does_not_count(self, form: Form) -> None:
        regions = regions_of(voxels([-3.0], [0.0]), [[], [0]], [], taught=[True, False])
        found = values(logit_loss(voxels([0.0], [1.0], [2.0]), regions, form=form))
        assert sum(found.values()) == 0

    @pytest.mark.parametrize("form", FORMS)
    def test_only_some_organs(self, form: Form) -> None:
        """`distil_labelled: false` leaves the labelled organ out, as if it had no teacher."""
        margin, scores = voxels([2.0, -1.0, -2.0], [-3.0, 1.0, -1.0]), voxels([0.0] * 3, [1.0] * 3, [-1.0] * 3)
        some = logit_loss(scores, regions_of(margin, [[0], [1]], [2]), form=form, organs=torch.tensor([[False, True]]))
        untaught = logit_loss(scores, regions_of(margin, [[0], [1]], [2], taught=[False, True]), form=form)
        assert values(some) == pytest.approx(values(untaught))
        assert values(some)["logit_organ"] > 0


class TestKullbackLeibler:
    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(m=st.floats(-30, 30), r=st.floats(-30, 30))
    def test_agrees_with_its_definition(self, m: float, r: float) -> None:
        p, q = 1 / (1 + np.exp(-m)), 1 / (1 + np.exp(-r))
        one_minus_p, one_minus_q = 1 / (1 + np.exp(m)), 1 / (1 + np.exp(r))
        expected = p * np.log(p / q) + one_minus_p * np.log(one_minus_p / one_minus_q)
        found = bernoulli_kl(torch.tensor(m, dtype=torch.float64), torch.tensor(r, dtype=torch.float64)).item()
        assert found == pytest.approx(expected, abs=1e-8)
        assert found > -1e-12

    @pytest.mark.parametrize("m", [0.0, 3.0, 25.0, 1e4, -1e4])
    def test_is_zero_with_zero_slope_where_both_agree(self, m: float) -> None:
        student = torch.tensor(m, requires_grad=True)
        found = bernoulli_kl(torch.tensor(m), student)
        (slope,) = torch.autograd.grad(found, student)
        assert found.item() == 0
        assert slope.item() == pytest.approx(0, abs=1e-7)

    def test_no_gradient_reaches_the_teacher(self) -> None:
        teacher = torch.tensor([1.0], requires_grad=True)
        student = torch.tensor([2.0], requires_grad=True)
        bernoulli_kl(teacher, student).sum().backward()
        assert teacher.grad is None
        assert student.grad is not None


@pytest.mark.parametrize("form", FORMS)
class TestIdentities:
    def test_a_student_that_equals_the_teachers(self, form: Form) -> None:
        scores, regions = random_scene(0)
        same = scores[:, 1:] - scores[:, :1] if form != "margin" else margins(scores)
        regions = Regions(same, regions.organ, regions.background, regions.taught)
        scores.requires_grad_()
        dice = 1.0 if form == "margin" else 0.0  # the Dice term always compares margins
        for temperature in (1.0, 3.0):
            loss = total(logit_loss(scores, regions, form=form, temperature=temperature, dice_weight=dice))
            (slope,) = torch.autograd.grad(loss, scores)
            assert loss.item() == pytest.approx(0, abs=1e-12)
            assert slope.abs().max().item() < 1e-12

    def test_no_gradient_outside_the_regions(self, form: Form) -> None:
        scores, regions = random_scene(1)
        scores.requires_grad_()
        (slope,) = torch.autograd.grad(total(logit_loss(scores, regions, form=form)), scores)
        inside = (regions.organ.any(1, keepdim=True) | regions.background).expand_as(slope)
        assert inside.any()
        assert not inside.all()
        assert (slope[~inside] == 0).all()
        assert (slope[inside] != 0).all()

    def test_empty_regions(self, form: Form) -> None:
        scores, regions = random_scene(2)
        nowhere = Regions(regions.margin, regions.organ & False, regions.background & False, regions.taught)
        scores.requires_grad_()
        loss = total(logit_loss(scores, nowhere, form=form))
        (slope,) = torch.autograd.grad(loss, scores)
        assert loss.item() == 0
        assert (slope == 0).all()

    @pytest.mark.parametrize("normalisation", ["supervised", "per_region"])
    def test_samples_are_averaged_one_by_one(self, form: Form, normalisation: Any) -> None:
        scores, regions = random_scene(3)
        both = values(logit_loss(scores, regions, form=form, normalisation=normalisation))
        apart = []
        for i in (0, 1):
            one = Regions(
                *(part[i : i + 1] for part in (regions.margin, regions.organ, regions.background)),
                regions.taught[i : i + 1],
            )
            apart.append(values(logit_loss(scores[i : i + 1], one, form=form, normalisation=normalisation)))
        assert both == pytest.approx({name: (apart[0][name] + apart[1][name]) / 2 for name in both})

    def test_a_constant_on_all_the_students_channels(self, form: Form) -> None:
        scores, regions = random_scene(4)
        one, two = (values(logit_loss(s, regions, form=form)) for s in (scores, scores + 11))
        assert one == pytest.approx(two)


def test_a_constant_on_all_the_teachers_channels() -> None:
    scores, regions = random_scene(5)
    teacher = torch.randn((2, 4, 3, 4, 2), dtype=torch.float64)
    one, two = (
        values(logit_loss(scores, Regions(margins(t), regions.organ, regions.background, regions.taught)))
        for t in (teacher, teacher - 30)
    )
    assert one == pytest.approx(two)


def test_one_organ_and_one_teacher_is_bernoulli_distillation() -> None:
    scores, regions = random_scene(6, n_organs=1)
    found = values(logit_loss(scores, regions, temperature=2.0, dice_weight=0))
    expected = 0.0
    for i in (0, 1):
        kept = (regions.organ | regions.background)[i, 0].numpy()
        p = 1 / (1 + np.exp(-regions.margin[i, 0].numpy()[kept] / 2))
        q = 1 / (1 + np.exp(-(scores[i, 1] - scores[i, 0]).numpy()[kept] / 2))
        kl = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
        expected += 4 * float(kl.mean()) / 2
    assert sum(found.values()) == pytest.approx(expected)


def test_the_temperature_acts_on_margins() -> None:
    """Students with the same marginal of an organ get the same loss, however the rest is spread."""
    regions = regions_of(voxels([log(3)], [0.0]), [[0], []], [], taught=[True, False])
    alone = voxels([0.0], [1.0], [-60.0])
    spread = voxels([-log(2)], [1.0], [-log(2)])
    one, two = (values(logit_loss(s, regions, temperature=3.0)) for s in (alone, spread))
    assert one == pytest.approx(two)


class TestFeatures:
    def test_l2_by_hand(self) -> None:
        student, teacher = voxels([1.0, 100.0], [3.0, 100.0]), voxels([0.0, 0.0], [1.0, 0.0])
        mask = voxels([1.0, 0.0]).bool()
        # ((1 − 0)² + (3 − 1)²) / 2 channels, over one voxel
        assert feature_loss(student, teacher, mask, normalisation="none").item() == pytest.approx(2.5)
        both = feature_loss(student, teacher, mask | True, normalisation="none")
        assert both.item() == pytest.approx((2.5 + 1e4) / 2)

    def test_cosine_by_hand(self) -> None:
        student, teacher = voxels([1.0, 0.0], [3.0, -2.0]), voxels([0.0, 0.0], [1.0, 5.0])
        found = feature_loss(student, teacher, voxels([1.0, 1.0]).bool(), distance="cosine", normalisation="none")
        assert found.item() == pytest.approx((1 - 3 / sqrt(10) + 2) / 2)

    def test_channel_normalisation_by_hand(self) -> None:
        # teacher 0, 2: mean 1, deviation 1; the student errs by 1 on one of two voxels
        student, teacher = voxels([1.0, 2.0]), voxels([0.0, 2.0])
        assert feature_loss(student, teacher, voxels([1.0, 1.0]).bool()).item() == pytest.approx(0.5)
        # the scale of the teacher's channel does not matter
        assert feature_loss(9 * student, 9 * teacher, voxels([1.0, 1.0]).bool()).item() == pytest.approx(0.5)

    def test_joint_normalisation_by_hand(self) -> None:
        # channels of deviation 1 and 7: one deviation for both is sqrt((1 + 49) / 2) = 5
        student, teacher = voxels([1.0, 2.0], [0.0, 14.0]), voxels([0.0, 2.0], [0.0, 14.0])
        found = feature_loss(student, teacher, voxels([1.0, 1.0]).bool(), normalisation="joint")
        assert found.item() == pytest.approx((1 / 5) ** 2 / 2 / 2)

    @pytest.mark.parametrize("distance", ["l2", "cosine"])
    @pytest.mark.parametrize("normalisation", ["none", "channel", "joint"])
    def test_identities(self, distance: Any, normalisation: Any) -> None:
        generator = torch.Generator().manual_seed(0)
        teacher = torch.randn((2, 3, 4, 2, 2), generator=generator, dtype=torch.float64)
        student = torch.randn((2, 3, 4, 2, 2), generator=generator, dtype=torch.float64).requires_grad_()
        mask = torch.rand((2, 1, 4, 2, 2), generator=generator) < 0.4
        options: dict[str, Any] = {"distance": distance, "normalisation": normalisation}
        loss = feature_loss(student, teacher, mask, **options)
        (slope,) = torch.autograd.grad(loss, student)
        assert (slope[~mask.expand_as(slope)] == 0).all()
        assert (slope[mask.expand_as(slope)] != 0).all()
        apart = [feature_loss(student[i : i + 1], teacher[i : i + 1], mask[i : i + 1], **options) for i in (0, 1)]
        assert loss.item() == pytest.approx((apart[0].item() + apart[1].item()) / 2)
        same = teacher.clone().requires_grad_()
        zero = feature_loss(same, teacher, mask, **options)
        (slope,) = torch.autograd.grad(zero, same)
        assert zero.item() == pytest.approx(0, abs=1e-12)
        assert slope.abs().max().item() < 1e-12
        nowhere = feature_loss(student, teacher, mask & False, **options)
        (slope,) = torch.autograd.grad(nowhere, student)
        assert nowhere.item() == 0
        assert (slope == 0).all()

    def test_no_gradient_reaches_the_teacher(self) -> None:
        teacher = torch.randn((1, 2, 2, 2, 2), requires_grad=True)
        student = torch.randn((1, 2, 2, 2, 2), requires_grad=True)
        feature_loss(student, teacher, torch.ones((1, 1, 2, 2, 2), dtype=torch.bool)).backward()
        assert teacher.grad is None


class TestRegionAtLevel:
    def scene(self) -> Regions:
        organ = torch.zeros((1, 2, 4, 4, 4), dtype=torch.bool)
        organ[0, 0, 0, 1, 0] = organ[0, 1, 3, 3, 3] = True
        background = torch.zeros((1, 1, 4, 4, 4), dtype=torch.bool)
        background[0, 0, 1, 1, 1] = background[0, 0, 3, 1, 1] = True  # the middle voxels of two cells
        background[0, 0, 0, 2, 0] = True  # not the middle of its cell
        return Regions(torch.zeros((1, 2, 4, 4, 4)), organ, background, torch.tensor([[True, True]]))

    @pytest.mark.parametrize(
        ("organs", "use", "expected"),
        [
            ([0], "organ", {(0, 0, 0)}),
            ([1], "organ", {(1, 1, 1)}),
            ([0, 1], "organ", {(0, 0, 0), (1, 1, 1)}),
            ([0], "background", {(1, 0, 0)}),  # the organ's cell is no background
            ([1], "background", {(0, 0, 0), (1, 0, 0)}),
            ([0], "both", {(0, 0, 0), (1, 0, 0)}),
        ],
    )
    def test_by_hand(self, organs: list[int], use: Any, expected: set[tuple[int, ...]]) -> None:
        found = region_at_level(self.scene(), organs, (2, 2, 2), use)
        assert found.shape == (1, 1, 2, 2, 2)
        assert {tuple(v) for v in found[0, 0].nonzero().tolist()} == expected

    def test_full_resolution_is_the_regions_themselves(self) -> None:
        scene = self.scene()
        assert torch.equal(region_at_level(scene, [0], (1, 1, 1), "organ"), scene.organ[:, :1])
        assert torch.equal(region_at_level(scene, [0], (1, 1, 1), "background"), scene.background)
        assert torch.equal(region_at_level(scene, [0], (1, 1, 1), "both"), scene.organ[:, :1] | scene.background)

    def test_strides_may_differ_by_axis(self) -> None:
        found = region_at_level(self.scene(), [0], (1, 2, 4), "organ")
        assert found.shape == (1, 1, 4, 2, 1)
        assert found[0, 0].nonzero().tolist() == [[0, 0, 0]]
