"""Validation during training: Dice of labelled organs on the study grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from mskd import processes
from mskd.inference import Windows, sliding_window
from mskd.prepared import normalise
from mskd.training.cases import TrainingCase

IGNORE = 255


def validation_dice(
    network: nn.Module,
    cases: Sequence[TrainingCase],
    windows: Windows,
    *,
    channels: Mapping[str, tuple[int, int]],
    hu_clip: tuple[float, float],
    device: torch.device,
) -> dict[str, float]:
    """Return mean Dice per organ over the cases that label it, and their mean as "val_dice".

    Several processes share the cases, and all return the same.

    Args:
        network: Image (B, 1, X, Y, Z) → scores (B, C, X, Y, Z).
        cases: Validation cases; none gives {}.
        windows: Sliding window.
        channels: Organ → (output channel, study value).
        hu_clip: Intensity range that becomes [-1, 1].
        device: Where to compute.
    """
    mine = [_case_dice(network, case, windows, channels, hu_clip, device) for case in processes.share(cases)]
    found: dict[str, list[float]] = {}
    for of_case in processes.gather(mine):
        for organ, dice in of_case.items():
            found.setdefault(organ, []).append(dice)
    if not found:
        return {}
    per_organ = {organ: float(np.mean(values)) for organ, values in found.items()}
    return {
        "val_dice": float(np.mean(list(per_organ.values()))),
        **{f"val_dice_{k}": v for k, v in per_organ.items()},
    }


def _case_dice(
    network: nn.Module,
    case: TrainingCase,
    windows: Windows,
    channels: Mapping[str, tuple[int, int]],
    hu_clip: tuple[float, float],
    device: torch.device,
) -> dict[str, float]:
    """Return the Dice of a case by organ, for the labelled organs that it has."""
    image = normalise(case.prepared.read("image"), hu_clip)
    body = case.prepared.read("body")
    scores = sliding_window(lambda x: (network(x), {}), image, windows, body=body, device=device).scores
    labels = case.prepared.read("labels")
    predicted = np.where(labels == IGNORE, 0, scores.argmax(0))
    found = {}
    for organ, (channel, value) in channels.items():
        if value in case.labelled:
            mask, reference = predicted == channel, labels == value
            total = int(mask.sum()) + int(reference.sum())
            if reference.any():
                found[organ] = 2 * int((mask & reference).sum()) / total
    return found
