"""Co-training: averages that follow, regions, and who learns from whom."""

from __future__ import annotations

from dataclasses import replace
from math import exp

import pytest
import torch
from test_methods import batch, build, context, total
from torch import Tensor

from mskd.config.training import Training
from mskd.losses.supervision import supervised_loss
from mskd.margins import margins
from mskd.methods import co_training, self_training
from mskd.methods.base import Built
from mskd.networks.unet import UNet

IGNORE = 255


def weights(net: torch.nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def rebuild() -> Built:
    """Two networks with their averages; the ramp is over after the first of four steps."""
    return build("co_training", context(training=Training(steps=4)))


class TestAverage:
    @pytest.mark.parametrize("decay", [0.0, 0.25, 1.0])
    def test_follows_by_hand(self, decay: float) -> None:
        torch.manual_seed(0)
        average, net = UNet(context().network, 3), UNet(context().network, 3)
        before = weights(average)
        co_training.follow(average, net, decay)
        torch.testing.assert_close(weights(average), decay * before + (1 - decay) * weights(net))

    def test_moves_before_each_step_with_a_warm_up(self) -> None:
        built = rebuild()
        before = weights(built.auxiliary["average"])
        assert torch.equal(before, weights(built.network))
        with torch.no_grad():
            for parameter in built.network.parameters():
                parameter.add_(1.0)
        built.loss(batch(), 8)
        found = weights(built.auxiliary["average"])
        torch.testing.assert_close(found, before + 0.5)  # decay (1 + 8) / (10 + 8)
        built.loss(batch(), 10**6)
        torch.testing.assert_close(weights(built.auxiliary["average"]), found + 0.01 * 0.5)

    def test_gets_no_gradient_and_is_not_saved(self) -> None:
        built = rebuild()
        total(built.loss(batch(), 4)).backward()
        for name in ("average", "other_average"):
            assert all(p.grad is None and not p.requires_grad for p in built.auxiliary[name].parameters())
        assert built.network.state_dict().keys() == UNet(context().network, 3).state_dict().keys()


class TestRegion:
    def test_dilation_by_hand(self) -> None:
        labels = torch.zeros((1, 9, 5, 5), dtype=torch.uint8)
        labels[0, 4, 2, 2], labels[0, 0, 0, 0], labels[0, 5, 2, 2] = 2, 1, IGNORE
        found = co_training.taught_region(labels, torch.tensor([[True, False]]), 2)
        assert not found[0, 0].any()  # has ground truth
        expected = torch.zeros((9, 5, 5), dtype=torch.bool)
        expected[2:7] = True
        expected[5, 2, 2] = False  # judged by nobody
        assert torch.equal(found[0, 1], expected)

    def test_without_reach_it_is_the_label(self) -> None:
        labels = batch().labels
        found = co_training.taught_region(labels, torch.zeros((2, 2), dtype=torch.bool), 0)
        assert torch.equal(found, torch.stack([labels == 1, labels == 2], 1))


class TestLoss:
    def test_peer_loss_by_hand(self) -> None:
        """Two voxels of one organ count, none of the other."""
        said = torch.tensor([0.9, 0.2, 0.5]).logit().view(1, 1, 3, 1, 1).expand(1, 2, 3, 1, 1)
        own = torch.tensor([0.6, 0.2, 0.1]).logit().view(1, 1, 3, 1, 1).expand(1, 2, 3, 1, 1)
        region = torch.zeros((1, 2, 3, 1, 1), dtype=torch.bool)
        region[0, 0, :2] = True
        expected = 0.9 * torch.tensor(0.9 / 0.6).log() + 0.1 * torch.tensor(0.1 / 0.4).log()
        assert co_training.peer_loss(own, said, region).item() == pytest.approx(expected.item() / 2, rel=1e-4)
        assert co_training.peer_loss(said, said, region | True).item() == pytest.approx(0, abs=1e-6)

    def test_each_learns_from_the_others_average(self) -> None:
        built, sample = rebuild(), batch()
        labels, _ = self_training.pseudo_labels(sample, [0, 1], 2)
        region = co_training.taught_region(labels, sample.labelled, co_training.DILATION)
        everything = torch.ones((2, 2), dtype=torch.bool)
        nets = {"": built.network, "_other": built.auxiliary["other"]}
        assert not torch.equal(weights(nets[""]), weights(nets["_other"]))
        terms = built.loss(sample, 4)  # past the ramp; the averages equal their networks still
        scores = {name: net(sample.image) for name, net in nets.items()}
        for name, peer in (("", "_other"), ("_other", "")):
            expected = supervised_loss(scores[name], labels, everything)
            assert terms[f"supervised{name}"].item() == pytest.approx(expected.item(), rel=1e-5)
            expected = co_training.peer_loss(margins(scores[name]), margins(scores[peer]), region)
            assert terms[f"peer{name}"].item() == pytest.approx(expected.item(), rel=1e-5)
            assert expected.item() > 0.01

    def test_the_others_loss_is_not_ones_own(self) -> None:
        built = rebuild()
        terms = built.loss(batch(), 4)
        (terms["peer_other"] + terms["supervised_other"]).backward()
        assert all(p.grad is None for p in built.network.parameters())
        assert all(p.grad is not None for p in built.auxiliary["other"].parameters() if p.requires_grad)

    def test_nothing_is_taught_where_all_is_labelled(self) -> None:
        sample = replace(batch(), labelled=torch.ones((2, 2), dtype=torch.bool))
        terms = rebuild().loss(sample, 4)
        assert terms["peer"].item() == terms["peer_other"].item() == 0

    def test_the_ramp(self) -> None:
        found = [co_training.peer_weight(step, 400) for step in (0, 50, 100, 399)]
        assert found == pytest.approx([exp(-5), exp(-1.25), 1, 1])
        built = rebuild()
        first, last = (built.loss(batch(), step)["peer"].item() for step in (0, 1))
        assert first == pytest.approx(exp(-5) * last)
