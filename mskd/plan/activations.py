"""Estimates GPU memory from the sizes of activations, without a GPU and without computing anything."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from mskd.config.model import Network
from mskd.config.training import Training
from mskd.networks.unet import InstanceNorm, UNet

KEPT = (nn.Conv3d, nn.ConvTranspose3d, InstanceNorm)  # the activation after a norm works in place
LOSS_COPIES = 8  # float32 maps of the scores' size that cross-entropy and Dice keep, with their gradients


def activation_mib(
    settings: Network, channels: int, patch: tuple[int, int, int], batch: int, training: Training | None
) -> float:
    """Return an estimate of the peak memory on a GPU in MiB, the CUDA context not counted.

    Args:
        settings: The study's network keys.
        channels: Output channels.
        patch: Patch or window in voxels.
        batch: Patches per step.
        training: For a training its keys; None for inference, which keeps only skips and the finest level.
    """
    voxels = prod(patch) * batch
    weights = 4 * _meta_network(settings, channels)[1]
    if training is None:
        skips = sum(f / prod(s) for f, s in zip(settings.features, settings.level_strides, strict=True))
        return (weights + 4 * voxels * (skips + 4 * settings.features[0] + channels)) / 2**20
    kept = batch * _kept_numbers(settings, channels, patch)
    width = 2 if training.mixed_precision else 4
    states = 2 if training.optimiser == "adamw" else 1
    copies = 2 + states + (1 if training.ema_decay else 0)
    return (weights * copies + width * kept + 4 * voxels * channels * LOSS_COPIES) / 2**20


def parameter_count(settings: Network, channels: int) -> int:
    """Return the number of parameters of a study's network."""
    return _meta_network(settings, channels)[1]


def _meta_network(settings: Network, channels: int) -> tuple[UNet, int]:
    with torch.device("meta"):
        network = UNet(settings, channels)
    return network, sum(p.numel() for p in network.parameters())


def _kept_numbers(settings: Network, channels: int, patch: tuple[int, int, int]) -> int:
    """Return how many numbers a forward pass of one patch keeps for the backward pass."""
    network, _ = _meta_network(settings, channels)
    total = 0

    def count(module: nn.Module, inputs: Any, output: Tensor) -> None:
        nonlocal total
        total += output.numel()

    def count_joined(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal total
        total += inputs[0].numel()  # what came from below, joined with the skip

    for module in network.modules():
        if isinstance(module, KEPT):
            module.register_forward_hook(count)
    for stage in network.decoder.stages:
        stage.register_forward_pre_hook(count_joined)
    network.train()
    network(torch.empty((1, 1, *patch), device="meta"))
    return total
