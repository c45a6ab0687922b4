"""Self-training: the teachers' hard labels fill the missing organs, ground truth stands on the labelled ones.

This is MS-KD without soft targets, regions and features: the baseline that matters. A voxel that several teachers claim
goes to the largest margin. An organ of which nobody speaks, neither ground truth nor a teacher, is not supervised.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mskd.methods.base import Built, MethodContext, segmentation_terms
from mskd.networks.unet import UNet
from mskd.regions import combine_teachers
from mskd.training.patches import Batch, PatchNeeds

TITLE = "self-training"
TRAINS = True
NEEDS = ["targets"]
IGNORE = 255


def build(context: MethodContext) -> Built:
    """Return the network and its loss: supervision by ground truth and pseudo-labels on the organs that have either."""
    network = UNet(context.network, context.channels)

    def loss(batch: Batch, step: int) -> dict[str, Tensor]:
        labels, known = pseudo_labels(batch, context.margin_organs, len(context.organs))
        return segmentation_terms(network, batch, labels, known, context.training)

    return Built(network, loss, PatchNeeds(logits=True))


def pseudo_labels(batch: Batch, owned: list[int], n_organs: int) -> tuple[Tensor, Tensor]:
    """Return labels in which organs without ground truth come from the teachers.

    Returns:
        Labels, uint8 (B, X, Y, Z), and the organs that they speak of, bool (B, K): those with ground truth or a teacher
        that was asked about the case.
    """
    if batch.margins is None:
        raise ValueError("self-training needs the teachers' margins")
    margin, taught, _ = combine_teachers(batch.margins, owned, n_organs, "mean", spoken=batch.spoken)
    usable = (taught & ~batch.labelled)[:, :, None, None, None]
    best, organ = torch.where(usable, margin, -torch.inf).max(1)
    filled = torch.where(best > 0, organ + 1, 0).to(torch.uint8)
    return torch.where(batch.labels == 0, filled, batch.labels), taught | batch.labelled
