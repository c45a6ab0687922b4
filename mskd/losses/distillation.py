"""Region-wise distillation from teachers' targets, reconstructed from the description in arXiv 2108.02559.

Logits-wise, for each organ k with margin m_k (teachers) and r_k (student):

    KL( Bernoulli(σ(m_k / τ)) ‖ Bernoulli(σ(r_k / τ)) ) · τ²  over O_k ∪ B, per sample, plus soft Dice on the same
    voxels.

Feature-wise, for each teacher n and tap l:

    ‖ M ⊙ (φ(F_S) − F_T) ‖² / (C Σ M), φ a 1 × 1 × 1 convolution that is thrown away after training.
"""

from __future__ import annotations

from functools import reduce
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from mskd.cache.projection import FLAT
from mskd.losses.supervision import SMOOTH, masked_mean
from mskd.margins import margins
from mskd.regions import Regions, any_organ

HARD_MARGIN = 20.0
NEVER = -1e4  # score of a class that a softmax leaves out


def bernoulli_kl(teacher: Tensor, student: Tensor, probability: Tensor | None = None) -> Tensor:
    """Return KL(σ(teacher) ‖ σ(student)) per element; 0 where they are equal.

    Args:
        teacher: Log-odds; no gradient flows into it.
        student: Log-odds of the same shape.
        probability: σ(teacher), where it is known already.
    """
    teacher = teacher.detach()
    p = torch.sigmoid(teacher) if probability is None else probability
    # (softplus(r) − p r) − (softplus(m) − p m): exact also where probabilities saturate
    of_teacher = functional.softplus(teacher).sub_(p * teacher)
    return (functional.softplus(student) - p * student).sub_(of_teacher)


def logit_loss(
    scores: Tensor,
    regions: Regions,
    *,
    temperature: float = 1.0,
    form: Literal["margin", "raw", "assembled"] = "margin",
    hard: bool = False,
    use: Literal["organ", "background", "both"] = "both",
    organ_weight: float = 1.0,
    background_weight: float = 1.0,
    normalisation: Literal["supervised", "per_region"] = "supervised",
    dice_weight: float = 1.0,
    organs: Tensor | None = None,
    student: Tensor | None = None,
) -> dict[str, Tensor]:
    """Return the logits-wise terms, each averaged over the batch.

    Args:
        scores: Student logits (B, 1 + K, X, Y, Z).
        regions: Regions and combined teacher margins.
        temperature: τ; acts on margins.
        form: How student and teachers are compared (see the configuration page).
        hard: Replace the teachers' margins by their sign.
        use: Which regions count.
        organ_weight: Weight of voxels in organ regions.
        background_weight: Weight of voxels in the agreed background.
        normalisation: Mean over all supervised voxels, or the sum of the two regions' means.
        dice_weight: Weight of the Dice term.
        organs: Organs that are distilled, bool (B, K); default: all that are taught.
        student: `margins(scores)`, where they are known already.

    Returns:
        "logit_organ", "logit_background" and "logit_dice"; their sum is the logits-wise loss.
    """
    student = margins(scores) if student is None else student
    teacher = (torch.sign(regions.margin) * HARD_MARGIN if hard else regions.margin).detach()
    counted = regions.taught if organs is None else regions.taught & organs
    # products with masks of 0 and 1: on a CPU torch.where takes ten times as long
    in_organ = regions.organ.to(student.dtype) if use != "background" else torch.zeros_like(student)
    in_background = regions.background.to(student.dtype) * (use != "organ")
    probability = torch.sigmoid(teacher) if dice_weight else None
    if probability is not None:
        supervised = torch.maximum(in_organ, in_background)
        distance = soft_dice_distance(torch.sigmoid(student), probability, supervised)
        dice = dice_weight * (distance * counted).sum(1).mean()
    if form == "assembled":
        divergence = _assembled_kl(scores, teacher, counted, temperature)
        in_organ = (in_organ * counted[:, :, None, None, None]).amax(1, keepdim=True)
        counted = counted.any(1, keepdim=True)
    else:
        compared = student if form == "margin" else scores[:, 1:] - scores[:, :1]
        if temperature == 1:
            divergence = bernoulli_kl(teacher, compared, probability)
        else:
            divergence = bernoulli_kl(teacher / temperature, compared / temperature)
    space = (2, 3, 4)
    organ_term = organ_weight * temperature**2 * (divergence * in_organ).sum(space)
    background_term = background_weight * temperature**2 * (divergence * in_background).sum(space)
    n_organ, n_background = in_organ.sum(space), in_background.sum(space)
    if normalisation == "supervised":
        n_organ = n_background = n_organ + n_background
    terms = {
        "logit_organ": ((organ_term / n_organ.clamp_min(1)) * counted).sum(1).mean(),
        "logit_background": ((background_term / n_background.clamp_min(1)) * counted).sum(1).mean(),
    }
    return {**terms, "logit_dice": dice} if dice_weight else terms


def soft_dice_distance(probability: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Return 1 − 2 Σ p q / (Σ p² + Σ q²) over the voxels of a mask, (B, K): 0 exactly where both are equal.

    Args:
        probability: (B, K, X, Y, Z).
        target: Probability of the same shape; no gradient flows into it.
        mask: 1 at voxels that count, else 0, (B, K, X, Y, Z); an empty one gives 0.
    """
    space = (2, 3, 4)
    inside = target.detach() * mask
    overlap = (probability * inside).sum(space)
    total = (probability.square() * mask).sum(space) + inside.square().sum(space)
    return 1 - (2 * overlap + SMOOTH) / (total + SMOOTH)


def feature_loss(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor,
    *,
    kept: Tensor | None = None,
    distance: Literal["l2", "cosine"] = "l2",
    normalisation: Literal["none", "channel", "joint"] = "channel",
) -> Tensor:
    """Return the distance between features inside a mask, per sample, averaged over the batch.

    Args:
        student: φ(F_S), (B, C, x, y, z).
        teacher: F_T of the same shape; no gradient flows into it.
        mask: Voxels of the tap's grid that count, bool (B, 1, x, y, z).
        kept: Voxels at which the teacher's features are known, bool (B, 1, x, y, z); None for everywhere.
        distance: Squared difference per channel, or 1 − cosine over channels.
        normalisation: "channel" standardises both by the teacher's mean and standard deviation per channel and sample;
            "joint" by one deviation for all channels, for principal components, whose sizes mean something.
    """
    teacher = teacher.detach()
    known = torch.ones_like(mask) if kept is None else kept
    mask = mask & known
    if normalisation != "none":
        mean = masked_mean(teacher, known)[:, :, None, None, None]
        std = masked_mean((teacher - mean).square(), known).sqrt()
        # a channel that hardly varies says nothing; without a floor its noise would outweigh all others
        if normalisation == "joint":
            std = std.square().mean(1, keepdim=True).sqrt()
        std = torch.maximum(std, FLAT * std.mean(1, keepdim=True)).clamp_min(1e-3)[:, :, None, None, None]
        student, teacher = (student - mean) / std, (teacher - mean) / std
    if distance == "l2":
        error = (student - teacher).square().mean(1, keepdim=True)
    else:
        error = 1 - functional.cosine_similarity(student, teacher, dim=1, eps=1e-6).unsqueeze(1)
    return masked_mean(error, mask).mean()


def region_at_level(
    regions: Regions,
    organs: list[int],
    stride: tuple[int, int, int],
    use: Literal["organ", "background", "both"],
) -> Tensor:
    """Bring the regions of a teacher's organs to a tap's grid: max-pool for organs, nearest for background.

    Returns:
        Bool (B, 1, x, y, z).
    """
    organ = any_organ(regions.organ[:, organs])
    if stride == (1, 1, 1):
        near, far = organ, regions.background
    else:
        near = organ
        for axis, step in enumerate(stride, start=2):  # the maximum of every box, axis by axis
            whole = near.shape[axis] // step * step
            near = reduce(torch.logical_or, (near[_every(axis, i, whole, step)] for i in range(step)))
        middle = tuple(slice(s // 2, None, s) for s in stride)
        far = regions.background[(slice(None), slice(None), *middle)]
    if use == "organ":
        return near
    return far & ~near if use == "background" else near | far


def _every(axis: int, start: int, stop: int, step: int) -> tuple[slice, ...]:
    """Return the index of every `step`-th entry along an axis."""
    return (*(slice(None),) * axis, slice(start, stop, step))


def _assembled_kl(scores: Tensor, teacher: Tensor, counted: Tensor, temperature: float) -> Tensor:
    """KL between softmax([0, m_1 … m_K] / τ) and softmax(s / τ), (B, 1, X, Y, Z), without the factor τ².

    Organs of which nobody speaks are no class of the target; the student's score for them joins its background.
    """
    absent = ~counted[:, :, None, None, None]
    rest = torch.cat((scores[:, :1], torch.where(absent, scores[:, 1:], -torch.inf)), 1).logsumexp(1, keepdim=True)
    student = torch.cat((rest, torch.where(absent, NEVER, scores[:, 1:])), 1)
    margin = torch.where(absent, NEVER, teacher.detach())
    target = torch.cat((torch.zeros_like(margin[:, :1]), margin), 1)
    log_p = functional.log_softmax(target / temperature, 1)
    log_q = functional.log_softmax(student / temperature, 1)
    return (log_p.exp() * (log_p - log_q)).sum(1, keepdim=True)
