"""Merged background and exclusion: what a partly labelled scan says of the organs that it does not label.

A voxel of a labelled organ is known not to be any other organ. Exclusion penalises the probability that unlabelled
organs have there; on the labelled organs themselves cross-entropy says the same.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mskd.losses.supervision import IGNORE, SMOOTH, soft_dice_loss

EPSILON = 1.0  # keeps the logarithm of a vanishing probability finite, and 0 where nothing overlaps


def merged_background_dice(scores: Tensor, labels: Tensor, labelled: Tensor) -> Tensor:
    """Return 1 − soft Dice of the class that background and unlabelled organs form together, (B,).

    Args:
        scores: Logits (B, 1 + K, X, Y, Z).
        labels: Study values 0 … K, 255 ignored, (B, X, Y, Z).
        labelled: Organs that each case's dataset labels, bool (B, K).
    """
    counts = torch.cat((torch.ones_like(labelled[:, :1]), ~labelled), 1)[:, :, None, None, None]
    probability = (functional.softmax(scores, 1) * counts).sum(1, keepdim=True)
    target = ~_labelled_mask(labels, labelled)
    valid = (labels != IGNORE)[:, None]
    return soft_dice_loss(probability, target.to(scores.dtype), valid)[:, 0]


def exclusion_loss(scores: Tensor, labels: Tensor, labelled: Tensor) -> tuple[Tensor, Tensor]:
    """Return exclusion Dice and exclusion cross-entropy, each summed over unlabelled organs, mean over the batch.

    With e = 1 on voxels of labelled organs and p_u the probability of an unlabelled organ u:

        Dice_u = 2 Σ e p_u / (Σ e + Σ p_u),   CE_u = mean over judged voxels of e log(p_u + 1).

    Both are 0 exactly where p_u is 0 on every voxel of a labelled organ.

    Args:
        scores: Logits (B, 1 + K, X, Y, Z).
        labels: Study values 0 … K, 255 ignored, (B, X, Y, Z).
        labelled: Organs that each case's dataset labels, bool (B, K).
    """
    space = (2, 3, 4)
    valid = (labels != IGNORE)[:, None].to(scores.dtype)
    excluded = _labelled_mask(labels, labelled).to(scores.dtype)
    probability = functional.softmax(scores, 1)[:, 1:] * valid
    overlap = (probability * excluded).sum(space)
    dice = 2 * overlap / (probability.sum(space) + excluded.sum(space) + SMOOTH)
    entropy = (torch.log(probability + EPSILON) * excluded).sum(space) / valid.sum(space).clamp_min(1)
    return (dice * ~labelled).sum(1).mean(), (entropy * ~labelled).sum(1).mean()


def _labelled_mask(labels: Tensor, labelled: Tensor) -> Tensor:
    """Return where a labelled organ is, bool (B, 1, X, Y, Z)."""
    known = functional.pad(labelled, (1, 0))  # the background's value 0 is no organ
    values = torch.where(labels == IGNORE, 0, labels).long()
    return known.gather(1, values.flatten(1)).view_as(labels)[:, None]
