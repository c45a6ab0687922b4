"""Partial labels by the target adaptive loss (TAL): background and all unlabelled organs are one class.

X. Fang, P. Yan, *Multi-organ segmentation over partially labeled datasets with multi-scale feature abstraction*
(PIPO-FAN), IEEE TMI 2020; the same cross-entropy is the marginal loss of G. Shi et al., MedIA 2021. With
p = softmax(s), y the label of a voxel and U the background and the organs that the case's dataset does not label:

    CE = − log p_y  where y is a labelled organ,  − log Σ_{c ∈ U} p_c  elsewhere,

probabilities summed, not logits; plus soft Dice of every labelled organ, as every method has it. The form is the
method, so `training.loss` is not read: where a dataset labels one organ, `marginal` and `organ_wise` are the same.
"""

from __future__ import annotations

from torch import Tensor

from mskd.methods.base import Built, MethodContext, segmentation_terms
from mskd.networks.unet import UNet
from mskd.training.patches import Batch

TITLE = "partial labels (TAL)"
TRAINS = True
NEEDS: list[str] = []


def build(context: MethodContext) -> Built:
    """Return the network and its loss: merged supervision by the labels that there are."""
    network = UNet(context.network, context.channels)
    training = context.training.model_copy(update={"loss": "marginal"})

    def loss(batch: Batch, step: int) -> dict[str, Tensor]:
        return segmentation_terms(network, batch, batch.labels, batch.labelled, training)

    return Built(network, loss)
