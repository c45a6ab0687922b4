"""Networks: taps, deep supervision, descriptions, and teachers merged into one."""

from __future__ import annotations

import json
from math import log
from typing import Any

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from torch import Tensor, nn

from mskd.config.model import Network
from mskd.margins import margins
from mskd.models import build_network
from mskd.networks.merged import FAR, MergedTeachers
from mskd.networks.unet import UNet

SMALL: dict[str, Any] = {"features": [2, 3, 5], "convolutions_per_level": 1}
UNEVEN = [(1, 1, 1), (1, 2, 2), (2, 2, 1)]


def network(channels: int = 3, seed: int = 0, **settings: Any) -> UNet:
    torch.manual_seed(seed)
    return UNet(Network(**{**SMALL, **settings}), channels).eval()


def image(batch: int = 2) -> Tensor:
    return torch.rand((batch, 1, 8, 8, 8), generator=torch.Generator().manual_seed(0)) * 2 - 1


class TestUNet:
    @pytest.mark.parametrize("architecture", ["plain", "residual"])
    @pytest.mark.parametrize("strides", [None, UNEVEN])
    def test_taps_have_the_stated_shapes(self, architecture: str, strides: Any) -> None:
        net = network(architecture=architecture, strides=strides)
        assert net.settings.taps == ["encoder0", "encoder1", "encoder2", "decoder0", "decoder1"]
        scores, features = net.run(image(), net.settings.taps)
        assert [tuple(s.shape) for s in scores] == [(2, 3, 8, 8, 8)]
        expected = {1: (4, 4, 4), 2: (2, 2, 2)} if strides is None else {1: (8, 4, 4), 2: (4, 2, 4)}
        expected[0] = (8, 8, 8)
        for tap, feature in features.items():
            level = int(tap[-1])
            assert tuple(feature.shape) == (2, SMALL["features"][level], *expected[level]), tap
            assert net.tap_channels(tap) == feature.shape[1]
            stride = net.settings.level_strides[net.settings.tap_level(tap)]
            assert tuple(8 // s for s in stride) == expected[level]

    def test_taps_are_what_the_next_layer_reads(self) -> None:
        net = network()
        scores, features = net.run(image(), ["decoder0"])
        torch.testing.assert_close(net.decoder.seg_layers[-1](features["decoder0"]), scores[0])
        assert torch.equal(net(image()), scores[0])

    def test_equals_the_library_it_is_built_from(self) -> None:
        net = network(channels_last=False)
        torch.manual_seed(0)
        reference = PlainConvUNet(
            input_channels=1,
            n_stages=3,
            features_per_stage=[2, 3, 5],
            conv_op=nn.Conv3d,
            kernel_sizes=3,
            strides=[1, 2, 2],
            n_conv_per_stage=1,
            num_classes=3,
            n_conv_per_stage_decoder=1,
            conv_bias=True,
            norm_op=nn.InstanceNorm3d,
            norm_op_kwargs={"eps": 1e-5, "affine": True},
            nonlin=nn.LeakyReLU,
            nonlin_kwargs={"inplace": True},
        )
        reference.apply(InitWeights_He(1e-2))
        torch.testing.assert_close(net(image()), reference.eval()(image()))

    def test_deep_supervision_returns_levels_finest_first(self) -> None:
        net = network(deep_supervision=True)
        scores, _ = net.run(image(), deep=True)
        assert [tuple(s.shape[1:]) for s in scores] == [(3, 8, 8, 8), (3, 4, 4, 4)]
        assert torch.equal(scores[0], net(image()))
        assert all(layer.weight.requires_grad for layer in net.decoder.seg_layers)

    def test_unused_layers_do_not_learn(self) -> None:
        net = network()
        net(image()).square().sum().backward()
        for name, parameter in net.named_parameters():
            assert (parameter.grad is not None) == parameter.requires_grad, name

    def test_each_weight_is_stored_once(self) -> None:
        for architecture in ("plain", "residual"):
            state = network(architecture=architecture).state_dict()
            assert len({t.data_ptr() for t in state.values()}) == len(state)

    def test_memory_order_changes_no_result(self) -> None:
        one, two = network(channels_last=True), network(channels_last=False)
        assert next(one.parameters()).is_contiguous(memory_format=torch.channels_last_3d)
        torch.testing.assert_close(one(image()), two(image()))

    def test_weights_follow_the_seed(self) -> None:
        assert torch.equal(network(seed=1)(image()), network(seed=1)(image()))
        assert not torch.equal(network(seed=1)(image()), network(seed=2)(image()))

    def test_samples_do_not_see_each_other(self) -> None:
        net = network()
        both = net.train()(image())
        torch.testing.assert_close(both[:1], net(image()[:1]))

    @pytest.mark.parametrize("settings", [{}, {"architecture": "residual", "strides": UNEVEN}])
    def test_is_made_again_from_its_description(self, settings: dict[str, Any]) -> None:
        net = network(**settings)
        again = build_network(json.loads(json.dumps(net.describe())))
        again.load_state_dict(net.state_dict())
        assert torch.equal(again.eval()(image()), net(image()))

    def test_an_unknown_tap(self) -> None:
        with pytest.raises(ValueError, match=r"no tap 'decoder2'.*encoder2"):
            network().tap_channels("decoder2")


class Answer(nn.Module):
    """Answers with these scores, one voxel after another."""

    def __init__(self, scores: list[list[float]] | Tensor) -> None:
        super().__init__()
        self.scores = torch.as_tensor(scores).T[None, :, :, None, None]

    def forward(self, image: Tensor) -> Tensor:
        return self.scores


class TestMergedTeachers:
    def test_equals_running_the_teachers_apart(self) -> None:
        liver, others = network(2, seed=1), network(3, seed=2)
        merged = MergedTeachers({"a": liver, "b": others}, {"a": [2], "b": [3, 1]}, 4).eval()
        found = merged(image())
        assert (found[:, 0] == 0).all()
        torch.testing.assert_close(found[:, 2], margins(liver(image()))[:, 0])
        torch.testing.assert_close(found[:, 3], margins(others(image()))[:, 0])
        torch.testing.assert_close(found[:, 1], margins(others(image()))[:, 1])

    def test_the_winner_is_the_most_probable_of_organs_and_background(self) -> None:
        generator = torch.Generator().manual_seed(0)
        one, two = torch.randn((200, 2), generator=generator), torch.randn((200, 3), generator=generator)
        members: Any = {"a": Answer(one), "b": Answer(two)}
        found = MergedTeachers(members, {"a": [1], "b": [2, 3]}, 4)(torch.zeros((1, 1, 200, 1, 1)))
        p = torch.cat((one.softmax(1)[:, 1:], two.softmax(1)[:, 1:]), 1)
        expected = torch.cat((1 - p.amax(1, keepdim=True), p), 1).argmax(1)
        assert len(expected.unique()) == 4
        assert torch.equal(found[0].argmax(0).flatten(), expected)

    def test_members_that_share_an_organ_are_averaged_and_an_unowned_one_never_wins(self) -> None:
        members: Any = {"a": Answer([[0.0, 3]]), "b": Answer([[0.0, -1]]), "c": Answer([[log(2), log(2), 0.0]])}
        found = MergedTeachers(members, {"a": [1], "b": [1], "c": [2, 1]}, 4)(torch.zeros((1, 1, 1, 1, 1))).flatten()
        # c: organ 2 has 2/5, organ 1 has 1/5
        assert found.tolist() == pytest.approx([0, (3 - 1 - log(4)) / 3, log(2 / 3), FAR], rel=1e-5)

    @pytest.mark.parametrize("names", [("site.a", "site_a"), ("train", "type"), ("b", "a")])
    def test_any_teacher_name_and_a_round_trip(self, names: tuple[str, str]) -> None:
        members = {names[0]: network(2, seed=1), names[1]: network(2, seed=2)}
        merged = MergedTeachers(members, {names[0]: [1], names[1]: [2]}, 3).eval()
        description = json.loads(json.dumps(merged.describe(), sort_keys=True))
        again = build_network(description)
        again.load_state_dict(merged.state_dict())
        assert torch.equal(again.eval()(image()), merged(image()))
        torch.testing.assert_close(merged(image())[:, 2], margins(members[names[1]](image()))[:, 0])
