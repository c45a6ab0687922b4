"""Naive union: one network on all datasets; organs that a dataset does not label are taken for background."""

from __future__ import annotations

import torch
from torch import Tensor

from mskd.methods.base import Built, MethodContext, segmentation_terms
from mskd.networks.unet import UNet
from mskd.training.patches import Batch

TITLE = "naive union"
TRAINS = True
NEEDS: list[str] = []


def build(context: MethodContext) -> Built:
    """Return the network and its loss: supervision on every organ, labelled or not."""
    network = UNet(context.network, context.channels)

    def loss(batch: Batch, step: int) -> dict[str, Tensor]:
        everything = torch.ones_like(batch.labelled)
        return segmentation_terms(network, batch, batch.labels, everything, context.training)

    return Built(network, loss)
