"""Speed of the target cache, in alternating pairs: writing and inference, reading and memmap, steps with and without.

Needs a study whose teachers and cache are done (`make demo`):

    python benchmarks/cache_speed.py --study config/demo.yaml
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mskd.cache.encoding import encode_targets
from mskd.cache.settings import cache_settings
from mskd.cache.store import LOGITS, write_store
from mskd.cases import Case
from mskd.config.loading import load_study
from mskd.config.study import Study
from mskd.device import set_up
from mskd.layout import Layout
from mskd.margins import margins
from mskd.methods.mskd import build as build_mskd
from mskd.methods.naive_union import build as build_plain
from mskd.models import load_model
from mskd.prepared import PreparedCase
from mskd.provenance import made_by
from mskd.stages.fit_projection import read_projections
from mskd.stages.inputs import cases_of, training_datasets
from mskd.stages.train_student import _context
from mskd.stages.training_inputs import patches, training_cases
from mskd.storage import write_text
from mskd.teachers.registry import load_teacher
from mskd.training.cases import MemoryBudget, TrainingCase
from mskd.training.optimisation import build_optimiser
from mskd.training.patches import Batch, PatchNeeds, collate

RUN = "fold0-seed0"
CPU = torch.device("cpu")


def main() -> None:
    """Measure and write `benchmarks/results/cache_speed.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, default=Path("config/demo.yaml"))
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    study = load_study(options.study)
    set_up(CPU, study.training.threads)
    cases = cases_of(study, training_datasets(study), RUN, ["train"])
    found = {
        "machine": f"{platform.processor() or platform.machine()}, {study.training.threads} thread(s)",
        "made_by": made_by(),
        "study": study.study,
        "write": writing(study, cases[: options.rounds]),
        "read": reading(study, cases, options.rounds * 4),
        "step": steps(study, cases, options.rounds),
    }
    text = json.dumps(found, indent=1)
    write_text(Path("benchmarks/results/cache_speed.json"), text + "\n")
    print(text)


def timed(action: Callable[..., Any], *arguments: Any) -> float:
    """Return the seconds of one call."""
    start = time.perf_counter()
    action(*arguments)
    return time.perf_counter() - start


def ratio(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """Return the median of paired ratios with its quartiles, and both medians."""
    pairs = np.asarray(ours) / np.asarray(theirs)
    low, middle, high = np.percentile(pairs, [25, 50, 75])
    return {
        "ratio": float(middle),
        "ratio_q1": float(low),
        "ratio_q3": float(high),
        "ours_s": median(ours),
        "theirs_s": median(theirs),
        "pairs": len(ours),
    }


def writing(study: Study, cases: list[Case]) -> dict[str, Any]:
    """Encoding and writing beside the teacher's pure inference, case by case."""
    settings, layout = cache_settings(study.cache), Layout(study.root)
    teacher_name = next(iter(study.teachers))
    teacher = load_teacher(study, teacher_name, RUN, CPU)
    projections = read_projections(layout.projection(teacher_name, RUN)) if settings.feature_channels else {}
    infer_s, write_s, load_s, voxels = [], [], [], 0
    with tempfile.TemporaryDirectory() as folder:
        for case in cases:
            source = PreparedCase(layout.prepared(case.dataset, case.block, case.name), case.id)
            load_s.append(timed(lambda s=source: (s.read("image"), s.read("body"))))
            start = time.perf_counter()
            said = teacher.targets(source, case)
            middle = time.perf_counter()
            arrays = encode_targets(
                said,
                settings,
                truth=None,
                body=source.read("body").astype(bool),
                spacing_mm=study.preprocessing.spacing_mm,
                projections=projections,
                seed=case.id,
            )
            write_store(
                Path(folder) / f"{case.name}.zarr",
                arrays,
                key="-",
                level=settings.level,
                affine=source.geometry.affine,
                attributes={},
            )
            end = time.perf_counter()
            infer_s.append(middle - start)
            write_s.append(end - middle)
            voxels += int(np.prod(source.shape))
    return {
        "encode_and_write_over_inference": ratio(write_s, infer_s),
        "load_over_inference": ratio(load_s, infer_s),
        "voxels_per_s": voxels / (sum(infer_s) + sum(write_s)),
    }


def reading(study: Study, cases: list[Case], rounds: int) -> dict[str, Any]:
    """A random patch with all its targets from a warm cache, beside the same slices of uncompressed memmaps."""
    targets = dict.fromkeys(study.teachers, RUN)
    warm, cold = (training_cases(study, cases[:4], study.training, targets) for _ in range(2))
    for case in cold:
        case.budget = MemoryBudget(0)
    size = study.training.patch_size
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        maps = {
            case.case: {
                (teacher, name): memmap(
                    Path(folder) / f"{case.case.replace('/', '_')}_{teacher}_{name}", store.read(name)
                )
                for teacher, store in case.stores.items()
                for name in (LOGITS, *store.strides)
            }
            for case in warm
        }
        times: dict[str, list[float]] = {"warm": [], "cold": [], "memmap": []}
        for number in range(rounds):
            index = number % len(warm)
            shape = warm[index].prepared.shape
            place = [int(rng.integers(0, max(1, n - p + 1))) // 8 * 8 for n, p in zip(shape, size, strict=True)]
            for name, case in (("warm", warm[index]), ("cold", cold[index])):
                times[name].append(timed(read_targets, case, place, size))
            times["memmap"].append(timed(read_maps, maps[warm[index].case], warm[index], place, size))
    skip = len(warm)  # the first visit of each case fills its memory
    return {
        "memory_over_memmap": ratio(times["warm"][skip:], times["memmap"][skip:]),
        "store_over_memmap": ratio(times["cold"][skip:], times["memmap"][skip:]),
    }


def memmap(path: Path, values: Any) -> Any:
    """Write float32 values uncompressed and open them as memmap."""
    written = np.memmap(path, np.float32, "w+", shape=values.shape)
    written[:] = values
    written.flush()
    return np.memmap(path, np.float32, "r", shape=values.shape)


def read_targets(case: TrainingCase, place: list[int], size: tuple[int, int, int]) -> None:
    """Read a patch of all targets as training does."""
    for teacher, store in case.stores.items():
        case.target_patch(teacher, LOGITS, place, size)
        for tap, stride in store.strides.items():
            where = [p // s for p, s in zip(place, stride, strict=True)]
            small = [n // s for n, s in zip(size, stride, strict=True)]
            case.target_patch(teacher, tap, where, small)


def read_maps(maps: dict[Any, Any], case: TrainingCase, place: list[int], size: tuple[int, int, int]) -> None:
    """Read the same slices of memmaps."""
    for (teacher, name), values in maps.items():
        stride = (1, 1, 1) if name == LOGITS else case.stores[teacher].strides[name]
        box = tuple(slice(p // s, (p + n) // s) for p, n, s in zip(place, size, stride, strict=True))
        np.array(values[(slice(None), *box)])


def steps(study: Study, cases: list[Case], rounds: int) -> dict[str, Any]:
    """A student's step from the cache, beside one without distillation, and beside one with online teachers."""
    training = study.training
    targets = dict.fromkeys(study.teachers, RUN)
    listed = training_cases(study, cases, training, targets)
    torch.manual_seed(0)
    plain = build_plain(_context(study, "mskd", {}))
    cached = build_mskd(_context(study, "mskd", listed[0].stores))
    models = {name: load_model(Layout(study.root).teacher(name, RUN)).network for name in study.teachers}

    def online(batch: Batch, step: int) -> dict[str, Tensor]:
        parts, features = [], {}
        with torch.inference_mode():
            for name, network in models.items():
                scores, tapped = network.run(batch.image, study.cache.taps)  # type: ignore[operator]
                parts.append(margins(scores[0]))
                for tap, value in tapped.items():
                    features[name, tap] = value[:, : batch_channels(cached, name, tap)]
        batch.margins = torch.cat(parts, 1).clone()
        batch.features = {key: value.clone() for key, value in features.items()}
        terms: dict[str, Tensor] = cached.loss(batch, step)
        return terms

    def batch_channels(built: Any, name: str, tap: str) -> int:
        return int(listed[0].stores[name].arrays[tap].shape[0])

    kinds = {
        "plain": (plain, plain.loss, plain.needs),
        "cached": (cached, cached.loss, cached.needs),
        "online": (cached, online, PatchNeeds(align=cached.needs.align)),
    }
    samplers = {name: patches(study, listed, training, seed=1, needs=needs) for name, (_, _, needs) in kinds.items()}
    optimisers = {
        name: build_optimiser([*built.network.parameters(), *built.auxiliary.parameters()], training)
        for name, (built, _, _) in kinds.items()
    }
    for sampler in samplers.values():  # fill the memory of every case first
        for index in range(60):
            sampler[index]

    def step(name: str, number: int) -> None:
        _, loss, _ = kinds[name]
        first = 60 + number * training.batch_size
        batch = collate([samplers[name][i] for i in range(first, first + training.batch_size)])
        optimisers[name].zero_grad(set_to_none=True)
        torch.stack(list(loss(batch, number).values())).sum().backward()  # type: ignore[no-untyped-call]
        optimisers[name].step()

    times: dict[str, list[float]] = {name: [] for name in kinds}
    for number in range(rounds + 2):
        for name in kinds:
            times[name].append(timed(step, name, number))
    kept = {name: values[2:] for name, values in times.items()}
    return {
        "cached_over_plain": ratio(kept["cached"], kept["plain"]),
        "cached_over_online": ratio(kept["cached"], kept["online"]),
    }


if __name__ == "__main__":
    main()
