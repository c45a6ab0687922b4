"""Measures the unit costs of a study on this machine; the work happens in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from math import prod
from pathlib import Path
from typing import Any

from mskd.config.loading import dump_study
from mskd.config.study import Study
from mskd.dag import Graph
from mskd.errors import MskdError
from mskd.methods.registry import method_facts
from mskd.plan.units import Units, units_leaves
from mskd.plan.volumes import ScanSize, scan_sizes

BUDGET_S = 22.0  # beside start-up and the work on volumes, which take some ten seconds more


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


def kept_gib(graph: Graph, sizes: dict[str, ScanSize], body_share: tuple[float, ...]) -> dict[str, float]:
    """Return how much decoded data each `teacher/<name>` and `method/<row>` reads, in GiB."""
    study = graph.study
    voxels = {
        name: sum(
            prod(sizes[case.id].prepared(study, body_share)) for case in graph.cases(name) if case.split == "train"
        )
        for name in graph.training
    }
    found = {f"teacher/{name}": 3 * voxels[study.teacher_dataset(name)] / 2**30 for name in study.teachers}
    for name in study.methods:
        needs = method_facts(study.method_kind(name)).needs
        per_voxel = 3 + sum(target_bytes(study, teacher, needs) for teacher in study.teachers)
        found[f"method/{name}"] = per_voxel * sum(voxels.values()) / 2**30
    return found


def target_bytes(study: Study, teacher: str, needs: frozenset[str] = frozenset({"targets", "features"})) -> float:
    """Return the bytes of a teacher's targets per voxel of the study grid, uncompressed."""
    number = 2 if study.cache.dtype == "float16" else 4
    levels = [study.network.tap_level(tap) for tap in study.cache.taps] if "features" in needs else []
    features = sum(study.network.features[i] / prod(study.network.level_strides[i]) for i in levels)
    logits = len(study.teacher_organs(teacher)) if "targets" in needs else 0
    return number * (logits + features)


def fits_ram(graph: Graph, sizes: dict[str, ScanSize], body_share: tuple[float, ...]) -> dict[str, bool]:
    """Return for every training whether its volumes stay decoded in memory."""
    study, found = graph.study, {}
    for name, gib in kept_gib(graph, sizes, body_share).items():
        kind, _, row = name.partition("/")
        section = study.teacher_training(row) if kind == "teacher" else study.method_training(row)
        found[name] = gib <= section.ram_cache_gib
    return found


def _work(kind: str, folder: Path, task: dict[str, Any]) -> dict[str, Any]:
    (folder / "task.json").write_text(json.dumps({**task, "started": time.time()}), encoding="utf-8")
    command = [sys.executable, "-m", "mskd.plan.worker", kind, str(folder)]
    done = subprocess.run(command, stderr=None, check=False, env={**os.environ})
    if done.returncode:
        raise MskdError(
            f"measuring {kind} failed (see above)\n"
            "  way out: measure where it works, `mskd plan STUDY --write-units FILE`, and plan here with --units FILE"
        )
    found: dict[str, Any] = json.loads((folder / f"{kind}.json").read_text(encoding="utf-8"))
    return found
