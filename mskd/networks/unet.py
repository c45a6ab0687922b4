"""The nnU-Net-style U-Net of dynamic-network-architectures, with taps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from torch import Tensor, nn
from torch.nn import functional

from mskd.config.model import Network


class UNet(nn.Module):
    """A U-Net whose activations can be tapped by name.

    `encoder<l>` and `decoder<l>` are the activations at level l (0 = finest) before and after the skip connection.
    """

    def __init__(self, settings: Network, channels: int) -> None:
        """Build with freshly initialised weights (torch's global random state).

        Args:
            settings: The study's network keys.
            channels: Output channels, background included.
        """
        super().__init__()
        self.settings, self.channels = settings, channels
        levels = len(settings.features)
        strides = [list(s) for s in (settings.strides or [(1, 1, 1)] + [(2, 2, 2)] * (levels - 1))]
        common: dict[str, Any] = {
            "input_channels": 1,
            "n_stages": levels,
            "features_per_stage": settings.features,
            "conv_op": nn.Conv3d,
            "kernel_sizes": 3,
            "strides": strides,
            "num_classes": channels,
            "n_conv_per_stage_decoder": settings.convolutions_per_level,
            "conv_bias": True,
            "norm_op": InstanceNorm,
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "nonlin": nn.LeakyReLU,
            "nonlin_kwargs": {"inplace": True},
            "deep_supervision": False,
        }
        if settings.architecture == "residual":
            net = ResidualEncoderUNet(n_blocks_per_stage=settings.convolutions_per_level, **common)
        else:
            net = PlainConvUNet(n_conv_per_stage=settings.convolutions_per_level, **common)
        net.apply(InitWeights_He(1e-2))
        self.encoder, self.decoder = net.encoder, net.decoder
        self.decoder.encoder = None  # the decoder keeps a second reference, which would be saved twice
        for block in self.modules():
            if hasattr(block, "all_modules"):  # what the forward pass uses; these name the same layers again
                for name in ("conv", "dropout", "norm", "nonlin"):
                    block._modules.pop(name, None)
        if not settings.deep_supervision:
            for layer in self.decoder.seg_layers[:-1]:
                layer.requires_grad_(False)
        if settings.channels_last:  # weights too: of the images alone the backward pass has nothing
            self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def forward(self, image: Tensor) -> Tensor:
        """Return scores (B, C, X, Y, Z) for an image (B, 1, X, Y, Z)."""
        return self.run(image)[0][0]

    def run(
        self, image: Tensor, taps: Sequence[str] = (), *, deep: bool = False
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Return scores and tapped activations of one forward pass.

        Args:
            image: (B, 1, X, Y, Z); X, Y, Z are multiples of the coarsest stride.
            taps: Names of the activations to return.
            deep: Return the scores of every decoder level, finest first, instead of the finest alone.
        """
        if self.settings.channels_last:
            image = image.contiguous(memory_format=torch.channels_last_3d)
        skips: list[Tensor] = self.encoder(image)
        found = {f"encoder{level}": skip for level, skip in enumerate(skips)}
        scores = []
        below = skips[-1]
        last = len(self.decoder.stages) - 1
        for stage, (up, block) in enumerate(zip(self.decoder.transpconvs, self.decoder.stages, strict=True)):
            level = last - stage
            below = block(torch.cat((up(below), skips[level]), 1))
            found[f"decoder{level}"] = below
            if deep or level == 0:
                scores.append(self.decoder.seg_layers[stage](below))
        return scores[::-1], {tap: found[tap] for tap in taps}

    def replace_outputs(self, channels: int) -> None:
        """Give the network other output channels; all other weights stay as the same random state made them.

        Args:
            channels: Channels of the new segmentation layers, freshly initialised.
        """
        for stage, old in enumerate(self.decoder.seg_layers):
            layer = nn.Conv3d(old.in_channels, channels, 1).apply(InitWeights_He(1e-2))
            layer.requires_grad_(old.weight.requires_grad)
            self.decoder.seg_layers[stage] = layer
        self.channels = channels

    def tap_channels(self, tap: str) -> int:
        """Return the number of channels of a tap."""
        return self.settings.features[self.settings.tap_level(tap)]

    def describe(self) -> dict[str, Any]:
        """Return what `build` needs to make this network again."""
        return {"kind": "unet", "settings": self.settings.model_dump(mode="json"), "channels": self.channels}


class InstanceNorm(nn.GroupNorm):
    """Instance normalisation, as one group per channel.

    On a CPU torch's InstanceNorm3d leaves channels-last memory, so that every layer copies its activations: a forward
    pass took 1.3 times as long, a training step 1.1 times. On a GPU autocast turns GroupNorm into float32.
    """

    def __init__(self, channels: int, eps: float = 1e-5, affine: bool = True) -> None:
        """Take the arguments of InstanceNorm3d."""
        super().__init__(channels, channels, eps=eps, affine=affine)

    def forward(self, image: Tensor) -> Tensor:
        """Return (B, C, X, Y, Z) with mean 0 and variance 1 per sample and channel, scaled and shifted."""
        if image.device.type == "cpu":
            return super().forward(image)
        return functional.instance_norm(image, weight=self.weight, bias=self.bias, eps=self.eps)


def build(description: dict[str, Any]) -> UNet:
    """Build the network of a model folder."""
    return UNet(Network.model_validate(description["settings"]), int(description["channels"]))
