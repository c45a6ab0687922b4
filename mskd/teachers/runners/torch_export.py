"""A network of `torch.export.save`: windows in, scores out."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


class UntrustedError(Exception):
    """A file that is not trusted."""


class Model:
    """An exported program."""

    def __init__(self, model: dict[str, Any], device: str) -> None:
        if model["file"] not in model["trusted"]:
            raise UntrustedError(model["file"], "a file of torch.export, which is loaded by pickle")
        self.versions = {"torch": torch.__version__}
        torch.set_num_threads(model["threads"])
        self.device = torch.device(device)
        self.network: Any = torch.export.load(model["file"]).module().to(self.device)

    def forward(self, source: str, target: str) -> None:
        """Run the network on an array (B, 1, x, y, z)."""
        with torch.no_grad():
            scores = self.network(torch.from_numpy(np.load(source)).to(self.device))
        scores = scores[0] if isinstance(scores, (tuple, list)) else scores
        np.save(target, scores.float().cpu().numpy())


def load(model: dict[str, Any], device: str) -> Model:
    """Return the model."""
    return Model(model, device)
