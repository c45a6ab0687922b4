"""One training step: draw patches, augment them, forward, loss, backward, optimiser; no process beside the training."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.speed import nnunet
from benchmarks.speed.data import HU_CLIP, ORGANS, write_scan
from benchmarks.speed.networks import our_network, prepared
from benchmarks.speed.options import Options
from benchmarks.speed.pairing import Answer, Check, Pair
from benchmarks.speed.sides import Work

STORE = "training.zarr"
BATCH = 2


def pairs(options: Options) -> list[Pair]:
    """Return the row."""
    work = f"training, {steps(options)} steps ({BATCH} patches of {options.window}³, features {options.features})"
    return [
        Pair(
            *("training_nnunet", work, "ours", "nnunet", "nnU-Net v2's trainer", ("nnunetv2",)),
            0.7 if options.device.startswith("cuda") else 0.8,
            _check,
            note="same network, patch, batch, optimiser; cross-entropy and Dice, no deep supervision, no mirroring; "
            "each with its own data loading and default augmentation, in the process that trains.",
        )
    ]


def steps(options: Options) -> int:
    """Return the steps per run: augmentations are drawn, so one step says little."""
    return 3 if options.quick else 10


def set_up(folder: Path, options: Options) -> None:
    """Store the prepared scan as both libraries read it."""
    from mskd.prepared import write_prepared

    write_scan(folder, options)
    arrays = prepared(folder, options)
    write_prepared(folder / STORE, arrays, key="speed", attributes={})
    try:
        from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
    except ImportError:  # the student's rows need no peer
        return
    from mskd.prepared import normalise
    from mskd.storage import write_json

    base = folder / "nnUNet_preprocessed/Dataset001_Speed"
    cases = base / f"nnUNetPlans_{nnunet.CONFIGURATION}"
    cases.mkdir(parents=True, exist_ok=True)
    image = np.ascontiguousarray(normalise(arrays.image, HU_CLIP).transpose(2, 1, 0))[None]
    labels = np.ascontiguousarray(arrays.labels.transpose(2, 1, 0))[None].astype(np.int16)
    rows = arrays.foreground
    places = {
        value: np.column_stack([np.zeros(int((rows[:, 0] == value).sum()), int), rows[rows[:, 0] == value][:, :0:-1]])
        for value in range(1, 1 + len(ORGANS))
    }
    for name in ("case0", "case1"):
        nnUNetDatasetBlosc2.save_case(image, labels, {"class_locations": places}, str(cases / name))
    write_json(base / "splits_final.json", [{"train": ["case0"], "val": ["case1"]}])


def training_settings(options: Options) -> Any:
    """Return our training keys, as nnU-Net trains: SGD, half of the patches around organs."""
    from mskd.config.training import Training

    edge = options.window
    return Training(patch_size=(edge, edge, edge), batch_size=BATCH, loss="marginal", steps=100_000)


def supervised(store: Path, options: Options, organs: int = len(ORGANS)) -> Work:
    """Return work that trains some steps on a prepared store, with the labels of so many organs alone."""
    from mskd.methods.base import segmentation_terms
    from mskd.training.patches import PatchNeeds

    network = our_network(options, channels=1 + organs)
    settings = training_settings(options)
    return stepping(
        batches(one_case(store, organs), options, PatchNeeds(), organs=organs),
        network,
        lambda batch, step: segmentation_terms(network, batch, batch.labels, batch.labelled, settings),
        options,
    )


def one_case(store: Path, organs: int = len(ORGANS), targets: dict[str, str | Path] | None = None) -> Any:
    """Return a prepared store as training reads it, kept in memory, with the targets of teachers."""
    from mskd.training.cases import MemoryBudget, TrainingCase

    labelled = list(range(1, 1 + organs))
    return TrainingCase("scan", "speed", store, labelled, targets=targets or {}, budget=MemoryBudget(2**31))


def batches(
    case: Any, options: Options, needs: Any, voices: dict[str, int] | None = None, organs: int = len(ORGANS)
) -> Iterator[Any]:
    """Yield what the training loop yields without workers."""
    from mskd.training.patches import PatchDataset, collate

    settings = training_settings(options)
    common = {"n_organs": organs, "spacing_mm": (2.4, 2.4, 2.4), "hu_clip": HU_CLIP, "seed": 0}
    patches = PatchDataset([case], settings, needs=needs, voices=voices, **common)
    for step in range(settings.steps):
        yield collate([patches[step * BATCH + i] for i in range(BATCH)])


def stepping(
    given: Iterator[Any],
    network: torch.nn.Module,
    loss: Callable[[Any, int], dict[str, Any]],
    options: Options,
    auxiliary: torch.nn.Module | None = None,
) -> Work:
    """Return work that trains some steps as `mskd.training.loop` does."""
    from mskd.training.loop import Trainee, _step
    from mskd.training.optimisation import build_optimiser

    settings, device = training_settings(options), torch.device(options.device)
    trainee = Trainee("speed", network.to(device), (auxiliary or torch.nn.ModuleDict()).to(device), loss, dict)
    learning = torch.nn.ModuleDict({"network": trainee.network, "auxiliary": trainee.auxiliary})
    optimiser = build_optimiser(learning.parameters(), settings)

    def run() -> list[float]:
        terms = [
            _step(trainee, learning, optimiser, next(given).to(device), step, settings, device)["loss"].detach()
            for step in range(steps(options))
        ]
        return [float(term) for term in terms]

    parameters = sum(p.numel() for p in network.parameters())
    shape = [BATCH, 1, *[options.window] * 3]
    return Work(run, lambda losses: {"losses": losses, "parameters": parameters, "shape": shape})


def _nnunet(folder: Path, options: Options) -> Work:
    os.environ |= {"nnUNet_n_proc_DA": "0", "nnUNet_preprocessed": str(folder / "nnUNet_preprocessed")}
    os.environ |= {"nnUNet_results": str(folder / "nnUNet_results"), "nnUNet_raw": str(folder / "nnUNet_raw")}
    from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoMirroring import (
        nnUNetTrainerNoMirroring,
    )

    arrays = prepared(folder, options)
    spacing = [float(s) for s in arrays.geometry.spacing_mm[::-1]]
    plans = nnunet.plans(options, spacing, list(arrays.image.shape[::-1]))
    with redirect_stdout(StringIO()):
        trainer = nnUNetTrainerNoMirroring(
            plans, nnunet.CONFIGURATION, 0, nnunet.dataset_json(), torch.device(options.device)
        )
        trainer.enable_deep_supervision = False
        trainer.initialize()
        loader, _ = trainer.get_dataloaders()
    trainer.network.train()
    parameters = sum(p.numel() for p in trainer.network.parameters())
    shape: list[int] = []

    def run() -> list[float]:
        losses = []
        for _step in range(steps(options)):
            batch = next(loader)
            shape[:] = batch["data"].shape
            losses.append(float(trainer.train_step(batch)["loss"]))
        return losses

    return Work(run, lambda losses: {"losses": losses, "parameters": parameters, "shape": list(shape)})


def _check(ours: Answer, theirs: Answer) -> list[Check]:
    finite = [float(np.isfinite(answer["losses"]).all()) for answer in (ours, theirs)]
    unlike = sum(a != b for a, b in zip(ours["shape"], theirs["shape"], strict=True))
    return [
        Check("parameters of the two networks, difference", float(abs(ours["parameters"] - theirs["parameters"])), 0),
        Check("axes in which the two batches differ", float(unlike), 0),
        Check("sides whose losses are finite", sum(finite), 2, ">="),
    ]


SIDES = {"ours": lambda folder, options: supervised(folder / STORE, options), "nnunet": _nnunet}
