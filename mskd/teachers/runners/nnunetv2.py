"""nnU-Net v2: its own reader, preprocessing, sliding window and folds; logits on the grid of its network."""

from __future__ import annotations

import pickle
from importlib.metadata import version
from typing import Any

import numpy as np
import torch


class UntrustedError(Exception):
    """A checkpoint that holds more than tensors and is not trusted."""


class Model:
    """A trained model folder."""

    def __init__(self, model: dict[str, Any], device: str) -> None:
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

        self.versions = {"nnunetv2": version("nnunetv2"), "torch": torch.__version__}
        self.predictor = nnUNetPredictor(
            use_mirroring=model["mirroring"],
            perform_everything_on_device=device != "cpu",
            device=torch.device(device),
            allow_tqdm=False,
        )
        plain_load = torch.load
        torch.load = lambda path, *rest, **more: _load(plain_load, str(path), set(model["trusted"]))
        try:
            self.predictor.initialize_from_trained_model_folder(model["folder"], model["folds"], model["checkpoint"])
        finally:
            torch.load = plain_load

    def scores(self, request: dict[str, Any]) -> dict[str, Any]:
        """Predict a NIfTI file; write logits (C, i, j, k), return where they lie."""
        predictor = self.predictor
        plans, configuration = predictor.plans_manager, predictor.configuration_manager
        reader = plans.image_reader_writer_class()
        data, properties = reader.read_images([request["scan"]])
        preprocessor = configuration.preprocessor_class(verbose=False)
        data, _, properties = preprocessor.run_case_npy(
            data, None, properties, plans, configuration, predictor.dataset_json
        )
        logits = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(np.asarray(data)))
        scores = logits.cpu().numpy()
        np.save(request["out"], scores)
        return {"to_grid": _to_grid(request, properties, list(plans.transpose_forward), scores.shape[1:]).tolist()}


def load(model: dict[str, Any], device: str) -> Model:
    """Return the model."""
    return Model(model, device)


def _load(plain_load: Any, path: str, trusted: set[str]) -> Any:
    """Load a checkpoint; numbers of numpy are all that it may hold beside tensors, unless it is trusted."""
    if path in trusted:
        return plain_load(path, map_location="cpu", weights_only=False)
    core = getattr(np, "_core", None) or np.core
    kinds = {type(np.dtype(name)) for name in ("bool", "int32", "int64", "float32", "float64")}
    # checkpoints of numpy 1 and 2 name the same two functions by different modules
    functions = (core.multiarray.scalar, core.multiarray._reconstruct)
    places = ("numpy.core.multiarray", "numpy._core.multiarray")
    safe: list[Any] = [
        np.dtype,
        np.ndarray,
        *kinds,
        *((f, f"{place}.{f.__name__}") for f in functions for place in places),
    ]
    try:
        with torch.serialization.safe_globals(safe):
            return plain_load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UntrustedError(
            path, f"a pickle that holds more than tensors ({str(error).splitlines()[0][:200]})"
        ) from error


def _to_grid(request: dict[str, Any], properties: Any, forward: list[int], shape: tuple[int, ...]) -> np.ndarray:
    """Return voxel of the file → voxel of the network's grid, both as nnU-Net resamples: by shapes, not by spacings."""
    matrix = np.zeros((4, 4))
    matrix[3, 3] = 1
    for axis, source in enumerate(forward):
        first, last = properties["bbox_used_for_cropping"][axis]
        scale = shape[axis] / (last - first)
        matrix[axis, 2 - source] = scale  # its readers give (z, y, x)
        matrix[axis, 3] = (0.5 - first) * scale - 0.5
    turned = properties.get("nibabel_stuff", {}).get("reoriented_affine")
    if turned is not None:
        matrix = matrix @ np.linalg.inv(turned) @ np.asarray(request["affine"])
    return matrix
