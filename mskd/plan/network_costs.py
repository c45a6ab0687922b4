"""Times networks: the real stages on a miniature of the study, each in a process of its own."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from itertools import product
from math import inf, prod
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from mskd.cache.settings import cache_settings
from mskd.cases import list_cases
from mskd.config.study import Study
from mskd.config.training import Training
from mskd.device import pick_device, set_up
from mskd.inference import sliding_window, study_windows
from mskd.layout import Layout, target_place
from mskd.methods.registry import method_facts
from mskd.models import load_model, read_card
from mskd.plan.activations import activation_mib, parameter_count
from mskd.plan.miniature import (
    RUN,
    Triple,
    alike,
    fill_miniature,
    made_up,
    make_up_targets,
    miniature,
    smaller,
    trainings,
    whole,
)
from mskd.plan.probe import Probe, mean_step_s, model_folder, probe, train_miniature
from mskd.plan.volume_costs import folder_bytes
from mskd.plan.worker import in_child
from mskd.prepared import PreparedCase, normalise, write_prepared
from mskd.resampling import scores_to_raw
from mskd.scans import write_labels
from mskd.stages.cache_targets import cache_targets
from mskd.stages.fit_projection import fit_projection
from mskd.training.journal import METRICS, read_rows

Result = TypeVar("Result")
WARM_UP, LEAST_STEPS, MOST_STEPS = 1, 3, 16
TRAINING_SHARE, INFERENCE_SHARE = 0.7, 0.3  # of the time that measuring may take
FORWARD_SHARE = 0.25  # a window costs about this share of a training step on a patch of its size
REPEATS = 3
MAPS = 3  # float32 maps of the volume: sum of windows, mean, and what is made of it


def measure_networks(study: Study, folder: Path, task: dict[str, Any]) -> dict[str, Any]:
    """Return the unit costs of everything that computes with a network, as `Units` names them.

    Args:
        study: The study.
        folder: Where to write.
        task: "device", "budget_s" (seconds that this may take), "raw_per_study", "fits_ram" (trainee → whether its
            volumes stay in memory).
    """
    groups = alike(study)
    first = next(iter(groups))
    look = probe(study, folder, first, task["device"])
    share_s, stride = TRAINING_SHARE * task["budget_s"] / len(groups), study.network.coarsest_stride
    plan: dict[str, tuple[Triple, int]] = {}
    for name in groups:
        section = trainings(study)[name]
        patch = look.patch(section.patch_size, section.batch_size, stride, share_s / (LEAST_STEPS + WARM_UP))
        fitting = int(share_s / look.step_s(section.batch_size * prod(patch))) - WARM_UP
        plan[name] = (patch, min(MOST_STEPS, max(LEAST_STEPS, fitting)) + WARM_UP)
    patches = {other: plan[name][0] for name, others in groups.items() for other in (name, *others)}
    window_s = look.voxel_s * FORWARD_SHARE * prod(study.window)
    allowed_s = INFERENCE_SHARE * task["budget_s"] / (2 * (1 + REPEATS) * 2)
    # not much smaller than the patches: a teacher goes over the volumes from which patches are cut
    allowed = max(allowed_s / window_s, max(map(prod, patches.values())) / prod(study.window))
    window = smaller(study.window, stride, allowed)
    patches |= {name: window for name in trainings(study) if name not in patches}
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
    parameters = _parameters(study)
    predict: dict[str, Any] = {}
    cache: dict[str, Any] = {}
    scale = prod(study.window) / prod(window)
    for name, others in groups.items():
        factor = prod(trainings(study)[name].patch_size) / prod(plan[name][0])
        units = _training(study, mini, folder, name, factor, look, task["device"])
        found |= dict.fromkeys((name, *others), units)
        parameters |= dict.fromkeys((name, *others), read_card(model_folder(mini, name))["parameters"])
        if name == first:
            predict = _inference(study, mini, folder, name, scale, look, task)
            written = _cache(study, mini, folder, name, predict["window_s"] / scale, task["device"])
            memory = {
                "memory_mib": written["memory_mib"] + max(0.0, written["growth_mib"] - look.fixed_mib) * (scale - 1)
            }
            cache = {**predict, **memory, "mvoxel_s": written["mvoxel_s"]}
    scaled = max([scale, *(prod(trainings(study)[name].patch_size) / prod(plan[name][0]) for name in groups)])
    return {
        "training": found,
        "cache": cache,
        "cache_bytes": written["voxel_bytes"],
        "predict": predict,
        "scaled": scaled,
        "parameters": parameters,
        "device": machine["device"],
        "machine": machine["machine"],
        "gpu_memory": "measured" if machine["device"] == "cuda" else "estimated",
    }


def _training(
    study: Study, mini: Study, folder: Path, name: str, scale: float, look: Probe, device: str
) -> dict[str, float]:
    section = trainings(study)[name]

    def run() -> dict[str, Any]:
        train_miniature(mini, name, device)
        return {"gpu_mib": _gpu_mib()}

    found = in_child(name.replace("/", " "), folder, run)
    rows = [row for row in read_rows(model_folder(mini, name) / METRICS) if "time_s" in row]
    gpu_mib = found["gpu_mib"]
    return {
        "step_s": look.raised(mean_step_s(mini, name, WARM_UP), scale),
        "fixed_s": max(0.0, found["time_s"] - rows[-1]["time_s"]),
        "memory_mib": _raised_mib(found, scale, look),
        "gpu_memory_mib": gpu_mib * scale if gpu_mib is not None else _estimated_mib(study, name, section),
    }


def _estimated_mib(study: Study, name: str, section: Training) -> float:
    kind, _, row = name.partition("/")
    beside = method_facts(study.method_kind(row)).companions if kind == "method" else {}
    channels = _channels(study, name)
    one = activation_mib(study.network, channels, section.patch_size, section.batch_size, section)
    following = beside.get("following", 0) * 4 * parameter_count(study.network, channels) / 2**20
    return one * (1 + beside.get("learning", 0)) + following


def _inference(
    study: Study, mini: Study, folder: Path, first: str, scale: float, look: Probe, task: dict[str, Any]
) -> dict[str, Any]:
    windows = study_windows(mini)
    x, y, z = windows.size
    full_batch = 1 + max(1, windows.batch_size - 1) * (1 - windows.overlap)  # in windows along one axis
    shape = whole([full_batch * x, y, z], windows.stride)
    arrays = made_up(mini, shape, raw_per_study=task["raw_per_study"] ** (1 / 3))
    write_prepared(folder / "volume.zarr", arrays, key="unit", attributes={})
    count = len(windows.starts(shape))
    case = PreparedCase(folder / "volume.zarr", "volume")

    def predict() -> dict[str, Any]:
        device = pick_device(task["device"])
        set_up(device, mini.inference.threads)
        model = load_model(model_folder(mini, first), device)
        image, body = normalise(case.read("image"), mini.preprocessing.hu_clip), case.read("body")

        def forward() -> npt.NDArray[np.float32]:
            return sliding_window(lambda x: (model.network(x), {}), image, windows, body=body, device=device).scores

        def write(scores: npt.NDArray[np.float32]) -> int:
            labels = case.geometry.to_raw_axes(scores_to_raw([scores], case.geometry)[0])
            write_labels(folder / "labels.nii.gz", np.ascontiguousarray(labels), case.geometry.affine)
            return int(labels.size)

        windows_s, scores = _fastest(forward)
        rest_s, raw_voxels = _fastest(lambda: write(scores))
        return {"window_s": windows_s / count, "mvoxel_s": rest_s / raw_voxels * 1e6, "gpu_mib": _gpu_mib()}

    answer = in_child("a window", folder, predict)
    channels = 1 + len(study.organs)
    estimated = activation_mib(study.network, channels, study.window, study.inference.batch_size, None)
    return {
        "window_s": answer["window_s"] * scale,
        "mvoxel_s": answer["mvoxel_s"],
        "memory_mib": _raised_mib(answer, scale, look),
        "mvoxel_mib": MAPS * channels * 4e6 / 2**20,
        "gpu_memory_mib": answer["gpu_mib"] * scale if answer["gpu_mib"] is not None else estimated,
    }


def _cache(study: Study, mini: Study, folder: Path, first: str, window_s: float, device: str) -> dict[str, Any]:
    """Cache every teacher's targets of every case, which students then read; window_s as measured on the miniature.

    Where all teachers exist already, none of which is asked here, it is made-up targets that are written.
    """
    layout = Layout(mini.root)

    def others() -> dict[str, Any]:
        for teacher in study.trained_teachers:
            if f"teacher/{teacher}" != first:
                train_miniature(mini, f"teacher/{teacher}", device)
            if cache_settings(study.cache).feature_channels and study.cache.taps:
                fit_projection(mini, teacher, RUN, pick_device(device))
        return {}

    def work() -> dict[str, Any]:
        taken_s, voxel_bytes, windows, voxels = inf, 0.0, 0, 0
        for teacher, dataset in product(mini.teachers, mini.datasets):
            case = list_cases(mini, dataset)[0]
            if mini.teachers[teacher].given:
                if not mini.trained_teachers:
                    taken_s, stored_bytes = make_up_targets(mini, teacher, case)
                    voxels = prod(PreparedCase(layout.prepared(dataset, case.block, case.name), case.id).shape)
                    voxel_bytes = max(voxel_bytes, stored_bytes / voxels)
                continue
            started = time.monotonic()
            cache_targets(mini, teacher, RUN, dataset, case.block, pick_device(device))
            taken_s = min(taken_s, time.monotonic() - started)
            shape = PreparedCase(layout.prepared(dataset, case.block, case.name), case.id).shape
            windows, voxels = len(study_windows(mini).starts(shape)), prod(shape)
            stored = Path(target_place(mini.cache_root, teacher, RUN, dataset, case.block, case.name))
            voxel_bytes = max(voxel_bytes, folder_bytes(stored) / voxels)
        rest_s = max(0.0, taken_s - windows * window_s)
        return {"mvoxel_s": rest_s / voxels * 1e6, "voxel_bytes": voxel_bytes, "gpu_mib": _gpu_mib()}

    in_child("the other teachers, one step each", folder, others)
    return in_child("caching", folder, work)


def _fastest(work: Callable[[], Result]) -> tuple[float, Result]:
    """Return the shortest of several times in seconds after a warm-up, and what the work returns."""
    result, taken_s = work(), inf
    for _ in range(REPEATS):
        started = time.monotonic()
        result = work()
        taken_s = min(taken_s, time.monotonic() - started)
    return taken_s, result


def _raised_mib(found: dict[str, Any], scale: float, look: Probe) -> float:
    """Return the memory of a process whose patch has `scale` times the voxels of the one that was measured."""
    return float(found["memory_mib"]) + max(0.0, float(found["growth_mib"]) - look.fixed_mib) * (scale - 1)


def _processor() -> str:
    """Return the processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _gpu_mib() -> float | None:
    return torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None


def _with_ram(mini: Study, fits_ram: dict[str, bool]) -> Study:
    """Let trainings whose volumes do not stay in memory read every patch from disk."""
    data = mini.model_dump(mode="json")
    for name, fits in fits_ram.items():
        if not fits:
            kind, _, row = name.partition("/")
            data[f"{kind}s"][row]["training"]["ram_cache_gib"] = 0.0
    return type(mini).model_validate(data)


def _channels(study: Study, name: str) -> int:
    kind, _, row = name.partition("/")
    return 1 + len(study.teacher_organs(row) if kind == "teacher" else study.organs)


def _parameters(study: Study) -> dict[str, int]:
    return {name: parameter_count(study.network, _channels(study, name)) for name in trainings(study)}
