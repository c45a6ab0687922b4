"""Full labels: the upper bound, trained on the labels of every organ in every case, where the study has them."""

from __future__ import annotations

import torch
from torch import Tensor

from mskd.methods.base import Built, MethodContext, segmentation_terms
from mskd.networks.unet import UNet
from mskd.training.patches import Batch, PatchNeeds

TITLE = "full labels (upper bound)"
TRAINS = True
NEEDS = ["withheld_labels"]


def build(context: MethodContext) -> Built:
    """Return the network and its loss: supervision on every organ by the withheld labels."""
    network = UNet(context.network, context.channels)

    def loss(batch: Batch, step: int) -> dict[str, Tensor]:
        everything = torch.ones_like(batch.labelled)
        return segmentation_terms(network, batch, batch.labels, everything, context.training)

    return Built(network, loss, PatchNeeds(labels="withheld_labels"))
