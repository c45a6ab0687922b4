"""A MONAI bundle: preprocessing, network and inferer of its own inference configuration."""

from __future__ import annotations

import pickle
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch


class UntrustedError(Exception):
    """Weights that hold more than tensors and are not trusted."""


class Model:
    """A bundle, its network loaded."""

    def __init__(self, model: dict[str, Any], device: str) -> None:
        from monai.bundle.config_parser import ConfigParser

        self.versions = {"monai": version("monai"), "torch": torch.__version__}
        self.device = torch.device(device)
        parser = ConfigParser()
        parser.read_config(model["config"])
        if model["metadata"]:
            parser.read_meta(model["metadata"])
        parser["bundle_root"] = model["folder"]
        parser["device"] = self.device
        self.preprocessing = parser.get_parsed_content("preprocessing")
        self.inferer = parser.get_parsed_content("inferer")
        weights = model["weights"]
        if weights.endswith(".ts"):
            if weights not in model["trusted"]:
                raise UntrustedError(weights, "TorchScript")
            self.network = torch.jit.load(  # type: ignore[no-untyped-call]
                weights, map_location=self.device
            )
        else:
            key = next((name for name in ("network_def", "network") if name in parser), None)
            if key is None:
                raise KeyError(f"{model['config']} has no network_def")
            self.network = parser.get_parsed_content(key).to(self.device)
            self.network.load_state_dict(_state(weights, set(model["trusted"])))
        self.network.eval()

    def scores(self, request: dict[str, Any]) -> dict[str, Any]:
        """Predict a NIfTI file; write logits (C, i, j, k), return where they lie."""
        found = self.preprocessing({"image": request["scan"]})["image"]
        with torch.no_grad():
            scores = self.inferer(found[None].to(self.device), self.network)
        scores = scores[0] if isinstance(scores, (tuple, list)) else scores
        np.save(request["out"], torch.as_tensor(scores)[0].float().cpu().numpy())
        affine = np.asarray(found.affine.cpu().numpy(), float)
        return {"to_grid": (np.linalg.inv(affine) @ np.asarray(request["affine"])).tolist()}


def load(model: dict[str, Any], device: str) -> Model:
    """Return the model."""
    return Model(model, device)


def _state(path: str, trusted: set[str]) -> Any:
    if Path(path).suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=path not in trusted)
    except pickle.UnpicklingError as error:
        raise UntrustedError(
            path, f"a pickle that holds more than tensors ({str(error).splitlines()[0][:200]})"
        ) from error
    for name in ("model", "state_dict", "network"):
        if isinstance(state, dict) and isinstance(state.get(name), dict):
            return state[name]
    return state
