"""Regions: where each teacher supervises the student (organ regions and agreed background)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Combination = Literal["mean", "most_confident", "validation_dice"]
Disagreement = Literal["drop", "combined"]


@dataclass(frozen=True)
class Regions:
    """Regions of a batch of patches.

    Attributes:
        margin: Combined teacher margin per organ, (B, K, X, Y, Z); 0 where an organ has no teacher.
        organ: O_k per organ, bool (B, K, X, Y, Z).
        background: B, the agreed background, bool (B, 1, X, Y, Z).
        taught: Organs that have a teacher on the case, bool (B, K).
    """

    margin: Tensor
    organ: Tensor
    background: Tensor
    taught: Tensor


def find_regions(
    teacher_margins: Tensor,
    owned: list[int],
    labels: Tensor,
    labelled: Tensor,
    *,
    n_organs: int,
    source: Literal["ground_truth_first", "teachers"] = "ground_truth_first",
    conflict: Literal["drop", "max_margin"] = "drop",
    combine: Combination = "mean",
    spoken: Tensor | None = None,
    weights: Sequence[float] | None = None,
    disagreement: Disagreement = "drop",
    veto_share: float = 0.0,
) -> Regions:
    """Return the regions in which teachers supervise.

    O_k is ground truth where the case's dataset labels organ k, else the combined margin > 0. B is where every teacher
    says background and ground truth claims no organ. Ground truth beats predictions. Voxels that two organs claim are
    conflicts, voxels on which teachers of one organ disagree in sign are uncertain: both are in no region (`drop`), or
    the largest and the combined margin decide.

    Args:
        teacher_margins: One channel per (teacher, organ) pair, (B, P, X, Y, Z).
        owned: For each of the P channels the organ (0 … K − 1).
        labels: Study values 0 … K, 255 = judged by nobody, (B, X, Y, Z).
        labelled: Organs that each case's dataset labels, bool (B, K).
        n_organs: K.
        source: Whether ground truth counts for the organ regions.
        conflict: Voxels that several organs claim: in no region, or given to the organ with the largest margin.
        combine: How several teachers of one organ become one margin.
        spoken: Channels in which a teacher said anything, bool (B, P); None: all.
        weights: Of the P channels, for `validation_dice`.
        disagreement: Voxels on which teachers of one organ disagree: in no region, or as the combined margin says.
        veto_share: As in `combine_teachers`.
    """
    margin, taught, uncertain = combine_teachers(
        teacher_margins, owned, n_organs, combine, spoken=spoken, weights=weights, veto_share=veto_share
    )
    if disagreement == "combined":
        uncertain = torch.zeros_like(uncertain)
    values = torch.arange(1, n_organs + 1, dtype=labels.dtype, device=labels.device).view(1, -1, 1, 1, 1)
    use_truth = labelled[:, :, None, None, None] & (source == "ground_truth_first")
    truth = (labels[:, None] == values) & use_truth
    says_organ = (margin > 0) & taught[:, :, None, None, None]
    claimed_by_truth = any_organ(truth)
    claim = truth | (says_organ & ~use_truth & ~claimed_by_truth)
    several = claim.sum(1, keepdim=True, dtype=torch.uint8) > 1
    if conflict == "max_margin":
        best = torch.where(claim, margin, -torch.inf).argmax(1, keepdim=True)
        winner = torch.zeros_like(claim).scatter_(1, best, True)
        claim = torch.where(several, claim & winner, claim)
    else:
        claim = claim & ~several
    judged = (labels != 255)[:, None]
    organ = claim & judged & (~uncertain | claimed_by_truth)
    background = ~claimed_by_truth & ~any_organ(says_organ) & ~several & ~uncertain & judged
    return Regions(margin, organ, background, taught)


def any_organ(masks: Tensor) -> Tensor:
    """Return where any of the masks (B, K, …) holds, bool (B, 1, …); on a CPU Tensor.any takes ten times as long."""
    return masks.sum(1, keepdim=True, dtype=torch.uint8) > 0


def combine_teachers(
    teacher_margins: Tensor,
    owned: list[int],
    n_organs: int,
    combine: Combination,
    *,
    spoken: Tensor | None = None,
    weights: Sequence[float] | None = None,
    veto_share: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Combine the teachers of each organ.

    Args:
        teacher_margins: One channel per (teacher, organ) pair, (B, P, X, Y, Z).
        owned: For each of the P channels the organ (0 … K − 1).
        n_organs: K.
        combine: Mean of the margins; the most confident one; or the mean weighted by the teachers' validation Dice.
        spoken: Channels in which a teacher said anything, bool (B, P), where some teachers lack some cases; None: all.
            A teacher that said nothing has no part in mean, confidence or disagreement.
        weights: Of the P channels, for `validation_dice`; where all that spoke weigh nothing, they weigh the same.
        veto_share: Of the greatest weight among those that spoke; who weighs less (`validation_dice`) may disagree
            without making a voxel uncertain.

    Returns:
        Margin (B, K, …), organs with a teacher (B, K), voxels on which a teacher with a veto says of an organ the
        opposite of the combined margin (B, 1, …): where all have one, those on which teachers of the organ disagree.
    """
    batch, _, *space = teacher_margins.shape
    said = teacher_margins.new_ones((batch, len(owned)), dtype=torch.bool) if spoken is None else spoken
    taught = torch.zeros((batch, n_organs), dtype=torch.bool, device=teacher_margins.device)
    uncertain = torch.zeros((batch, 1, *space), dtype=torch.bool, device=teacher_margins.device)
    if owned == list(range(n_organs)):
        return teacher_margins, said, uncertain
    margin = teacher_margins.new_zeros((batch, n_organs, *space))
    for organ in sorted(set(owned)):
        channels = [i for i, o in enumerate(owned) if o == organ]
        voices, heard = teacher_margins[:, channels], said[:, channels]
        taught[:, organ] = heard.any(1)
        if len(channels) == 1:
            margin[:, organ] = voices[:, 0]
            continue
        there, veto = heard[:, :, None, None, None], heard
        if combine == "most_confident":
            confidence = torch.where(there, voices.abs(), -1)
            margin[:, organ] = voices.gather(1, confidence.argmax(1, keepdim=True))[:, 0]
        else:
            share = _shares(heard, [1.0] * len(channels) if combine == "mean" else _of(weights, channels))
            margin[:, organ] = (voices * share[:, :, None, None, None]).sum(1)
            veto = heard & (share >= veto_share * share.amax(1, keepdim=True))
        opposed = (voices > 0) != (margin[:, [organ]] > 0)
        uncertain |= any_organ(opposed & veto[:, :, None, None, None])
    return margin, taught, uncertain


def _of(weights: Sequence[float] | None, channels: list[int]) -> list[float]:
    if weights is None:
        raise ValueError("validation_dice needs the weight of every channel")
    return [weights[channel] for channel in channels]


def _shares(heard: Tensor, weights: list[float]) -> Tensor:
    """Return the weight of each voice among those that spoke, (B, V); rows sum to 1, or 0 where none spoke."""
    share = heard * torch.tensor(weights, device=heard.device)
    share = torch.where(share.sum(1, keepdim=True) > 0, share, heard.float())
    return share / share.sum(1, keepdim=True).clamp_min(1e-12)
