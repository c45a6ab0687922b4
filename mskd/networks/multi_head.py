"""A U-Net with a segmentation layer for each set of organs that datasets label: the method `multi_head`."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mskd.config.model import Network
from mskd.margins import margins
from mskd.networks.merged import merge_margins
from mskd.networks.unet import UNet


class MultiHead(UNet):
    """One encoder and decoder, several 1 × 1 × 1 segmentation layers.

    `run` returns the channels of all heads side by side, so that one convolution computes them; calling the network
    merges them into scores of background and organs.
    """

    def __init__(self, settings: Network, organ_sets: list[list[int]], outputs: int) -> None:
        """Build with freshly initialised weights (torch's global random state).

        Args:
            settings: The study's network keys.
            organ_sets: Organs (0 … K − 1) of each head.
            outputs: 1 + K.
        """
        super().__init__(settings, outputs)  # the same start as other methods
        self.replace_outputs(sum(1 + len(organs) for organs in organ_sets))
        self.organ_sets, self.outputs = organ_sets, outputs

    @property
    def first_channels(self) -> list[int]:
        """First channel of each head, its background, in what `run` returns."""
        return [sum(1 + len(organs) for organs in self.organ_sets[:head]) for head in range(len(self.organ_sets))]

    def forward(self, image: Tensor) -> Tensor:
        """Return scores (B, 1 + K, X, Y, Z) for an image (B, 1, X, Y, Z): the heads' margins, merged."""
        scores = self.run(image)[0][0]
        said = (
            (margins(scores[:, first : first + 1 + len(organs)]), [1 + organ for organ in organs])
            for first, organs in zip(self.first_channels, self.organ_sets, strict=True)
        )
        return merge_margins(said, self.outputs)

    def describe(self) -> dict[str, Any]:
        """Return what `build` needs to make this network again."""
        settings = self.settings.model_dump(mode="json")
        return {"kind": "multi_head", "settings": settings, "organ_sets": self.organ_sets, "outputs": self.outputs}


def build(description: dict[str, Any]) -> MultiHead:
    """Build the network of a model folder."""
    settings = Network.model_validate(description["settings"])
    return MultiHead(settings, description["organ_sets"], int(description["outputs"]))
