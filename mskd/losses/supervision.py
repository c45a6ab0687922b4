"""Supervision by labels, organ by organ, so that unlabelled organs are never taken for background.

For a labelled organ k the probability p_k = softmax(s)_k is compared with the mask of k: cross-entropy either one
organ against the rest (`organ_wise`), or one softmax in which background and all unlabelled organs are one class, their
probabilities summed by log-sum-exp (`marginal`). Both add soft Dice per labelled organ. With every organ labelled
`marginal` is ordinary cross-entropy.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from mskd.margins import margins

SMOOTH = 1e-5
IGNORE = 255


def supervised_loss(
    scores: Tensor,
    labels: Tensor,
    labelled: Tensor,
    *,
    form: Literal["organ_wise", "marginal"] = "organ_wise",
    dice_weight: float = 1.0,
    student: Tensor | None = None,
) -> Tensor:
    """Return cross-entropy plus soft Dice on labelled organs, per sample, averaged over the batch.

    Args:
        scores: Student logits (B, 1 + K, X, Y, Z).
        labels: Study values 0 … K, 255 ignored, (B, X, Y, Z).
        labelled: Organs that each case's dataset labels, bool (B, K).
        form: Cross-entropy of each organ against the rest, summed; or one merged softmax.
        dice_weight: Weight of the Dice term.
        student: `margins(scores)`, where they are known already.
    """
    n_organs = scores.shape[1] - 1
    valid = (labels != IGNORE).unsqueeze(1)  # (B, 1, X, Y, Z)
    values = torch.arange(1, n_organs + 1, dtype=labels.dtype, device=labels.device).view(1, -1, 1, 1, 1)
    target = (labels.unsqueeze(1) == values).to(scores.dtype)
    log_odds = margins(scores) if student is None else student
    if form == "organ_wise":
        entropy = functional.binary_cross_entropy_with_logits(log_odds, target, reduction="none")
        cross_entropy = (masked_mean(entropy, valid) * labelled).sum(1)
    else:
        cross_entropy = _marginal_cross_entropy(scores, labels, labelled, valid)
    if dice_weight == 0:
        return cross_entropy.mean()
    dice = soft_dice_loss(torch.sigmoid(log_odds), target, valid)
    return (cross_entropy + dice_weight * (dice * labelled).sum(1)).mean()


def soft_dice_loss(probability: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Return 1 − soft Dice over the voxels of a mask, (B, K).

    Args:
        probability: (B, K, X, Y, Z).
        target: Mask or probability, (B, K, X, Y, Z).
        mask: Voxels that count, bool (B, 1 or K, X, Y, Z).
    """
    space, counts = (2, 3, 4), mask.to(probability.dtype)  # a product: on a CPU torch.where takes ten times as long
    overlap = (probability * target * counts).sum(space)
    total = ((probability + target) * counts).sum(space)
    return 1 - (2 * overlap + SMOOTH) / (total + SMOOTH)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of finite values over the voxels of a mask, (B, K); 0 where the mask is empty."""
    space = (2, 3, 4)
    return (values * mask.to(values.dtype)).sum(space) / mask.sum(space).clamp_min(1)


def _marginal_cross_entropy(scores: Tensor, labels: Tensor, labelled: Tensor, valid: Tensor) -> Tensor:
    log_p = functional.log_softmax(scores, 1)
    keep = torch.cat((torch.zeros_like(labelled[:, :1]), labelled), 1)[:, :, None, None, None]  # (B, 1 + K, …)
    rest = torch.logsumexp(torch.where(keep, -torch.inf, log_p), 1)  # background and all unlabelled organs
    index = torch.where(labels == IGNORE, 0, labels).long().unsqueeze(1)
    own = log_p.gather(1, index)
    known = keep.expand_as(log_p).gather(1, index)
    log_likelihood = torch.where(known, own, rest.unsqueeze(1))
    return -masked_mean(log_likelihood, valid).squeeze(1)
