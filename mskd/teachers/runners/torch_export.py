"""A network of `torch.export.save`: windows in, scores out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch


class UntrustedError(Exception):
    """A file that is not trusted."""


class Model:
    """An exported program."""

    def __init__(self, model: dict[str, Any], device: str, root: Path) -> None:
        if model["file"] not in model["trusted"]:
            raise UntrustedError(model["file"], "a file of torch.export, which is loaded by pickle")
        self.versions = {"torch": torch.__version__}
        self.device = torch.device(device)
        self.network: Any = torch.export.load(root / model["file"]).module().to(self.device)

    def forward(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
        """Run the network on an array (B, 1, x, y, z)."""
        with torch.no_grad():
            scores = self.network(torch.from_numpy(batch).to(self.device))
        scores = scores[0] if isinstance(scores, (tuple, list)) else scores
        return np.asarray(scores.float().cpu().numpy())


def load(model: dict[str, Any], device: str, root: Path) -> Model:
    """Return the model."""
    return Model(model, device, root)
