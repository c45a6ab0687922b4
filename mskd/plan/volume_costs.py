"""Times the work on volumes: making synthetic scans, preparing, scoring; on one synthetic scan of moderate size."""

from __future__ import annotations

import time
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from mskd.config.phantom import PhantomDataset, Scanner
from mskd.config.study import Study
from mskd.evaluation.metrics import score_case
from mskd.geometry import Geometry
from mskd.phantom.layouts import PhantomCase, phantom_case_files, write_case
from mskd.phantom.scanner import scan_axes
from mskd.plan.worker import in_child, present_mib
from mskd.preparation import prepare_arrays
from mskd.prepared import write_prepared
from mskd.provenance import file_digest
from mskd.scans import read_labels, read_scan, write_labels

Result = TypeVar("Result")
LabelMap = npt.NDArray[np.uint8]
SCAN_VOXELS = 0.5e6
GRID_VOXELS = 1.0e6
PHANTOMS, REPEATS = 2, 3  # the fastest counts: what else runs on the machine only slows down


def measure_volumes(study: Study, folder: Path, task: dict[str, Any]) -> dict[str, Any]:
    """Return the unit costs of a process without torch, as `VolumeUnits` names them.

    Args:
        study: The study.
        folder: Where to write.
        task: "raw_per_study": mean voxels of a raw scan per voxel of its field of view on the study grid.
    """
    specs = {name: dataset.phantom for name, dataset in study.datasets.items() if dataset.phantom}
    specs = specs or {"": PhantomDataset(scanner=Scanner())}
    base_mib = present_mib()
    scans = in_child("synthetic scans", folder, lambda: _measure_phantoms(specs, folder / "phantoms"))
    name, spec = next(iter(specs.items()))
    case = phantom_case_files(folder / "phantoms" / name, _coarse(spec))[0]
    target, raw_per_study = folder / "prepared.zarr", float(task["raw_per_study"])
    found = in_child("preparation", folder, lambda: _measure_preparation(study, case, target, raw_per_study))
    scored = in_child("scoring", folder, lambda: _measure_scoring(study, case, folder / "prediction.nii.gz"))
    return {
        "phantom_s": scans["phantom_s"] if "" not in specs else {},
        "phantom_bytes": scans["voxel_bytes"],
        "phantom_mib": scans["growth_mib"] / scans["mvoxels"],
        **{key: found[key] for key in ("prepare_s", "prepared_bytes", "body_share")},
        "prepare_mib": found["growth_mib"] / found["mvoxels"],
        **{key: scored[key] for key in ("read_s", "organ_s", "prediction_bytes")},
        "evaluate_mib": scored["growth_mib"] / scored["mvoxels"],
        "memory_mib": base_mib,
    }


def _measure_phantoms(specs: dict[str, PhantomDataset], folder: Path) -> dict[str, Any]:
    phantom_s: dict[str, float] = {}
    voxel_bytes, largest = 0.0, 0.0
    for name, spec in specs.items():
        coarse, root = _coarse(spec), folder / name
        mvoxels = prod(len(axis) for axis in scan_axes(coarse.scanner)) / 1e6
        largest = max(largest, mvoxels)
        if not phantom_s:
            write_case(root, coarse, 0)  # warms up: imports, caches
        taken_s, files = [], []
        for case in phantom_case_files(root, coarse):
            started = time.monotonic()
            write_case(root, coarse, case.index)
            files = [case.image, case.label, case.withheld]
            for path in files:
                file_digest(path)
            taken_s.append(time.monotonic() - started)
        phantom_s[name] = min(taken_s) / mvoxels
        voxel_bytes += sum(path.stat().st_size for path in files) / mvoxels / 1e6 / len(specs)
    return {"phantom_s": phantom_s, "voxel_bytes": voxel_bytes, "mvoxels": largest}


def _coarse(spec: PhantomDataset) -> PhantomDataset:
    voxels = prod(len(axis) for axis in scan_axes(spec.scanner))
    coarser = max(1.0, voxels / SCAN_VOXELS) ** (1 / 3)
    x, y, z = (step * coarser for step in spec.scanner.spacing_mm)
    scanner = spec.scanner.model_copy(update={"spacing_mm": (x, y, z)})
    return spec.model_copy(update={"n_train": PHANTOMS, "n_val": 0, "n_test": 0, "scanner": scanner})


def _measure_preparation(study: Study, case: PhantomCase, target: Path, raw_per_study: float) -> dict[str, Any]:
    scan, affine = read_scan(case.image, case.name)
    field_mm3 = scan.size * abs(np.linalg.det(affine[:3, :3]))
    voxels = min(GRID_VOXELS, scan.size / raw_per_study)
    spacing = np.asarray(study.preprocessing.spacing_mm)
    spacing = spacing * (field_mm3 / prod(spacing) / voxels) ** (1 / 3)
    chosen = study.preprocessing.model_copy(update={"spacing_mm": tuple(float(s) for s in spacing)})

    def work() -> Geometry:
        file_digest(case.image)
        file_digest(case.label)
        scan, affine = read_scan(case.image, case.name)
        labels = read_labels(case.label, case.name, {1: 1}, scan.shape)
        arrays = prepare_arrays(scan, affine, labels, None, chosen)
        write_prepared(target, arrays, key="unit", attributes={})
        return arrays.geometry

    taken_s, geometry = _fastest(work)
    mvoxels = (scan.size + prod(geometry.full_shape)) / 1e6
    return {
        "prepare_s": taken_s / mvoxels,
        "prepared_bytes": folder_bytes(target) / prod(geometry.shape),
        "body_share": [n / full for n, full in zip(geometry.shape, geometry.full_shape, strict=True)],
        "mvoxels": mvoxels,
    }


def _fastest(work: Callable[[], Result]) -> tuple[float, Result]:
    """Return the shortest of several times in seconds, and what the work returns."""
    taken_s = []
    for _ in range(REPEATS):
        started = time.monotonic()
        result = work()
        taken_s.append(time.monotonic() - started)
    return min(taken_s), result


def _measure_scoring(study: Study, case: PhantomCase, target: Path) -> dict[str, Any]:
    reference = read_labels(case.label, case.name, {1: 1}, read_scan(case.image, case.name)[0].shape)
    write_labels(target, np.roll(reference, 2, axis=0), np.eye(4))
    spacing_mm = study.preprocessing.spacing_mm

    def read() -> LabelMap:
        for path in (case.label, case.label, target):
            file_digest(path)
        read_labels(target, case.name, {1: 1}, reference.shape)
        return read_labels(case.label, case.name, {1: 1}, reference.shape)

    def score() -> None:
        score_case(prediction, reference, spacing_mm, {"organ": 1}, ["organ"], nsd_tolerance_mm=1.0)

    prediction = read_labels(target, case.name, {1: 1}, reference.shape)
    read_s, organ_s = _fastest(read)[0], _fastest(score)[0]
    mvoxels = reference.size / 1e6
    return {
        "read_s": read_s / mvoxels,
        "organ_s": organ_s / mvoxels,
        "prediction_bytes": target.stat().st_size / reference.size,
        "mvoxels": mvoxels,
    }


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
