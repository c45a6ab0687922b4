"""Measures the unit costs of a study on this machine; the work happens in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from mskd.config.loading import dump_study
from mskd.config.study import Study
from mskd.dag import Graph
from mskd.errors import MskdError
from mskd.plan.kept import fits_ram
from mskd.plan.units import Units, units_leaves
from mskd.plan.volumes import scan_sizes

BUDGET_S = 15.0  # for trainings and windows; start-up, and volumes, take as long again


def measure_units(study: Study, device: str) -> Units:
    """Measure.

    Args:
        study: The study.
        device: Where networks compute: auto, cpu, cuda, …

    Raises:
        MskdError: If a measurement fails, for example because the patch does not fit into memory.
    """
    graph = Graph(study)
    sizes = scan_sizes(graph)
    with tempfile.TemporaryDirectory(prefix="mskd-plan-") as name:
        folder = Path(name)
        (folder / "study.yaml").write_text(dump_study(study), encoding="utf-8")
        raw, full = (sum(s) for s in zip(*((s.raw_mvoxels, s.full_mvoxels) for s in sizes.values()), strict=True))
        task: dict[str, Any] = {"device": device, "budget_s": BUDGET_S, "raw_per_study": raw / full}
        volumes = _work("volumes", folder, task)
        task["fits_ram"] = fits_ram(graph, sizes, tuple(volumes["body_share"]))
        networks = _work("networks", folder, task)
    return Units.model_validate(
        {
            "fits": units_leaves(study),
            "volumes": volumes,
            **networks,
        }
    )


def _work(kind: str, folder: Path, task: dict[str, Any]) -> dict[str, Any]:
    (folder / "task.json").write_text(json.dumps({**task, "started": time.time()}), encoding="utf-8")
    command = [sys.executable, "-m", "mskd.plan.worker", kind, str(folder)]
    done = subprocess.run(command, check=False)
    if done.returncode:
        raise MskdError(
            f"measuring {kind} failed (see above)\n"
            "  way out: measure where it works, `mskd plan STUDY --write-units FILE`, and plan here with --units FILE"
        )
    found: dict[str, Any] = json.loads((folder / f"{kind}.json").read_text(encoding="utf-8"))
    return found
