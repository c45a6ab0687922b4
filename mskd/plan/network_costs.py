"""Times networks: the real stages on a miniature of the study, each in a process of its own."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from math import inf, prod
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from mskd.config.study import Study
from mskd.config.training import Training
from mskd.device import pick_device, set_up
from mskd.inference import study_windows
from mskd.layout import Layout
from mskd.methods.registry import method_facts
from mskd.models import load_model
from mskd.plan.activations import activation_mib, parameter_count
from mskd.plan.miniature import RUN, Triple, fill_miniature, made_up, miniature, trainings, whole
from mskd.plan.worker import in_child
from mskd.prediction import predict_labels
from mskd.prepared import PreparedCase, write_prepared
from mskd.scans import write_labels
from mskd.stages.train_student import train_student
from mskd.stages.train_teacher import train_teacher
from mskd.targets import write_targets
from mskd.teachers.registry import load_teacher
from mskd.training.journal import METRICS, read_rows

WARM_UP, LEAST_STEPS, MOST_STEPS = 2, 4, 16
PROBE_STEPS = 3
TRAINING_SHARE, INFERENCE_SHARE = 0.6, 0.2  # of the time that measuring may take
FORWARD_SHARE = 0.4  # a window costs about this share of a training step on a patch of its size
REPEATS = 3
LARGER = 1.5  # the second volume that is timed, in windows along each axis


def measure_networks(study: Study, folder: Path, task: dict[str, Any]) -> dict[str, Any]:
    """Return the unit costs of everything that computes with a network, as `Units` names them.

    Args:
        study: The study.
        folder: Where to write.
        task: "device", "budget_s" (seconds that this may take), "raw_per_study", "fits_ram" (trainee → whether its
            volumes stay in memory).
    """
    alike = _alike(study)
    probe_s = _probe(study, folder, next(iter(alike)), task["device"])
    share_s = TRAINING_SHARE * task["budget_s"] / len(alike)
    plan: dict[str, tuple[Triple, int]] = {}
    for name in alike:
        section = trainings(study)[name]
        full_s = probe_s * prod(section.patch_size) * section.batch_size
        patch = _smaller(section.patch_size, study.network.coarsest_stride, share_s / (LEAST_STEPS + WARM_UP) / full_s)
        step_s = full_s * prod(patch) / prod(section.patch_size)
        plan[name] = (patch, min(MOST_STEPS, max(LEAST_STEPS, int(share_s / step_s))) + WARM_UP)
    window_s = probe_s * FORWARD_SHARE * prod(study.window)
    window = _smaller(
        study.window, study.network.coarsest_stride, INFERENCE_SHARE * task["budget_s"] / (2 * REPEATS * 10) / window_s
    )
    patches = {name: patch for name, (patch, _) in plan.items()}
    steps = {name: count for name, (_, count) in plan.items()}
    mini = _with_ram(miniature(study, folder / "measured", steps, patches, window), task["fits_ram"])
    facts = [method_facts(study.method_kind(name)) for name in study.methods]
    withheld = any("withheld_labels" in fact.needs for fact in facts)

    def fill() -> dict[str, Any]:
        fill_miniature(mini, withheld=withheld)
        device = pick_device(task["device"])
        gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
        return {"device": device.type, "machine": gpu or f"{_processor()}, {os.cpu_count()} cores"}

    machine = in_child("made-up volumes", folder, fill)
    found: dict[str, Any] = {}
    for name, others in alike.items():
        scale = prod(trainings(study)[name].patch_size) / prod(plan[name][0])
        units = _training(study, mini, folder, name, scale, task["device"])
        found |= dict.fromkeys((name, *others), units)
    trained = next((name for name in alike if name.startswith("method/")), next(iter(alike)))
    scale = prod(study.window) / prod(window)
    both = _inference(study, mini, folder, trained, scale, task)
    scaled = max([scale, *(prod(trainings(study)[name].patch_size) / prod(plan[name][0]) for name in alike)])
    return {
        "training": found,
        **both,
        "scaled": scaled,
        "parameters": _parameters(study),
        "device": machine["device"],
        "machine": machine["machine"],
        "gpu_memory": "measured" if machine["device"] == "cuda" else "estimated",
    }


def _alike(study: Study) -> dict[str, list[str]]:
    """Return one trainee per kind of cost, with the others that cost the same; the first is a teacher."""
    groups: dict[Any, list[str]] = {}
    for name, section in trainings(study).items():
        kind, _, row = name.partition("/")
        size: tuple[Any, ...] = (section.patch_size, section.batch_size, section.loss, section.optimiser)
        if kind == "teacher":
            groups.setdefault(("teacher", len(study.teacher_organs(row)), *size), []).append(name)
        elif method_facts(study.method_kind(row)).trains:
            weights = study.method_distillation(row)
            used = (weights.feature_weight > 0, weights.logit_weight > 0, str(weights.feature_taps))
            groups.setdefault((study.method_kind(row), used, *size), []).append(name)
    return {names[0]: names[1:] for names in groups.values()}


def _smaller(size: Triple, stride: Triple, allowed: float) -> Triple:
    """Halve the longest axes of a size until at most the allowed share of its voxels is left, or two strides."""
    now = list(size)
    while prod(now) > allowed * prod(size):
        axes = [axis for axis in range(3) if now[axis] >= 4 * stride[axis]]
        if not axes:
            break
        axis = max(axes, key=lambda a: now[a] / stride[a])
        now[axis] = max(2, now[axis] // 2 // stride[axis]) * stride[axis]
    return now[0], now[1], now[2]


def _probe(study: Study, folder: Path, name: str, device: str) -> float:
    """Return roughly how many seconds a training step takes per voxel of the batch, from a small patch."""
    section, stride = trainings(study)[name], study.network.coarsest_stride
    patch = _smaller(section.patch_size, stride, 0.05)
    mini = miniature(study, folder / "probe", {name: PROBE_STEPS}, {name: patch}, patch)
    small = dict.fromkeys(trainings(study), patch)
    fill_small = miniature(study, folder / "probe", {name: PROBE_STEPS}, small, patch)

    def run() -> dict[str, Any]:
        fill_miniature(fill_small, withheld=False)
        _train(mini, name, device)
        return {"step_s": _mean_step_s(mini, name, 1)}

    found = in_child("a small patch", folder, run)
    return float(found["step_s"]) / prod(patch) / section.batch_size


def _train(mini: Study, name: str, device: str) -> None:
    kind, _, row = name.partition("/")
    (train_teacher if kind == "teacher" else train_student)(mini, row, RUN, pick_device(device))


def _training(study: Study, mini: Study, folder: Path, name: str, scale: float, device: str) -> dict[str, float]:
    section = trainings(study)[name]

    def run() -> dict[str, Any]:
        _train(mini, name, device)
        return {"gpu_mib": _gpu_mib()}

    found = in_child(name.replace("/", " "), folder, run)
    rows = [row for row in read_rows(_folder(mini, name) / METRICS) if "time_s" in row]
    gpu_mib = found["gpu_mib"]
    return {
        "step_s": _mean_step_s(mini, name, WARM_UP) * scale,
        "fixed_s": max(0.0, found["time_s"] - rows[-1]["time_s"]),
        "memory_mib": found["memory_mib"] + found["growth_mib"] * (scale - 1),
        "gpu_memory_mib": gpu_mib * scale if gpu_mib is not None else _estimated_mib(study, name, section),
    }


def _estimated_mib(study: Study, name: str, section: Training) -> float:
    return activation_mib(study.network, _channels(study, name), section.patch_size, section.batch_size, section)


def _inference(
    study: Study, mini: Study, folder: Path, trained: str, scale: float, task: dict[str, Any]
) -> dict[str, Any]:
    teacher = next(iter(study.teachers))
    first = next(name for name in _alike(study) if name.startswith("teacher/"))
    windows, raw_per_study = study_windows(mini), task["raw_per_study"] ** (1 / 3)
    small = windows.size
    large = whole([LARGER * n for n in small], windows.stride)
    for shape, name in ((small, "small"), (large, "large")):
        arrays = made_up(mini, shape, raw_per_study=raw_per_study)
        write_prepared(folder / f"{name}.zarr", arrays, key="unit", attributes={})

    def cache() -> dict[str, Any]:
        device = pick_device(task["device"])
        set_up(device, mini.inference.threads)
        loaded = load_teacher(mini, first.removeprefix("teacher/"), RUN, device)

        def work(name: str) -> None:
            targets = loaded.targets(PreparedCase(folder / f"{name}.zarr", name))
            path = folder / f"targets-{name}.zarr"
            write_targets(path, targets, key="unit", dtype=mini.cache.dtype, chunk=mini.cache.chunk, attributes={})

        return {"times_s": _fastest(work), "gpu_mib": _gpu_mib()}

    def predict() -> dict[str, Any]:
        device = pick_device(task["device"])
        set_up(device, mini.inference.threads)
        model = load_model(_folder(mini, trained), device)

        def work(name: str) -> None:
            case = PreparedCase(folder / f"{name}.zarr", name)
            image, body = case.read("image"), case.read("body")
            labels = predict_labels(model, image, body, case.geometry, windows, device=device)
            write_labels(folder / "labels.nii.gz", labels, case.geometry.affine)

        return {"times_s": _fastest(work), "gpu_mib": _gpu_mib()}

    counts = [len(windows.starts(shape)) for shape in (small, large)]
    mvoxels = [prod(shape) / 1e6 for shape in (small, large)]
    maps = 1 + len(study.teacher_organs(teacher))
    features = sum(
        study.network.features[level] / prod(study.network.level_strides[level])
        for level in map(study.network.tap_level, study.cache.taps)
    )
    channels = 1 + len(study.organs)
    found = {}
    for kind, work, stored in (("cache", cache, maps + features), ("predict", predict, channels)):
        answer = in_child(f"a window ({kind})", folder, work)
        per = mvoxels if kind == "cache" else [n * task["raw_per_study"] for n in mvoxels]
        window_s, mvoxel_s = _split(answer["times_s"], counts, per)
        estimated = activation_mib(study.network, channels, study.window, study.inference.batch_size, None)
        found[kind] = {
            "window_s": window_s * scale,
            "mvoxel_s": mvoxel_s,
            "memory_mib": answer["memory_mib"] + answer["growth_mib"] * (scale - 1),
            "mvoxel_mib": 3 * 4 * stored * 1e6 / 2**20,  # sum, mean and what is made of them, float32
            "gpu_memory_mib": answer["gpu_mib"] * scale if answer["gpu_mib"] is not None else estimated,
        }
    return found


def _fastest(work: Callable[[str], None]) -> list[float]:
    """Return the shortest of several times in seconds for the small and for the large volume, after a warm-up."""
    work("small")
    found = {"small": inf, "large": inf}
    for name in ("small", "large") * REPEATS:
        started = time.monotonic()
        work(name)
        found[name] = min(found[name], time.monotonic() - started)
    return list(found.values())


def _split(times_s: list[float], windows: list[int], mvoxels: list[float]) -> tuple[float, float]:
    """Return seconds per window and per million voxels that explain two measurements; neither negative."""
    determinant = windows[0] * mvoxels[1] - windows[1] * mvoxels[0]
    if determinant == 0:
        return times_s[1] / windows[1], 0.0
    window_s = (times_s[0] * mvoxels[1] - times_s[1] * mvoxels[0]) / determinant
    mvoxel_s = (windows[0] * times_s[1] - windows[1] * times_s[0]) / determinant
    if window_s < 0:
        return 0.0, times_s[1] / mvoxels[1]
    if mvoxel_s < 0:
        return times_s[1] / windows[1], 0.0
    return window_s, mvoxel_s


def _processor() -> str:
    """Return the processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _gpu_mib() -> float | None:
    return torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_initialized() else None


def _with_ram(mini: Study, fits_ram: dict[str, bool]) -> Study:
    """Let trainings whose volumes do not stay in memory read every patch from disk."""
    data = mini.model_dump(mode="json")
    for name, fits in fits_ram.items():
        if not fits:
            kind, _, row = name.partition("/")
            data[f"{kind}s"][row]["training"]["ram_cache_gib"] = 0.0
    return type(mini).model_validate(data)


def _mean_step_s(mini: Study, name: str, skip: int) -> float:
    times = [row["time_s"] for row in read_rows(_folder(mini, name) / METRICS) if "time_s" in row]
    return fmean(b - a for a, b in zip(times[skip - 1 :], times[skip:], strict=False))


def _folder(mini: Study, name: str) -> Path:
    kind, _, row = name.partition("/")
    layout = Layout(mini.root)
    return layout.teacher(row, RUN) if kind == "teacher" else layout.student(row, RUN)


def _channels(study: Study, name: str) -> int:
    kind, _, row = name.partition("/")
    return 1 + len(study.teacher_organs(row) if kind == "teacher" else study.organs)


def _parameters(study: Study) -> dict[str, int]:
    return {name: parameter_count(study.network, _channels(study, name)) for name in trainings(study)}
