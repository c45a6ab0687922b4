"""A U-Net whose last three layers are made for each image and task: the method `dodnet`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mskd.config.model import Network
from mskd.margins import margins
from mskd.networks.merged import merge_margins
from mskd.networks.unet import UNet

WIDTH = 8


class DoDNet(UNet):
    """One encoder and decoder; a controller gives the weights of three 1 × 1 × 1 convolutions per image and task."""

    def __init__(self, settings: Network, organ_sets: list[list[int]], outputs: int) -> None:
        """Build with freshly initialised weights (torch's global random state).

        Args:
            settings: The study's network keys; `deep_supervision` has no effect, for there is a head at the finest
                level alone.
            organ_sets: Organs (0 … K − 1) of each task.
            outputs: 1 + K.
        """
        super().__init__(settings.model_copy(update={"deep_supervision": False}), outputs)  # starts as other methods
        self.replace_outputs(WIDTH)  # from the decoder's features to those of the dynamic head
        self.organ_sets, self.outputs = organ_sets, outputs
        self.head_shapes = [(WIDTH, WIDTH), (WIDTH, WIDTH), (1 + max(map(len, organ_sets)), WIDTH)]
        parameters = sum(rows * (columns + 1) for rows, columns in self.head_shapes)
        self.controller = nn.Linear(settings.features[-1] + len(organ_sets), parameters)

    def describe_image(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features of the head (B, 8, X, Y, Z) and the pooled bottleneck (B, C) of one backbone pass."""
        bottleneck = f"encoder{len(self.settings.features) - 1}"
        scores, found = self.run(image, [bottleneck])
        return scores[0], found[bottleneck].mean((2, 3, 4))

    def head(self, features: Tensor, pooled: Tensor, tasks: list[int]) -> Tensor:
        """Return the scores of one task per image: background, its organs, and channels that it does not use.

        Args:
            features: (B, 8, X, Y, Z).
            pooled: Pooled bottleneck (B, C).
            tasks: Organ set of each image.

        Returns:
            (B, 1 + size of the largest set, X, Y, Z).
        """
        code = functional.one_hot(torch.tensor(tasks, device=pooled.device), len(self.organ_sets)).to(pooled.dtype)
        return self._head_of_code(features, pooled, code)

    def _head_of_code(self, features: Tensor, pooled: Tensor, code: Tensor) -> Tensor:
        return dynamic_head(features, self.controller(torch.cat((pooled, code), 1)), self.head_shapes)

    def forward(self, image: Tensor) -> Tensor:
        """Return scores (B, 1 + K, X, Y, Z) for an image (B, 1, X, Y, Z): one backbone pass, every task, merged."""
        features, pooled = self.describe_image(image)
        # expanded, not a list of tasks: `mskd export` traces this without knowing the batch size
        codes = torch.eye(len(self.organ_sets), device=pooled.device, dtype=pooled.dtype)[:, None]
        codes = codes.expand(-1, pooled.shape[0], -1)  # (task, B, task)
        said = (
            (
                margins(self._head_of_code(features, pooled, code)[:, : 1 + len(organs)]),
                [1 + organ for organ in organs],
            )
            for code, organs in zip(codes, self.organ_sets, strict=True)
        )
        return merge_margins(said, self.outputs)

    def describe(self) -> dict[str, Any]:
        """Return what `build` needs to make this network again."""
        settings = self.settings.model_dump(mode="json")
        return {"kind": "dodnet", "settings": settings, "organ_sets": self.organ_sets, "outputs": self.outputs}


def dynamic_head(features: Tensor, parameters: Tensor, shapes: list[tuple[int, int]]) -> Tensor:
    """Apply 1 × 1 × 1 convolutions with ReLU between them, each image with weights of its own.

    Args:
        features: (B, C, X, Y, Z).
        parameters: For each image the weights (rows × columns) of every layer, then the biases of every layer, (B, P).
        shapes: Rows (output channels) and columns (input channels) of each layer.

    Returns:
        (B, rows of the last layer, X, Y, Z).
    """
    sizes = [rows * columns for rows, columns in shapes] + [rows for rows, _ in shapes]
    parts = torch.split(parameters, sizes, 1)
    values = features.flatten(2)
    for layer, (rows, columns) in enumerate(shapes):
        weight, bias = parts[layer].view(-1, rows, columns), parts[len(shapes) + layer].unsqueeze(2)
        values = torch.baddbmm(bias, weight, functional.relu(values) if layer else values)
    return values.view(values.shape[0], -1, *features.shape[2:])


def build(description: dict[str, Any]) -> DoDNet:
    """Build the network of a model folder."""
    settings = Network.model_validate(description["settings"])
    return DoDNet(settings, description["organ_sets"], int(description["outputs"]))
