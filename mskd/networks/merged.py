"""Several teachers side by side as one network: the method `individual`, N forward passes for one answer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from mskd.margins import margins
from mskd.networks import unet

FAR = -30.0  # margin of an organ that no member owns


class MergedTeachers(nn.Module):
    """Scores are the organs' margins, and 0 for the background.

    The class with the largest score is the one with the largest of (1 − max p_k, p_1, …, p_K). Several members that own
    one organ are averaged.
    """

    def __init__(self, members: dict[str, unet.UNet], organs: dict[str, list[int]], channels: int) -> None:
        """Merge networks.

        Args:
            members: Networks by teacher.
            organs: For each teacher the output channel (1 … K) of each organ that it owns, in its own order.
            channels: 1 + K.
        """
        super().__init__()
        # torch allows no dot in a name, and no name of its own attributes (`train`, `type`, …)
        self.members = nn.ModuleDict({_module_name(name): member for name, member in members.items()})
        self.organs, self.channels = organs, channels

    def forward(self, image: Tensor) -> Tensor:
        """Return scores (B, 1 + K, X, Y, Z) for an image (B, 1, X, Y, Z)."""
        said = ((margins(self._member(name)(image)), owned) for name, owned in self.organs.items())
        return merge_margins(said, self.channels)

    def describe(self) -> dict[str, Any]:
        """Return what `build` needs to make this network again."""
        members = {name: self._member(name).describe() for name in self.organs}
        return {"kind": "merged", "members": members, "organs": self.organs, "channels": self.channels}

    def _member(self, name: str) -> unet.UNet:
        return cast(unet.UNet, self.members[_module_name(name)])


def merge_margins(said: Iterable[tuple[Tensor, list[int]]], channels: int) -> Tensor:
    """Return scores (B, 1 + K, X, Y, Z): 0 for the background, the mean margin of each organ, far less for untold ones.

    Args:
        said: One after another, margins (B, n, X, Y, Z) and the n output channels (1 … K) that they are about.
        channels: 1 + K.

    Raises:
        ValueError: If nobody says anything.
    """
    scores: Tensor | None = None
    counts = [0] * channels
    for margin, owned in said:
        if scores is None:
            scores = margin.new_zeros((margin.shape[0], channels, *margin.shape[2:]))
        for index, channel in enumerate(owned):
            scores[:, channel] += margin[:, index]
            counts[channel] += 1
    if scores is None:
        raise ValueError("no network to merge")
    factors = torch.tensor([1.0 / max(1, n) for n in counts], device=scores.device, dtype=scores.dtype)
    scores = scores * factors.view(1, -1, 1, 1, 1)
    for channel in range(1, channels):
        if counts[channel] == 0:
            scores[:, channel] = FAR
    return scores


def _module_name(teacher: str) -> str:
    return "teacher:" + teacher.replace(".", "%")


def build(description: dict[str, Any]) -> MergedTeachers:
    """Build the network of a model folder."""
    members = {name: unet.build(member) for name, member in description["members"].items()}
    return MergedTeachers(members, description["organs"], int(description["channels"]))
