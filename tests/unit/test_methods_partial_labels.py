"""Methods that learn from the labels alone: merged classes, exclusion, heads, dynamic heads."""

from __future__ import annotations

from dataclasses import replace
from math import log

import pytest
import torch
from test_methods import batch, build, context, total
from torch import Tensor
from torch.nn import functional

from mskd.config.model import Network
from mskd.config.training import Training
from mskd.losses.exclusion import exclusion_loss, merged_background_dice
from mskd.losses.supervision import soft_dice_loss, supervised_loss
from mskd.margins import margins
from mskd.methods.base import head_of, own_head_loss
from mskd.networks.dodnet import WIDTH, dynamic_head
from mskd.networks.merged import FAR

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


def scores_of(*probabilities: list[float]) -> Tensor:
    """One sample, voxels along x, each with its probabilities."""
    return torch.tensor(probabilities).log().T.reshape(1, len(probabilities[0]), len(probabilities), 1, 1)


def labels_of(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.uint8).view(1, len(values), 1, 1)


FIRST = torch.tensor([[True, False]])


class TestMarginalExclusion:
    def test_exclusion_by_hand(self) -> None:
        # organ 2 is unlabelled; e is 1 at the first two voxels, the last is judged by nobody
        scores = scores_of([0.2, 0.5, 0.3], [0.1, 0.8, 0.1], [0.5, 0.1, 0.4], [0.1, 0.1, 0.8])
        dice, entropy = exclusion_loss(scores, labels_of(1, 1, 0, IGNORE), FIRST)
        assert dice.item() == pytest.approx(2 * 0.4 / (2 + 0.8), rel=1e-4)
        assert entropy.item() == pytest.approx((log(1.3) + log(1.1)) / 3, rel=1e-4)

    def test_disjoint_organs_are_not_penalised(self) -> None:
        """One-hot predictions, the unlabelled organ beside the labelled one; then on it."""
        labels = labels_of(1, 1, 0, 0)
        apart, on_it = torch.tensor([1, 1, 2, 0]), torch.tensor([1, 2, 2, 0])
        for predicted, expected in ((apart, (0.0, 0.0)), (on_it, (2 * 1 / (2 + 2), log(2) / 4))):
            scores = 200 * one_hot(predicted.view(1, 4, 1, 1), 3)
            found = exclusion_loss(scores, labels, FIRST)
            assert [f.item() for f in found] == pytest.approx(expected, abs=1e-5)

    def test_nothing_is_excluded_where_nothing_or_everything_is_labelled(self) -> None:
        scores = torch.randn((1, 3, 2, 1, 1))
        for labels, labelled in ((labels_of(0, 0), FIRST), (labels_of(1, 2), FIRST | True), (labels_of(1, 1), ~FIRST)):
            assert [f.item() for f in exclusion_loss(scores, labels, labelled)] == [0, 0]

    def test_only_unlabelled_organs_lose_on_labelled_voxels(self) -> None:
        scores = torch.zeros((1, 3, 2, 1, 1), requires_grad=True)
        sum(exclusion_loss(scores, labels_of(1, 0), FIRST)).backward()
        slope = scores.grad[0, :, :, 0, 0]
        assert slope[2, 0] > 0  # less of the unlabelled organ on the labelled one,
        assert slope[1, 0] < 0  # more of the labelled one
        # elsewhere a larger unlabelled organ does not overlap more
        assert slope[2, 1] < 0

    def test_merged_background_sums_probabilities(self) -> None:
        scores = scores_of([0.2, 0.5, 0.3], [0.5, 0.1, 0.4], [0.3, 0.3, 0.4])
        found = merged_background_dice(scores, labels_of(1, 0, IGNORE), FIRST)
        assert found.tolist() == pytest.approx([1 - 2 * 0.9 / (0.5 + 0.9 + 1)], rel=1e-4)

    def test_with_all_organs_labelled_it_is_ordinary_cross_entropy_and_dice(self) -> None:
        built = build("marginal_exclusion", context())
        sample = replace(batch(), labelled=torch.ones((2, 2), dtype=torch.bool))
        scores, labels = built.network(sample.image), sample.labels
        entropy = functional.cross_entropy(scores, labels.long(), ignore_index=IGNORE, reduction="none")
        valid = labels != IGNORE
        target = one_hot(torch.where(valid, labels, 0), 3)
        dice = soft_dice_loss(scores.softmax(1), target, valid[:, None])
        expected = entropy.sum((1, 2, 3)) / valid.sum((1, 2, 3)) + dice.sum(1)
        terms = built.loss(sample, 0)
        assert terms["exclusion"].item() == 0
        assert total(terms).item() == pytest.approx(expected.mean().item())

    def test_is_partial_and_more(self) -> None:
        sample = batch()
        more, partial = (build(kind, context()).loss(sample, 0) for kind in ("marginal_exclusion", "partial"))
        assert torch.equal(more["supervised"], partial["supervised"])
        assert more["exclusion"].item() > 0.01
        without = build("marginal_exclusion", context(training=Training(dice_weight=0.0))).loss(sample, 0)
        assert without["background"].item() == 0
        assert 0 < without["exclusion"].item() < more["exclusion"].item()


class TestHeads:
    def test_datasets_with_the_same_organs_share_a_head(self) -> None:
        labelled = torch.tensor([[False, True, True], [True, False, False], [False, True, True]])
        assert head_of(labelled, [[0], [1, 2]]) == [1, 0, 1]
        with pytest.raises(ValueError, match=r"no head for organs \[1, 2\]"):
            head_of(labelled, [[0], [1]])

    def test_loss_by_hand(self) -> None:
        """Each sample alone: the channels of its own head, its organs counted from 1 on."""
        scores = torch.randn((3, 2 + 3, 4, 4, 4))
        labels = torch.zeros((3, 4, 4, 4), dtype=torch.uint8)
        labels[0, 0], labels[0, 1], labels[1, 2], labels[2, 3], labels[:, :, -1] = 2, 3, 1, 3, IGNORE
        labelled = torch.tensor([[False, True, True], [True, False, False], [False, True, True]])
        sample = replace(batch(), labels=labels, labelled=labelled)
        found = own_head_loss([scores], [0, 2], sample, [[0], [1, 2]], Training())
        both = torch.ones((1, 2), dtype=torch.bool)
        counted = torch.where((labels > 1) & (labels < IGNORE), labels - 1, labels)
        each = [
            supervised_loss(scores[:1, 2:], counted[:1], both),
            supervised_loss(scores[1:2, :2], labels[1:2], both[:, :1]),
            supervised_loss(scores[2:, 2:], counted[2:], both),
        ]
        assert found.item() == pytest.approx(sum(each).item() / 3, rel=1e-5)


class TestMultiHead:
    def test_other_heads_get_no_gradient(self) -> None:
        """Only the second dataset is in the batch: channels 0 and 1 belong to the first."""
        built = build("multi_head", context())
        sample = replace(batch(), labelled=torch.tensor([[False, True]] * 2))
        sample.labels[sample.labels == 1] = 0
        total(built.loss(sample, 0)).backward()
        layer = built.network.decoder.seg_layers[-1]
        for slope in (layer.weight.grad, layer.bias.grad):
            assert (slope[:2] == 0).all()
            assert (slope[2:] != 0).any()
        assert all((p.grad != 0).any() for p in built.network.encoder.parameters() if p.dim() > 1)

    def test_heads_are_merged_by_their_margins(self) -> None:
        built = build("multi_head", context(organs=["x", "y", "z", "w"], organ_sets=[[0, 1], [1], [2]]))
        image = batch().image
        scores, merged = built.network.run(image)[0][0], built.network(image)
        first, second, third = margins(scores[:, :3]), margins(scores[:, 3:5]), margins(scores[:, 5:])
        expected = [first[:, 0], (first[:, 1] + second[:, 0]) / 2, third[:, 0]]
        torch.testing.assert_close(merged[:, 1:4], torch.stack(expected, 1))
        assert (merged[:, 0] == 0).all()
        assert (merged[:, 4] == FAR).all()

    def test_deep_supervision_reaches_every_level(self) -> None:
        deep = Network(features=[2, 3, 4], convolutions_per_level=1, deep_supervision=True)
        built = build("multi_head", context(network=deep))
        total(built.loss(batch(), 0)).backward()
        assert all((p.grad != 0).any() for p in built.network.decoder.seg_layers.parameters())


class TestDodnet:
    def test_with_given_weights_it_is_three_convolutions(self) -> None:
        """Every image has its own."""
        shapes = [(4, 3), (4, 4), (2, 4)]
        features, parameters = torch.randn((2, 3, 2, 3, 4)), torch.randn((2, 4 * 4 + 4 * 5 + 2 * 5))
        found = dynamic_head(features, parameters, shapes)
        for image in range(2):
            weights = list(torch.split(parameters[image], [12, 16, 8, 4, 4, 2]))
            value = features[image : image + 1]
            for layer, (rows, columns) in enumerate(shapes):
                kernel = weights[layer].view(rows, columns, 1, 1, 1)
                value = functional.conv3d(value.relu() if layer else value, kernel, weights[3 + layer])
            torch.testing.assert_close(found[image : image + 1], value)

    def test_the_controller_sees_task_and_pooled_bottleneck(self) -> None:
        net = build("dodnet", context()).network
        image = batch().image
        features, pooled = net.describe_image(image)
        torch.testing.assert_close(pooled, net.encoder(image)[-1].mean((2, 3, 4)))
        assert features.shape == (2, WIDTH, 8, 8, 8)
        assert net.controller.out_features == 162  # as in the paper for one organ per task
        code = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        expected = dynamic_head(features, net.controller(torch.cat((pooled, code), 1)), net.head_shapes)
        torch.testing.assert_close(net.head(features, pooled, [1, 0]), expected)
        assert not torch.allclose(net.head(features, pooled, [0, 0]), expected)

    def test_a_sample_teaches_the_task_of_its_dataset(self) -> None:
        """Weights of the controller that read the other task's code get no gradient."""
        built = build("dodnet", context())
        sample = replace(batch(), labelled=torch.tensor([[False, True]] * 2))
        sample.labels[sample.labels == 1] = 0
        total(built.loss(sample, 0)).backward()
        slope = built.network.controller.weight.grad
        assert (slope[:, -2] == 0).all()
        assert (slope[:, -1] != 0).any()

    def test_tasks_are_merged_after_one_pass_of_the_backbone(self) -> None:
        made = context(organs=["x", "y", "z"], organ_sets=[[0, 2], [1]])
        net, image = build("dodnet", made).network, batch().image
        passes: list[int] = []
        net.encoder.register_forward_hook(lambda *_: passes.append(1))
        merged = net(image)
        assert len(passes) == 1
        features, pooled = net.describe_image(image)
        both = margins(net.head(features, pooled, [0, 0]))
        torch.testing.assert_close(merged[:, [1, 3]], both)
        # the smaller set leaves its last channel unused
        single = margins(net.head(features, pooled, [1, 1])[:, :2])
        torch.testing.assert_close(merged[:, 2:3], single)
