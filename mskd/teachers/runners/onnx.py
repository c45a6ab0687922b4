"""An ONNX network: windows in, scores out."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

CUDA = "CUDAExecutionProvider"


class Model:
    """A session of onnxruntime."""

    def __init__(self, model: dict[str, Any], device: str, root: Path) -> None:
        import onnxruntime

        self.versions = {"onnxruntime": getattr(onnxruntime, "__version__", None) or version("onnxruntime")}
        wanted: list[Any] = []
        if device != "cpu" and CUDA in onnxruntime.get_available_providers():
            wanted = [(CUDA, {"device_id": int(device.partition(":")[2] or 0)})]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = model["threads"]
        file = str(root / model["file"])
        self.session = onnxruntime.InferenceSession(file, options, [*wanted, "CPUExecutionProvider"])
        if device != "cpu" and CUDA not in self.session.get_providers():
            print(f"warning: {device} was wanted, but this onnxruntime has no {CUDA}: the CPU is used", flush=True)
        self.input = self.session.get_inputs()[0].name

    def forward(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
        """Run the network on an array (B, 1, x, y, z)."""
        return np.asarray(self.session.run(None, {self.input: batch})[0])


def load(model: dict[str, Any], device: str, root: Path) -> Model:
    """Return the model."""
    return Model(model, device, root)
