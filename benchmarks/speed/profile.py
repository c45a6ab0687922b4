"""docs/training_profile.md: where the time of a training step goes, by torch.profiler."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.speed import training
from benchmarks.speed.machine import machine, versions
from benchmarks.speed.options import Options
from mskd.storage import write_text

ROWS = 20


def write_profile(page: Path, options: Options) -> None:
    """Profile some training steps after as many that warm up, and write the table."""
    from torch.profiler import ProfilerActivity, profile

    with tempfile.TemporaryDirectory(prefix="mskd-speed-") as name:
        folder = Path(name)
        training.set_up(folder, options)
        work = training.SIDES["ours"](folder, options)
        work.run()
        on_gpu = options.device.startswith("cuda")
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
        with profile(activities=activities) as found:
            work.run()
    write_text(page, _page(found.key_averages(), options, on_gpu=on_gpu))


def _page(events: object, options: Options, *, on_gpu: bool) -> str:
    own = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    rows = sorted(events, key=lambda event: -getattr(event, own))  # type: ignore[call-overload]
    total = sum(getattr(event, own) for event in rows)
    count = training.steps(options)
    hardware = ", ".join(f"{k} {v}" for k, v in machine(options.device).items() if k != "load_before")
    lines = [
        "# Profile of a training step\n",
        f"Made by `mskd bench --profile{' --quick' if options.quick else ''} --device {options.device}`: {count} steps "
        f"of {training.BATCH} patches of {options.window}³, features {options.features}, drawing and augmenting the "
        "patches included, after as many that warm up. Own time of each operation, its callees left out; work in NumPy "
        "(reading, drawing) does not show.\n",
        f"- Machine: {hardware}.",
        f"- Versions: {', '.join(f'{k} {v}' for k, v in versions().items())}.",
        f"- Time of all operations: {total / 1e3 / count:.0f} ms per step.\n",
        "| operation | calls per step | ms per step | share |",
        "|---|---|---|---|",
    ]
    for event in rows[:ROWS]:
        spent = getattr(event, own)
        cells = f"{event.count / count:.1f} | {spent / 1e3 / count:.1f} | {100 * spent / total:.1f} %"
        lines.append(f"| `{event.key}` | {cells} |")
    return "\n".join(lines) + "\n"
