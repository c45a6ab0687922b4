"""One-vs-rest log-odds: the common currency of teachers and student.

The margin of channel k is r_k = s_k − LSE of all other channels = log p_k − log(1 − p_k), p = softmax(s). Adding a
constant to every channel changes nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def margins(scores: Tensor, channels: list[int] | None = None) -> Tensor:
    """Return the margins of channels of a score map.

    Args:
        scores: Logits (B, C, …).
        channels: Channels wanted; default: all but the background (channel 0).

    Returns:
        (B, len(channels), …).
    """
    wanted = list(range(1, scores.shape[1])) if channels is None else channels
    if scores.shape[1] == 2:
        return torch.cat([scores[:, k : k + 1] - scores[:, 1 - k : 2 - k] for k in wanted], 1)
    found: Tensor = _Margins.apply(scores, wanted)  # type: ignore[no-untyped-call]
    return found


class _Margins(torch.autograd.Function):
    """Margins by their definition, and −softmax over the others as their gradient.

    With torch.logsumexp, forward and backward took three times as long: a tenth of a student's step on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor, channels: list[int]) -> Tensor:
        """Return (B, len(channels), …) for scores (B, C, …)."""
        scores = scores.contiguous()
        log_sums = torch.cat([_log_sum_of_others(scores, k) for k in channels], 1)
        ctx.save_for_backward(scores, log_sums)
        ctx.channels = channels
        return torch.cat([scores[:, k : k + 1] for k in channels], 1).sub_(log_sums)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of the scores: 1 for the own channel, −exp(s_j − LSE) for the others."""
        scores, log_sums = ctx.saved_tensors
        total = torch.zeros_like(scores)
        for place, channel in enumerate(ctx.channels):
            own = gradient[:, place : place + 1]
            share = (scores - log_sums[:, place : place + 1]).exp_().mul_(own)
            share[:, channel] = -own[:, 0]
            total.sub_(share)
        return total, None


def _log_sum_of_others(scores: Tensor, channel: int) -> Tensor:
    others = [part.amax(1, keepdim=True) for part in (scores[:, :channel], scores[:, channel + 1 :]) if part.shape[1]]
    largest = others[0] if len(others) == 1 else torch.maximum(others[0], others[1])
    shares = (scores - largest).exp_()
    shares[:, channel] = 0
    return shares.sum(1, keepdim=True).log_().add_(largest)
