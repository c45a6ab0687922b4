"""Where and how to compute: device, threads, determinism."""

from __future__ import annotations

import hashlib

import torch

from mskd import processes
from mskd.errors import ConfigError


def pick_device(wanted: str = "auto") -> torch.device:
    """Return a device: "auto" takes a CUDA GPU where there is one; of several processes each takes its own.

    Raises:
        ConfigError: If the wanted device is not there.
    """
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise ConfigError(f"--device {wanted}: allowed are auto, cpu, cuda, cuda:0, …") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"--device {wanted}: no CUDA GPU here; write --device cpu, or auto")
    if device.type == "cuda" and processes.world() > 1:
        if device.index is not None:
            raise ConfigError(f"--device {wanted}: {processes.world()} processes take a GPU each; write cuda, or auto")
        if torch.cuda.device_count() < processes.local_world():
            raise ConfigError(
                f"{processes.local_world()} processes on this machine, which has {torch.cuda.device_count()} GPU(s): "
                "each takes one\n  way out: ask for fewer (training.gpus, --resources gpu=1), or write --device cpu"
            )
        return torch.device("cuda", processes.local_rank())
    return device


def set_up(device: torch.device, threads: int) -> None:
    """Fix what results depend on: CPU threads, and deterministic algorithms on the CPU."""
    torch.set_num_threads(threads)
    # not use_deterministic_algorithms, which imports torch's compiler as well: a quarter of a small job's time
    torch.set_deterministic_debug_mode("error" if device.type == "cpu" else "default")
    # filling every new tensor with NaN takes a fifth of a training step, and nothing here reads what it did not write
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = device.type == "cuda"


def stable_seed(*parts: object) -> int:
    """Return a seed that depends on nothing but its arguments."""
    digest = hashlib.sha256("/".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:6], "big")
