"""Conditional distillation: what is compared, what is left out, and its temperature."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_methods import batch, build, context, total
from torch import Tensor

from mskd.config.loading import parse_study
from mskd.errors import ConfigError
from mskd.losses.conditional import conditional_loss
from mskd.losses.supervision import supervised_loss

IGNORE = 255
ALL = torch.tensor([[True, True, True]])
FIRST = torch.tensor([[True, False, False]])


def volume(*voxels: list[float]) -> Tensor:
    """One sample, voxels along x."""
    return torch.tensor(voxels).T.reshape(1, len(voxels[0]), len(voxels), 1, 1)


def labels_of(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.uint8).view(1, len(values), 1, 1)


class TestLoss:
    def test_by_hand(self) -> None:
        """Two voxels count; the third is a labelled organ, the fourth one to the teachers, the fifth nobody's."""
        margin = volume([-9, 2, 0], [1, 2, -4], [3, -2, 1], [3, 2, 1], [-9, 0, 3])
        scores = volume([1, 9, 0, 2], [0, 9, 2, 1], [0, 1, 2, 3], [0, 1, 2, 3], [3, 2, 1, 0])
        found = conditional_loss(scores, margin, ALL, labels_of(0, 3, 1, 0, IGNORE), FIRST, temperature=2.0)
        p = torch.tensor([[0.0, 2, 0], [0, 2, -4]]).div(2).softmax(1)
        q = torch.tensor([[1.0, 0, 2], [0, 2, 1]]).div(2).softmax(1)
        distance = 1 - 2 * (p * q).sum(0) / (p.square() + q.square()).sum(0)
        assert found.item() == pytest.approx(distance.sum().item(), rel=1e-4)

    @pytest.mark.parametrize("temperature", [1.0, 2.0])
    def test_a_student_that_equals_its_teachers_has_nothing_to_learn(self, temperature: float) -> None:
        margin = torch.randn((1, 3, 4, 4, 4))
        # whatever it says of the labelled organ, and whatever constant is added
        scores = (torch.cat((torch.zeros((1, 1, 4, 4, 4)), margin), 1) + 5).requires_grad_()
        with torch.no_grad():
            scores[:, 1] = torch.randn((4, 4, 4))
        labels = torch.zeros((1, 4, 4, 4), dtype=torch.uint8)
        loss = conditional_loss(scores, margin, ALL, labels, FIRST, temperature=temperature)
        loss.backward()
        assert loss.item() == pytest.approx(0, abs=1e-6)
        assert scores.grad.abs().max().item() < 1e-6
        other = conditional_loss(scores, margin + torch.randn(margin.shape), ALL, labels, FIRST, temperature=1.0)
        assert other.item() > 0.1

    def test_labelled_organs_and_voxels_get_no_gradient(self) -> None:
        margin = volume([-9, 2, 0], [1, 2, -4], [-1, -2, 1], [3, 2, 1])
        scores = torch.randn((1, 4, 4, 1, 1), requires_grad=True)
        conditional_loss(scores, margin, ALL, labels_of(0, 0, 1, 0), FIRST, temperature=2.0).backward()
        slope = scores.grad[0, :, :, 0, 0]
        assert (slope[1] == 0).all()
        assert (slope[[0, 2, 3], :2] != 0).all()
        assert (slope[:, 2:] == 0).all()

    def test_an_organ_without_a_teacher_joins_the_background(self) -> None:
        margin, labels = torch.zeros((1, 3, 2, 1, 1)), labels_of(0, 0)
        margin[:, 1] = 1.5
        taught = torch.tensor([[True, True, False]])
        scores = volume([0.6, 0.0, 3.0, 0.4], [0.5, 0.0, 3.0, 0.5]).clamp_min(1e-6).log()
        # background + the silent organ 1, organ 2 three times as likely
        q = torch.tensor([1.0, 3.0]).log().div(2).softmax(0)
        p = torch.tensor([0.0, 1.5]).div(2).softmax(0)
        expected = (1 - 2 * p * q / (p.square() + q.square())).sum()
        found = conditional_loss(scores, margin, taught, labels, FIRST, temperature=2.0)
        assert found.item() == pytest.approx(expected.item(), rel=1e-3)

    def test_nothing_is_compared_where_all_is_labelled(self) -> None:
        scores = torch.randn((1, 4, 2, 1, 1), requires_grad=True)
        margin = torch.randn((1, 3, 2, 1, 1))
        loss = conditional_loss(scores, margin, ALL, labels_of(0, 1), ALL, temperature=2.0)
        loss.backward()
        assert loss.item() == 0
        assert (scores.grad == 0).all()


class TestMethod:
    def test_terms_are_merged_supervision_and_the_distance(self) -> None:
        built, sample = build("conditional_distillation", context({"temperature": 2.0})), batch()
        scores = built.network(sample.image)
        terms = built.loss(sample, 0)
        expected = supervised_loss(scores, sample.labels, sample.labelled, form="marginal")
        assert terms["supervised"].item() == pytest.approx(expected.item())
        taught = torch.ones((2, 2), dtype=torch.bool)
        assert sample.margins is not None
        distance = conditional_loss(scores, sample.margins, taught, sample.labels, sample.labelled, temperature=2.0)
        assert terms["conditional"].item() == pytest.approx(distance.item())

    def test_its_keys(self) -> None:
        sample = batch()
        plain, hot, heavy = (
            build("conditional_distillation", context(keys)).loss(sample, 1)
            for keys in ({}, {"temperature": 2.0}, {"logit_weight": 3.0, "supervised_weight": 0.5, "ramp_steps": 4})
        )
        assert plain["conditional"].item() != pytest.approx(hot["conditional"].item(), rel=1e-3)
        assert heavy["conditional"].item() == pytest.approx(1.5 * plain["conditional"].item())
        assert heavy["supervised"].item() == pytest.approx(0.5 * plain["supervised"].item())

    def test_needs_margins(self) -> None:
        with pytest.raises(ValueError, match="margins"):
            total(build("conditional_distillation", context()).loss(replace(batch(), margins=None), 0))


class TestTemperature:
    def study(self, **changes: object) -> dict[str, object]:
        datasets = {o: {"path": "/data", "label_map": {1: o}} for o in ("liver", "spleen")}
        return {"study": "s", "organs": ["liver", "spleen"], "datasets": datasets, **changes}

    def test_two_is_its_default_whatever_the_study_says(self) -> None:
        rows = {"conditional_distillation": {}, "warm": {"kind": "conditional_distillation"}, "mskd": {}}
        rows["warm"]["distillation"] = {"temperature": 1.5}
        study = parse_study(self.study(methods=rows, cache={"temperatures": [1, 2]}), source="test")
        found = {name: study.method_distillation(name).temperature for name in rows}
        assert found == {"conditional_distillation": 2.0, "warm": 1.5, "mskd": 1.0}

    def test_the_cache_has_to_be_good_for_it(self) -> None:
        with pytest.raises(ConfigError, match=r"conditional_distillation.distillation.temperature") as caught:
            parse_study(self.study(methods={"conditional_distillation": {}}), source="test")
        assert "temperatures: [1.0, 2.0]" in str(caught.value)
