"""One-vs-rest log-odds: the common currency of teachers and student.

The margin of channel k is r_k = s_k − LSE of all other channels = log p_k − log(1 − p_k), p = softmax(s). Adding a
constant to every channel changes nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor


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
    return torch.stack([scores[:, k] - _log_sum_of_others(scores, k) for k in wanted], 1)


def _log_sum_of_others(scores: Tensor, channel: int) -> Tensor:
    return torch.logsumexp(torch.cat((scores[:, :channel], scores[:, channel + 1 :]), 1), 1)
