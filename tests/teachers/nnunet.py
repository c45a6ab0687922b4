"""nnU-Net v2 by its own commands, in an environment of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

from .phantoms import PhantomCase, nnunet_dataset

DATASET, PLANS, CONFIGURATION = "Dataset001_Phantom", "nnUNetPlans", "3d_tiny"


def train(
    python: Path, root: Path, cases: list[PhantomCase], organ: str, *, spacing_mm: tuple[float, ...] = ()
) -> Path:
    """Plan, preprocess and train a small network for one epoch of its 1000; return its results folder.

    Its trainers of fewer epochs are looked for in modules that need a torchvision of the very build of torch, which
    no index serves for every build; so its usual one is stopped when it has saved `checkpoint_best.pth`.

    Args:
        python: Interpreter of the environment with nnunetv2.
        root: Folder for everything.
        cases: What it learns from.
        organ: Name of the one label.
        spacing_mm: Spacing of its network along its own (z, y, x); empty for what it plans.
    """
    places = {name: root / name for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    nnunet_dataset(places["nnUNet_raw"] / DATASET, cases, organ)
    wanted = ["-overwrite_target_spacing", *(str(s) for s in spacing_mm)] if spacing_mm else []
    run(
        python, places, "nnUNetv2_plan_and_preprocess", "-d", "1", "-c", "3d_fullres", "-np", "1", "-npfp", "1", *wanted
    )
    _add_configuration(places["nnUNet_preprocessed"] / DATASET / f"{PLANS}.json")
    _one_epoch(root / "train.log", python, places)
    return places["nnUNet_results"] / DATASET / f"nnUNetTrainer__{PLANS}__{CONFIGURATION}"


def run(python: Path, places: dict[str, Path], command: str, *arguments: str) -> None:
    """Run one of its commands."""
    done = subprocess.run(
        [str(python.parent / command), *arguments],
        env=_environment(places),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise AssertionError(f"{command} {' '.join(arguments)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")


def _one_epoch(log: Path, python: Path, places: dict[str, Path]) -> None:
    command = [str(python.parent / "nnUNetv2_train"), "1", CONFIGURATION, "0", "-device", "cpu"]
    with log.open("w") as stream:
        training = subprocess.Popen(
            command, env=_environment(places), stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )
    end = time.monotonic() + 900
    try:
        while "Epoch 1" not in log.read_text():  # the first one, 0, is saved
            if training.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"{' '.join(command)}: no epoch was finished\n{log.read_text()[-3000:]}")
            time.sleep(0.5)
    finally:
        os.killpg(training.pid, signal.SIGKILL)
        training.wait()


def _environment(places: dict[str, Path]) -> dict[str, str]:
    few = {"OMP_NUM_THREADS": "1", "nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "1", "PYTHONUNBUFFERED": "1"}
    return {**os.environ, **few, **{name: str(path) for name, path in places.items()}}


def _add_configuration(path: Path) -> None:
    """Add a configuration with a small network, as its documentation describes it (`inherits_from`)."""
    plans = json.loads(path.read_text())
    full = plans["configurations"]["3d_fullres"]
    arguments = full["architecture"]["arch_kwargs"]
    n = 3
    small = {
        name: value[:n] if isinstance(value, list) and name != "n_conv_per_stage_decoder" else value
        for name, value in arguments.items()
    }
    small |= {
        "n_stages": n,
        "features_per_stage": [8, 16, 32],
        "n_conv_per_stage": [1] * n,
        "n_conv_per_stage_decoder": [1] * (n - 1),
    }
    small |= {"strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]], "kernel_sizes": [[3, 3, 3]] * n}
    plans["configurations"][CONFIGURATION] = {
        "inherits_from": "3d_fullres",
        "patch_size": [32, 32, 32],
        "batch_size": 2,
        "architecture": {**full["architecture"], "arch_kwargs": small},
    }
    path.write_text(json.dumps(plans, indent=2))
