"""nnU-Net v2: its own reader, preprocessing, sliding window and folds; logits on the grid of its network."""

from __future__ import annotations

import inspect
import json
import pickle
import pydoc
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

PLANS = "plans.json"
OF_NETWORKS = ("dynamic_network_architectures.", "torch.nn.", "nnunetv2.")
PLACES = {  # below nnunetv2, where it looks for what plans name
    "preprocessor_name": "preprocessing",
    "normalization_schemes": "preprocessing.normalization",
    "resampling_fn_data": "preprocessing.resampling",
    "resampling_fn_seg": "preprocessing.resampling",
    "resampling_fn_probabilities": "preprocessing.resampling",
    "image_reader_writer": "imageio",
    "label_manager": "utilities.label_handling",
}


class UntrustedError(Exception):
    """A file that may run code and is not trusted."""


class Model:
    """A trained model folder."""

    def __init__(self, model: dict[str, Any], device: str, root: Path) -> None:
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

        self.versions = {"nnunetv2": version("nnunetv2"), "torch": torch.__version__}
        trusted, plans = set(model["trusted"]), json.loads((root / PLANS).read_text(encoding="utf-8"))
        if PLANS not in trusted:
            require_own_names(plans)
        self.predictor = nnUNetPredictor(
            use_mirroring=model["mirroring"],
            perform_everything_on_device=device != "cpu",
            device=torch.device(device),
            allow_tqdm=False,
        )
        plain_load = torch.load

        def checked(path: Path) -> Any:
            state = _load(plain_load, path, root, trusted)
            configuration = PlansManager(plans).get_configuration(state["init_args"]["configuration"])
            if configuration.configuration.get("previous_stage"):
                raise ValueError(model["cascade"])
            return state

        torch.load = lambda path, *rest, **more: checked(Path(path))
        try:
            self.predictor.initialize_from_trained_model_folder(str(root), model["folds"], model["checkpoint"])
        finally:
            torch.load = plain_load

    def scores(self, request: dict[str, Any]) -> tuple[npt.NDArray[Any], dict[str, Any]]:
        """Predict a NIfTI file; return logits (C, i, j, k) and where they lie."""
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
        to_grid = _to_grid(request, properties, list(plans.transpose_forward), scores.shape[1:])
        return scores, {"to_grid": to_grid.tolist()}


def load(model: dict[str, Any], device: str, root: Path) -> Model:
    """Return the model."""
    return Model(model, device, root)


def require_own_names(plans: dict[str, Any]) -> None:
    """Refuse plans that name something else than networks and parts of nnU-Net: what they name is called.

    Raises:
        UntrustedError: If something of them is not a layer of torch, or not a part of nnU-Net.
    """
    own = ", ".join(OF_NETWORKS)
    sections = list(plans["configurations"].values())
    for section in sections:
        architecture = section.get("architecture", {})
        arguments = architecture.get("arch_kwargs", {})
        parts = [arguments.get(name) for name in architecture.get("_kw_requires_import", [])]
        for name in [architecture.get("network_class_name"), *parts]:
            if name is not None and not _is_layer(name):
                raise UntrustedError(PLANS, f"plans that build the network with {name!r}, no layer of {own}")
    for section in [plans, *sections]:
        for key, place in PLACES.items():
            names = section.get(key, [])
            for name in [names] if isinstance(names, str) else names:
                if not _is_part(name, place):
                    raise UntrustedError(PLANS, f"plans with {key} {name!r}, no part of nnunetv2.{place}")


def _is_layer(name: Any) -> bool:
    """Return whether a dotted name is a class of layers, defined where networks of nnU-Net come from."""
    if not (isinstance(name, str) and name.startswith(OF_NETWORKS)):
        return False
    found = pydoc.locate(name)
    if found is None:  # nnU-Net then looks for classes that moved
        import dynamic_network_architectures
        from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

        folder = str(Path(dynamic_network_architectures.__path__[0]) / "architectures")
        last = name.split(".")[-1]
        found = recursive_find_python_class(folder, last, "dynamic_network_architectures.architectures")
    return inspect.isclass(found) and issubclass(found, torch.nn.Module) and found.__module__.startswith(OF_NETWORKS)


def _is_part(name: Any, place: str) -> bool:
    """Return whether a name means a class or function that nnU-Net defines in a place; one it does not find may be."""
    import nnunetv2
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    if not isinstance(name, str):
        return False
    folder = str(Path(nnunetv2.__path__[0]).joinpath(*place.split(".")))
    found = recursive_find_python_class(folder, name, f"nnunetv2.{place}")
    own = inspect.isclass(found) or inspect.isfunction(found)
    return found is None or (own and found.__module__.startswith(f"nnunetv2.{place}."))


def _load(plain_load: Any, path: Path, root: Path, trusted: set[str]) -> Any:
    """Load a checkpoint; numbers of numpy are all that it may hold beside tensors, unless it is trusted."""
    name = path.relative_to(root).as_posix()
    if name in trusted:
        return plain_load(path, map_location="cpu", weights_only=False)
    core = getattr(np, "_core", None) or np.core
    kinds = {type(np.dtype(kind)) for kind in ("bool", "int32", "int64", "float32", "float64")}
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
            name, f"a pickle that holds more than tensors ({str(error).splitlines()[0][:200]})"
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
