"""Model folders: `model.json` and `model.safetensors` are all that prediction needs. No pickles.

`MODEL_CARD.md` beside them is for people. Post-processing (`largest_component`) is part of the model folder but not of
its content key: `evaluation.largest_component` retrains nothing. See `update_card` for how the two stay together.
"""

from __future__ import annotations

import json
import pkgutil
from collections.abc import Collection
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from mskd import networks
from mskd.config.model import Preprocessing
from mskd.errors import MissingArtefactError
from mskd.model_card import FILE as MODEL_CARD
from mskd.model_card import model_card
from mskd.provenance import code_commit, file_digest, made_by
from mskd.storage import atomic_path, write_json, write_text

FORMAT = "mskd-model-1"
CARD, WEIGHTS = "model.json", "model.safetensors"


@dataclass(frozen=True)
class Model:
    """A network with everything that its use depends on.

    Attributes:
        network: (B, 1, X, Y, Z) → (B, 1 + K, X, Y, Z), in evaluation mode.
        labels: Organ → output channel and label value, in the order of the channels.
        preprocessing: What the network was trained to see.
        window: Sliding window in voxels.
        overlap: Share of the window that neighbours have in common.
        stride: Voxels of which windows are multiples.
        largest_component: Organs of which only the largest connected component is kept.
        card: The whole of model.json.
    """

    network: nn.Module
    labels: dict[str, int]
    preprocessing: Preprocessing
    window: tuple[int, int, int]
    overlap: float
    stride: tuple[int, int, int]
    largest_component: tuple[str, ...]
    card: dict[str, Any]


def save_model(
    folder: Path,
    network: nn.Module,
    *,
    labels: dict[str, int],
    preprocessing: Preprocessing,
    window: tuple[int, int, int],
    overlap: float,
    stride: tuple[int, int, int],
    key: str,
    provenance: dict[str, Any],
    largest_component: Collection[str] = (),
) -> str:
    """Write a model folder; `model.json` comes last and makes it valid.

    Args:
        folder: Where to write; other files in it stay.
        network: Has `describe()`; its weights are stored as float32 on the CPU.
        labels: Organ → output channel.
        preprocessing: What the network sees.
        window: Sliding window in voxels.
        overlap: Overlap of windows.
        stride: Voxels of which windows are multiples.
        key: Content key of the model.
        provenance: Study, method or teacher, run, seed, inputs, data (`mskd.model_card.training_data`).
        largest_component: Organs of which only the largest component is kept; those without a label are left out.

    Returns:
        SHA-256 of the weights file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CARD).unlink(missing_ok=True)
    tensors = {name: tensor.detach().to("cpu", torch.float32).contiguous() for name, tensor in _state(network).items()}
    with atomic_path(folder / WEIGHTS) as part:
        save_file(tensors, part)
    digest = file_digest(folder / WEIGHTS)
    describe: Any = network.describe
    card = {
        "format": FORMAT,
        "key": key,
        "weights_sha256": digest,
        "network": describe(),
        "parameters": sum(t.numel() for t in tensors.values()),
        "labels": labels,
        "preprocessing": preprocessing.model_dump(mode="json"),
        "window": list(window),
        "overlap": overlap,
        "stride": list(stride),
        "largest_component": [organ for organ in labels if organ in largest_component],
        "provenance": provenance,
        "made_by": made_by(),
        "commit": code_commit(),
        "notice": "Not for clinical use.",
    }
    _write_card(folder, card)
    return digest


def update_card(folder: Path, *, largest_component: Collection[str], data: list[dict[str, Any]] | None = None) -> None:
    """Bring a model folder to what its study says now, where that is no matter of training.

    The workflow does not train again when `evaluation.largest_component` changes, but it predicts again; so the stage
    `predict` calls this, and `mskd predict -m` does from then on what the study's predictions do. The training stages
    call it too, where they find the weights valid (a teacher's folder follows only there). Key and weights stay, and
    with them all that was made from the model.

    Args:
        folder: A valid model folder.
        largest_component: Organs of which only the largest component is kept; those without a label are left out.
        data: What it was trained on (`mskd.model_card.training_data`); None leaves it as it is.
    """
    card = read_card(folder)
    kept = [organ for organ in card["labels"] if organ in largest_component]
    provenance = card["provenance"] if data is None else {**card["provenance"], "data": data}
    changed = {**card, "largest_component": kept, "provenance": provenance}
    if changed != card or not (folder / MODEL_CARD).is_file():
        _write_card(folder, changed)


def load_model(folder: Path, device: torch.device | str = "cpu") -> Model:
    """Load a model folder.

    Raises:
        MissingArtefactError: If a file is missing, damaged, or does not belong to the other.
    """
    card = read_card(folder)
    weights = folder / WEIGHTS
    try:
        tensors = load_file(weights)
        digest = file_digest(weights)
    except (OSError, SafetensorError) as error:
        raise _broken(folder, f"{weights.name}: {error}") from error
    if digest != card.get("weights_sha256"):
        raise _broken(folder, f"{WEIGHTS} is not the file that {CARD} was written for (SHA-256 {digest})")
    try:
        network = build_network(card["network"])
        network.load_state_dict(tensors)
        window, stride = card["window"], card["stride"]
        labels = {str(organ): int(channel) for organ, channel in card["labels"].items()}
        if odd := [
            organ for organ in labels if not organ.isprintable() or {"/", "\\"} & set(organ) or organ[:1] in ("", ".")
        ]:
            raise ValueError(f"labels named {odd}: they become names of files")
        largest_component = tuple(card.get("largest_component", ()))  # models of before have none
        if unknown := [organ for organ in largest_component if organ not in labels]:
            raise ValueError(f"largest_component names {unknown}, the labels are {list(labels)}")
        return Model(
            network=network.to(device).eval(),
            labels=dict(sorted(labels.items(), key=lambda item: item[1])),
            preprocessing=Preprocessing.model_validate(card["preprocessing"]),
            window=(window[0], window[1], window[2]),
            overlap=float(card["overlap"]),
            stride=(stride[0], stride[1], stride[2]),
            largest_component=largest_component,
            card=card,
        )
    except (AttributeError, ImportError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise _broken(folder, f"{CARD} is damaged or does not fit the weights: {error}") from error


def read_card(folder: Path) -> dict[str, Any]:
    """Return the content of `model.json`.

    Raises:
        MissingArtefactError: If it is missing or of another format.
    """
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _broken(folder, str(error)) from error
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        raise _broken(folder, f"{CARD} of another format")
    return card


def stored_weights(folder: Path, key: str) -> str | None:
    """Return the digest of the weights if a whole model stands here under this key, else None."""
    if not (folder / CARD).is_file() or not (folder / WEIGHTS).is_file():
        return None
    try:
        card = read_card(folder)
    except MissingArtefactError:
        return None
    digest = card.get("weights_sha256")
    stands = card.get("key") == key and digest == file_digest(folder / WEIGHTS)
    return str(digest) if stands else None


def build_network(description: dict[str, Any]) -> nn.Module:
    """Build a network from its description; `kind` names the module of mskd/networks.

    Raises:
        ValueError: If there is no such kind: a description comes from a file, and must not name any module it likes.
    """
    kinds = [module.name for module in pkgutil.iter_modules(networks.__path__)]
    if description["kind"] not in kinds:
        raise ValueError(f"no kind of network {description['kind']!r}; there are {', '.join(kinds)}")
    module = import_module(f"{networks.__name__}.{description['kind']}")
    network: nn.Module = module.build(description)
    return network


def _write_card(folder: Path, card: dict[str, Any]) -> None:
    write_text(folder / MODEL_CARD, model_card(card))
    write_json(folder / CARD, card)


def _state(network: nn.Module) -> dict[str, torch.Tensor]:
    return network.state_dict()


def _broken(folder: Path, found: str) -> MissingArtefactError:
    return MissingArtefactError(
        case="-",
        file=folder,
        expected=f"a model folder with {CARD} and {WEIGHTS}",
        found=found,
        fix="train the model again (run the workflow), or copy the whole folder",
    )
