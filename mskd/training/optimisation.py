"""Optimiser, learning-rate schedule and moving average of weights."""

from __future__ import annotations

from collections.abc import Iterable
from math import cos, pi

import torch
from torch import nn

from mskd.config.training import Training

POLY_EXPONENT = 0.9
MOMENTUM = 0.99


def build_optimiser(parameters: Iterable[nn.Parameter], settings: Training) -> torch.optim.Optimizer:
    """Return SGD with Nesterov momentum, or AdamW, over the parameters that learn."""
    learning = [p for p in parameters if p.requires_grad]
    if settings.optimiser == "sgd":
        return torch.optim.SGD(
            learning,
            settings.learning_rate,
            momentum=MOMENTUM,
            nesterov=True,
            weight_decay=settings.weight_decay,
        )
    return torch.optim.AdamW(learning, settings.learning_rate, weight_decay=settings.weight_decay)


def learning_rate(step: int, settings: Training) -> float:
    """Return the learning rate of a step (0-based); a pure function, so that a resumed run has no jump."""
    done = min(step / settings.course_steps, 1.0)
    if settings.schedule == "poly":
        factor = (1 - done) ** POLY_EXPONENT
    elif settings.schedule == "cosine":
        factor = 0.5 * (1 + cos(pi * done))
    else:
        factor = 1.0
    if step < settings.warmup_steps:
        factor *= (step + 1) / settings.warmup_steps
    return float(settings.learning_rate * factor)


class MovingAverage:
    """Exponential moving average of a network's weights, with a warm-up of the decay."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        """Start from the network's present weights."""
        self.decay = decay
        self.weights = {k: v.detach().clone() for k, v in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Move towards the network's weights after `step` (1-based)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in network.state_dict().items():
            kept = self.weights[name]
            if kept.is_floating_point():
                kept.lerp_(value, 1 - decay)
            else:
                kept.copy_(value)
