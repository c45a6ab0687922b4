"""What a measurement was made with: versions and hardware; no host name, no paths, no user."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import mskd

PEERS = ("monai", "nnunetv2", "MedPy", "surface-distance", "SimpleITK")
OURS = ("torch", "numpy", "scipy", "zarr", "nibabel")


def machine(device: str) -> dict[str, object]:
    """Return CPU model, cores, memory, and the GPU where one is used."""
    found: dict[str, object] = {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": int(os.environ.get("OMP_NUM_THREADS", 0)) or len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "load_before": round(os.getloadavg()[0], 1),
    }
    if device.startswith("cuda"):
        import torch

        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def versions() -> dict[str, str]:
    """Return the installed versions of ours and of the peers."""
    installed = {name: found for name in (*OURS, *PEERS) if (found := _version(name))}
    return {"mskd": mskd.__version__, **installed}


def missing(needs: Iterable[str]) -> list[str]:
    """Return which distributions are not installed."""
    return [name for name in needs if not _version(name)]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"
