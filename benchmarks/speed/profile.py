"""docs/training_profile.md: where the time of a training step goes, by parts of the step and by operations."""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.speed import training
from benchmarks.speed.data import ORGANS
from benchmarks.speed.machine import machine, versions
from benchmarks.speed.options import Options
from mskd.markdown import pipe_table
from mskd.storage import write_text

ROWS = 20
READING, AUGMENTATION = "reading patches: draw the place, cut, normalise", "augmentation: spatial and intensity"
FORWARD, LOSS, BACKWARD = "forward", "loss", "backward"
OPTIMISER = "optimiser: gradient clipping, update, emptying of gradients"
OTHER = "other: collating, loop"
PARTS = (READING, AUGMENTATION, FORWARD, LOSS, BACKWARD, OPTIMISER, OTHER)


class Stopwatch:
    """Time of named pieces of work, each without the pieces inside it.

    Attributes:
        spent_s: Name → seconds.
    """

    def __init__(self, wait: Callable[[], object] = lambda: None) -> None:
        """Start with no time spent.

        Args:
            wait: Returns once the device has done what it was given, so that time counts where it was caused.
        """
        self.spent_s: dict[str, float] = defaultdict(float)
        self._wait = wait
        self._inside: list[float] = []

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function whose time is added to a name's."""

        @wraps(function)
        def measured(*args: Any, **kwargs: Any) -> Any:
            self._wait()
            self._inside.append(0.0)
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self._wait()
                whole_s = time.perf_counter() - started
                self.spent_s[name] += whole_s - self._inside.pop()
                if self._inside:
                    self._inside[-1] += whole_s

        return measured


@contextmanager
def watched(watch: Stopwatch) -> Iterator[None]:
    """Time the functions that a training step is made of while the context lasts."""
    from mskd.methods import base
    from mskd.networks.unet import UNet
    from mskd.training import patches

    functions: list[tuple[object, str, str]] = [
        (patches.PatchDataset, "__getitem__", READING),
        *((patches, name, AUGMENTATION) for name in ("draw_spatial", "source_positions", "source_box")),
        *((patches, name, AUGMENTATION) for name in ("resample", "turn", "change_intensity")),
        (UNet, "run", FORWARD),
        (base, "deep_supervised", LOSS),
        (torch.Tensor, "backward", BACKWARD),
        (torch.nn.utils, "clip_grad_norm_", OPTIMISER),
        *((torch.optim.SGD, name, OPTIMISER) for name in ("step", "zero_grad")),
    ]
    patched = [patch.object(owner, name, watch.timed(part, getattr(owner, name))) for owner, name, part in functions]
    for one in patched:
        one.start()
    try:
        yield
    finally:
        for one in reversed(patched):
            one.stop()


def write_profile(page: Path, options: Options, command: str) -> None:
    """Time the parts of some training steps after as many that warm up, profile as many more, and write both tables."""
    from torch.profiler import ProfilerActivity, profile

    on_gpu = options.device.startswith("cuda")
    with tempfile.TemporaryDirectory(prefix="mskd-speed-") as name:
        folder = Path(name)
        training.set_up(folder, options)
        work = training.SIDES["ours"](folder, options)
        work.run()
        watch = Stopwatch(torch.cuda.synchronize if on_gpu else lambda: None)
        with watched(watch):
            losses = watch.timed(OTHER, work.run)()
        with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as found:
            work.run()
    about = {"command": command, "parameters": work.answer(losses)["parameters"]}
    write_text(page, _page(about, watch.spent_s, found.key_averages(), options))


def _page(about: dict[str, Any], spent_s: dict[str, float], events: Any, options: Options) -> str:
    count, settings = training.steps(options), training.training_settings(options)
    hardware = ", ".join(f"{k} {v}" for k, v in machine(options.device).items() if k != "load_before")
    scan = "the synthetic scan of docs/speed.md" if options.scan is None else "a scan that was given"
    step_ms = 1e3 * sum(spent_s.values()) / count
    lines = [
        "# Profile of a training step\n",
        f"Made by `{about['command']}`: a network learns {len(ORGANS)} organs from {scan} "
        "with all labels, in one process that draws its own patches. (Real trainings draw them in "
        "`training.workers` processes beside it.)\n",
        *([] if not options.quick else ["**From `--quick`: it shows that the harness works, nothing of speed.**\n"]),
        f"- Step: {training.BATCH} patches of {options.window}³ voxels, default augmentation, {settings.loss} loss, "
        f"{settings.optimiser}, gradients clipped.",
        f"- Network: features {options.features}, {about['parameters']:,} parameters, device {options.device}.",
        f"- Steps: {count} to warm up, {count} for the parts, {count} for the operations.",
        f"- Machine: {hardware}.",
        f"- Versions: {', '.join(f'{k} {v}' for k, v in versions().items())}.\n",
        f"## Parts of a step: {step_ms:.0f} ms\n",
        "Wall-clock time by a stopwatch around each part, without the parts inside it"
        f"{', the device waited for' if options.device.startswith('cuda') else ''}; no profiler runs.\n",
        _parts(spent_s, count),
    ]
    return "\n".join([*lines, _operations(events, options)]) + "\n"


def _parts(spent_s: dict[str, float], count: int) -> str:
    total = sum(spent_s.values())
    cells = [[part, f"{1e3 * spent_s[part] / count:.1f}", f"{100 * spent_s[part] / total:.1f} %"] for part in PARTS]
    return pipe_table(["part", "ms per step", "share"], cells) + "\n"


def _operations(events: Any, options: Options) -> str:
    on_gpu, count = options.device.startswith("cuda"), training.steps(options)
    own = "self_device_time_total" if on_gpu else "self_cpu_time_total"  # in µs
    rows = sorted(events, key=lambda event: -getattr(event, own))
    total = sum(getattr(event, own) for event in rows)
    cells = []
    for event in rows[:ROWS]:
        spent = getattr(event, own)
        cells.append(
            [event.key, f"{event.count / count:.1f}", f"{spent / 1e3 / count:.1f}", f"{100 * spent / total:.1f} %"]
        )
    lines = [
        f"## Operations: the {len(cells)} that take most\n",
        f"Own time on the {'GPU' if on_gpu else 'CPU'} by torch.profiler, what an operation calls left out, of "
        f"{total / 1e3 / count:.0f} ms per step in all. Work in NumPy does not show here.\n",
        pipe_table(["operation", "calls per step", "ms per step", "share"], cells),
    ]
    return "\n".join(lines)
