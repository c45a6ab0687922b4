"""Conditional distillation: student and teachers compared on the organs that a scan's dataset does not label."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mskd.losses.distillation import NEVER, soft_dice_distance
from mskd.losses.supervision import IGNORE


def conditional_loss(
    scores: Tensor, margin: Tensor, taught: Tensor, labels: Tensor, labelled: Tensor, *, temperature: float
) -> Tensor:
    """Return soft Dice distance between conditional probabilities, summed over classes, mean over the batch.

    Classes are the background and the organs that are taught and not labelled. The teachers' scores are 0 for the
    background and their margins for organs. Locally labelled organs are left out of both softmaxes, which then give
    probabilities on condition that the voxel is none of them; accordingly voxels do not count where ground truth has a
    labelled organ or the teachers' best class is one. Organs of which nobody speaks join the student's background.

    Args:
        scores: Student logits (B, 1 + K, X, Y, Z).
        margin: Combined teacher margins (B, K, X, Y, Z); no gradient flows into them.
        taught: Organs that have a teacher, bool (B, K).
        labels: Study values 0 … K, 255 ignored, (B, X, Y, Z).
        labelled: Organs that each case's dataset labels, bool (B, K).
        temperature: τ of both softmaxes.
    """
    compared = (taught & ~labelled)[:, :, None, None, None]
    silent = (~taught & ~labelled)[:, :, None, None, None]
    rest = torch.cat((scores[:, :1], torch.where(silent, scores[:, 1:], -torch.inf)), 1).logsumexp(1, keepdim=True)
    student = torch.cat((rest, torch.where(compared, scores[:, 1:], NEVER)), 1)
    margin = margin.detach()
    teacher = torch.cat((torch.zeros_like(margin[:, :1]), torch.where(compared, margin, NEVER)), 1)
    p, q = functional.softmax(teacher / temperature, 1), functional.softmax(student / temperature, 1)
    mask = _judged_elsewhere(margin, taught, labels, labelled).to(scores.dtype)
    classes = functional.pad((taught & ~labelled), (1, 0), value=True)
    any_organ = (taught & ~labelled).any(1)  # the background alone has probability 1 in both
    return ((soft_dice_distance(q, p, mask) * classes).sum(1) * any_organ).mean()


def _judged_elsewhere(margin: Tensor, taught: Tensor, labels: Tensor, labelled: Tensor) -> Tensor:
    """Return where neither ground truth nor the teachers' best class is a labelled organ, bool (B, 1, X, Y, Z)."""
    local, others = ((taught & which)[:, :, None, None, None] for which in (labelled, ~labelled))
    best_local = torch.where(local, margin, -torch.inf).amax(1, keepdim=True)
    best_other = torch.where(others, margin, -torch.inf).amax(1, keepdim=True).clamp_min(0)  # 0: the background
    values = torch.where(labels == IGNORE, 0, labels).long()
    truth = functional.pad(labelled, (1, 0)).gather(1, values.flatten(1)).view_as(labels)
    return (best_local <= best_other) & (~truth & (labels != IGNORE))[:, None]
