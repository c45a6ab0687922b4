"""Teachers: networks that the study trains, and those that people already have."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import field_validator

from mskd.config.faults import Fault, FaultsError
from mskd.config.section import Section, key

TRAINED = "trained"
OF_KIND: dict[str, frozenset[str]] = {
    TRAINED: frozenset({"dataset", "training"}),
    "mskd": frozenset(),
    "nnunetv2": frozenset({"folds", "checkpoint", "mirroring", "python", "trust"}),
    "monai_bundle": frozenset({"inference_config", "weights", "activation", "python", "trust"}),
    "onnx": frozenset({"preprocessing", "activation", "python"}),
    "torch_export": frozenset({"preprocessing", "activation", "python", "trust"}),
    "labels": frozenset({"files", "width_mm"}),
}
OF_GIVEN = frozenset({"path", "classes", "datasets"})


class Teacher(Section):
    """Whatever can say something of a scan once: a network of this study, of other tools, or segmentations."""

    kind: Literal["trained", "mskd", "nnunetv2", "monai_bundle", "onnx", "torch_export", "labels"] = key(
        "trained",
        "trained: a network trained on one dataset of this study; mskd: a model folder; nnunetv2: a results folder or "
        "an exported zip; monai_bundle: a bundle's folder; onnx, torch_export: a file with a preprocessing.json; "
        "labels: segmentations that exist already (docs/teachers.md)",
    )
    dataset: str = key("", "trained: dataset it is trained on; default: the teacher's own name", example="liver")
    training: dict[str, Any] = key(
        dict, "trained: keys of `training` that differ for this teacher", example={"steps": 30_000}
    )
    path: Path | None = key(
        None, "all other kinds: the model, or the folder of the segmentations", example="nets/abdomen"
    )
    classes: dict[int | str, str] = key(
        dict,
        "all other kinds: the teacher's class (its name; a channel's number; of label maps the value) → organ of the "
        "study; several classes may be one organ",
        example={"kidney_left": "kidney", "kidney_right": "kidney"},
    )
    datasets: list[str] | None = key(
        None, "all other kinds: training datasets that it is asked about; default: all", example=["liver"]
    )
    files: str = key(
        "{case}.nii.gz",
        "labels: file below `path`; {dataset}, {case} and {class} are filled in, {class} where each class has a file",
        example="{case}/{class}.nii.gz",
    )
    width_mm: float = key(
        2.0, "labels: distance from the surface at which the margin is 1, a probability of 0.73", unit="mm", gt=0
    )
    folds: list[int | Literal["all"]] | None = key(
        None, "nnunetv2: folds whose logits are averaged; default: all that are there", example=[0, 1]
    )
    checkpoint: str = key("checkpoint_final.pth", "nnunetv2: checkpoint in each fold's folder")
    mirroring: bool = key(
        True, "nnunetv2: average over mirrored scans along the axes that the model allows, as the tool does"
    )
    inference_config: str = key(
        "",
        "monai_bundle: inference configuration below `path`; default: configs/inference.json or .yaml",
        example="configs/inference.json",
    )
    weights: str = key("models/model.pt", "monai_bundle: weights below `path`: .pt, .safetensors or TorchScript .ts")
    preprocessing: Path | None = key(
        None,
        "onnx, torch_export: how scans are prepared, as `mskd export` writes it; default: preprocessing.json beside "
        "`path`",
        example="nets/preprocessing.json",
    )
    activation: Literal["softmax", "sigmoid"] = key(
        "softmax", "monai_bundle, onnx, torch_export: softmax over background and classes, or one sigmoid per class"
    )
    python: Path | None = key(
        None,
        "interpreter of another environment, in which this teacher's inference runs; default: the study's own",
        example="/opt/nnunet/bin/python",
    )
    trust: dict[str, Literal[True]] = key(
        dict,
        "SHA-256 of a file that may run code when it is loaded (a pickle, TorchScript, a bundle's configuration) → "
        "true; without it such files are refused",
        example={"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08": True},
    )

    @field_validator("trust")
    @classmethod
    def _sums(cls, value: dict[str, Literal[True]]) -> dict[str, Literal[True]]:
        if bad := [name for name in value if len(name) != 64 or set(name.lower()) - set("0123456789abcdef")]:
            kept = {name: True for name in value if name not in bad}
            allowed = "SHA-256 checksums (64 hexadecimal digits), each with true; `sha256sum FILE` prints one"
            raise FaultsError(Fault("", bad[0], allowed, kept, "found the name"))
        return {name.lower(): True for name in value}

    @property
    def per_class(self) -> bool:
        """Whether segmentations have a file for each class."""
        return "{class}" in self.files

    @property
    def class_texts(self) -> list[str]:
        """Its classes as text."""
        return [str(name) for name in self.classes]

    @property
    def given(self) -> bool:
        """Whether it exists already: the study does not train it, asks it once, and stores no features of it."""
        return self.kind != TRAINED
