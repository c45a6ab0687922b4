"""An ONNX network: windows in, scores out."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np


class Model:
    """A session of onnxruntime."""

    def __init__(self, model: dict[str, Any], device: str) -> None:
        import onnxruntime

        self.versions = {"onnxruntime": getattr(onnxruntime, "__version__", None) or version("onnxruntime")}
        wanted = ["CUDAExecutionProvider"] if device != "cpu" else []
        there = [name for name in wanted if name in onnxruntime.get_available_providers()]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = model["threads"]
        self.session = onnxruntime.InferenceSession(model["file"], options, [*there, "CPUExecutionProvider"])
        self.input = self.session.get_inputs()[0].name

    def forward(self, source: str, target: str) -> None:
        """Run the network on an array (B, 1, x, y, z)."""
        np.save(target, self.session.run(None, {self.input: np.load(source)})[0])


def load(model: dict[str, Any], device: str) -> Model:
    """Return the model."""
    return Model(model, device)
