"""Checkpoints without pickles: tensors in safetensors, the rest in its header; written atomically."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mskd.console import log
from mskd.storage import atomic_path


def save_checkpoint(path: Path, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
    """Write groups of tensors and a JSON state.

    Args:
        path: File to write.
        tensors: Group ("network", "optimiser", …) → name → tensor.
        state: Anything that JSON can hold (step, best score, key, …).
    """
    flat = {
        f"{group}/{name}": t.detach().contiguous().cpu()
        for group, items in tensors.items()
        for name, t in items.items()
    }
    with atomic_path(path) as part:
        save_file(flat, part, metadata={"state": json.dumps(state, sort_keys=True)})


def load_checkpoint(
    path: Path, resume_key: str, last_step: int
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]] | None:
    """Return what `save_checkpoint` wrote if it is whole and belongs to the same training, else None.

    Args:
        path: File to read.
        resume_key: State entry `resume_key` has to equal this.
        last_step: State entry `step` may be no larger.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            state = json.loads(file.metadata()["state"])
            if state.get("resume_key") != resume_key:
                log(
                    f"{path.name} belongs to other settings or data; starting from the first step (more steps alone go "
                    "on where training.schedule_steps was written down before)"
                )
                return None
            if int(state["step"]) > last_step:
                log(f"{path.name} is of step {state['step']}, beyond the last; starting from the first step")
                return None
            groups: dict[str, dict[str, Tensor]] = {}
            for name in file.keys():  # noqa: SIM118 - not a mapping
                group, _, rest = name.partition("/")
                groups.setdefault(group, {})[rest] = file.get_tensor(name)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        log(f"{path} is damaged ({error}); starting from the first step")
        return None
    return groups, state


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimiser's state as named tensors (`<parameter index>.<name>`)."""
    state = optimiser.state_dict()["state"]
    return {
        f"{index}.{name}": torch.as_tensor(value) for index, items in state.items() for name, value in items.items()
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Undo `optimiser_tensors`."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
