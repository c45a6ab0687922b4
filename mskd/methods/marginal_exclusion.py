"""Marginal loss and exclusion loss.

G. Shi, L. Xiao, Y. Chen, S. K. Zhou, *Marginal loss and exclusion loss for partially supervised multi-organ
segmentation*, Medical Image Analysis 70, 2021 (arXiv 2007.03868). With p = softmax(s), U the unlabelled organs of a
case and q_0 = p_0 + Σ_{u ∈ U} p_u (probabilities are summed, never logits):

    L = CE(q, y) + Dice(q, y)                                    marginal, over labelled organs and the merged class
      + Σ_{u ∈ U} 2 Σ e p_u / (Σ e + Σ p_u) + Σ_{u ∈ U} mean e log(p_u + 1)     exclusion, e = 1 on labelled organs

The Dice of the merged class and the exclusion are what this has beyond `partial`. The form is the method, so
`training.loss` is not read; `training.dice_weight` weighs every Dice term, the exclusion's too.
"""

from __future__ import annotations

from torch import Tensor

from mskd.config.training import Training
from mskd.losses.exclusion import exclusion_loss, merged_background_dice
from mskd.methods.base import Built, MethodContext, deep_supervised, over_levels
from mskd.networks.unet import UNet
from mskd.training.patches import Batch

TITLE = "marginal + exclusion"
TRAINS = True
NEEDS: list[str] = []


def build(context: MethodContext) -> Built:
    """Return the network and its loss: merged supervision, and exclusion of unlabelled organs."""
    network = UNet(context.network, context.channels)
    training = context.training.model_copy(update={"loss": "marginal"})

    def loss(batch: Batch, step: int) -> dict[str, Tensor]:
        scores, _ = network.run(batch.image, deep=context.network.deep_supervision)
        return {
            "supervised": deep_supervised(scores, batch.labels, batch.labelled, training),
            "background": _merged_background(scores, batch, training),
            "exclusion": _exclusion(scores, batch, training),
        }

    return Built(network, loss)


def _merged_background(scores: list[Tensor], batch: Batch, training: Training) -> Tensor:
    def term(score: Tensor, labels: Tensor, level: int) -> Tensor:
        return training.dice_weight * merged_background_dice(score, labels, batch.labelled).mean()

    return over_levels(scores, batch.labels, term)


def _exclusion(scores: list[Tensor], batch: Batch, training: Training) -> Tensor:
    def term(score: Tensor, labels: Tensor, level: int) -> Tensor:
        dice, entropy = exclusion_loss(score, labels, batch.labelled)
        return training.dice_weight * dice + entropy

    return over_levels(scores, batch.labels, term)
