"""A MONAI bundle: preprocessing, network and inferer of its own inference configuration."""

from __future__ import annotations

import os
import pickle
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch


class UntrustedError(Exception):
    """Weights that hold more than tensors and are not trusted."""


class Model:
    """A bundle, its network loaded."""

    def __init__(self, model: dict[str, Any], device: str, root: Path) -> None:
        from monai.bundle.config_parser import ConfigParser

        self.versions = {"monai": version("monai"), "torch": torch.__version__}
        self.device = torch.device(device)
        _read_copies_alone(ConfigParser, Path(model["folder"]), root)
        sys.path.insert(0, str(root))  # of its own modules
        parser = ConfigParser()
        parser.read_config(str(root / model["config"]))
        if model["metadata"]:
            parser.read_meta(str(root / model["metadata"]))
        parser["bundle_root"] = str(root)
        parser["device"] = self.device
        self.preprocessing = parser.get_parsed_content("preprocessing")
        self.inferer = parser.get_parsed_content("inferer")
        self.network = self._network(parser, model, root)
        self.network.eval()

    def scores(self, request: dict[str, Any]) -> tuple[npt.NDArray[Any], dict[str, Any]]:
        """Predict a NIfTI file; return logits (C, i, j, k) and where they lie."""
        found = self.preprocessing({"image": request["scan"]})["image"]
        with torch.no_grad():
            scores = self.inferer(found[None].to(self.device), self.network)
        scores = scores[0] if isinstance(scores, (tuple, list)) else scores
        affine = np.asarray(found.affine.cpu().numpy(), float)
        to_grid = np.linalg.inv(affine) @ np.asarray(request["affine"])
        return torch.as_tensor(scores)[0].float().cpu().numpy(), {"to_grid": to_grid.tolist()}

    def _network(self, parser: Any, model: dict[str, Any], root: Path) -> Any:
        weights, trusted = model["weights"], model["weights"] in model["trusted"]
        if weights.endswith(".ts"):
            if not trusted:
                raise UntrustedError(weights, "TorchScript")
            return torch.jit.load(  # type: ignore[no-untyped-call]
                str(root / weights), map_location=self.device
            )
        key = next((name for name in ("network_def", "network") if name in parser), None)
        if key is None:
            raise KeyError(f"{model['config']} has no network_def")
        network = parser.get_parsed_content(key).to(self.device)
        network.load_state_dict(_state(root, weights, trusted=trusted))
        return network


def load(model: dict[str, Any], device: str, root: Path) -> Model:
    """Return the model."""
    return Model(model, device, root)


def _read_copies_alone(parser: Any, bundle: Path, root: Path) -> None:
    """Let configurations, and what they take from each other (`%other.json::key`), come from checked copies alone."""
    plain = parser.load_config_file.__func__

    def load_config_file(cls: Any, /, filepath: Any, **options: Any) -> Any:
        wanted = Path(os.path.normpath(bundle / filepath))
        for base in (root, bundle):
            if wanted.is_relative_to(base) and (root / wanted.relative_to(base)).is_file():
                return plain(cls, root / wanted.relative_to(base), **options)
        raise ValueError(
            f"the bundle's configuration takes something from {filepath}, which is none of the files below its "
            "configs/; copy it there"
        )

    parser.load_config_file = classmethod(load_config_file)


def _state(root: Path, name: str, *, trusted: bool) -> Any:
    path = root / name
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=not trusted)
    except pickle.UnpicklingError as error:
        raise UntrustedError(
            name, f"a pickle that holds more than tensors ({str(error).splitlines()[0][:200]})"
        ) from error
    for key in ("model", "state_dict", "network"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            return state[key]
    return state
