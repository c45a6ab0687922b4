"""Prints a plan: a table with the notes that it needs to be read right, or JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from mskd.plan.quantities import duration, size
from mskd.plan.study import Plan

WIDTH_PIPED = 110
TIGHT = 0.9  # a plan is an estimate: less than a tenth of the disk left over is worth a warning


def show_plan(plan: Plan) -> None:
    """Print a plan to standard output."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH_PIPED)
    console.print(_table(plan))
    for line in [*_totals(plan), "", *notes(plan)]:
        console.print(line, markup=False)
    if warning := disk_warning(plan):
        console.print(warning, markup=False, style="bold red")


def plan_json(plan: Plan) -> str:
    """Return a plan as JSON; times in seconds, disk in bytes, memory in MiB."""
    chain = plan.schedule
    data: dict[str, Any] = {
        "study": plan.study,
        "stages": [asdict(stage) for stage in plan.stages],
        "jobs": plan.jobs,
        "parallel": chain.parallel,
        "total_s": chain.total_s,
        "work_s": chain.work_s,
        "critical_path_s": chain.critical_path_s,
        "critical_path": list(chain.critical_path),
        "bound": chain.bound,
        "disk_bytes": plan.disk_bytes,
        "free_bytes": plan.free_bytes,
        "fits_disk": plan.disk_bytes <= plan.free_bytes,
        "units": plan.units.model_dump(mode="json"),
        "notes": notes(plan),
    }
    return json.dumps(data, indent=1)


def notes(plan: Plan) -> list[str]:
    """Return the sentences that say what was measured and what is estimated."""
    units = plan.units
    memory = "." if units.gpu_memory == "measured" else " from the sizes of activations, without the CUDA context."
    lines = [
        f"Times: measured on {units.machine} ({units.device}) with the study's networks, patches and threads, one job "
        "at a time; jobs that share a processor take longer. tabulate is estimated.",
        f"Memory: measured per process; what grows with the scans is estimated. GPU memory: {units.gpu_memory}{memory}",
        "Disk: estimated from what a synthetic scan, and the targets of a teacher of few steps, take; tables and "
        "report (some MB) are left out.",
        "Sizes of scans: from the configuration (synthetic) or NIfTI headers (up to 20 per dataset); the body's share "
        "of the field of view as in a synthetic scan.",
    ]
    if plan.foreign:
        lines.append(
            f"Not known: how long {', '.join(plan.foreign)} take to answer, and their memory. They exist already and "
            "were not asked; cache_targets counts them as networks like the study's own, with features on disk."
        )
    if units.scaled > 1:
        lines.append(
            "The patch or window takes too long to be timed here: smaller ones were, and times were raised up to "
            f"{units.scaled:.0f} times, by voxels."
        )
    return lines


def disk_warning(plan: Plan) -> str:
    """Return a warning if the results do not fit on the disk, or hardly; else ""."""
    if plan.disk_bytes <= TIGHT * plan.free_bytes:
        return ""
    return (
        f"WARNING: {size(plan.disk_bytes)} needed, {size(plan.free_bytes)} free at {plan.results}\n"
        "  way out: another disk (`results: /folder` in the study file), fewer cache.taps, or cache.dtype float16"
    )


def _table(plan: Plan) -> Table:
    table = Table(title=f"Plan of study {plan.study}, from an empty results folder")
    table.add_column("stage")
    for column in ("jobs", "time, sum", "longest job", "disk", "memory per job", "GPU memory"):
        table.add_column(column, justify="right")
    for stage in plan.stages:
        table.add_row(
            stage.stage,
            str(stage.jobs),
            duration(stage.total_s),
            duration(stage.longest_s),
            size(stage.disk_bytes) if stage.disk_bytes else "-",
            size(stage.memory_mib * 2**20),
            size(stage.gpu_memory_mib * 2**20) if stage.gpu_memory_mib else "-",
        )
    table.add_section()
    table.add_row("all", str(plan.jobs), duration(plan.schedule.work_s), "", size(plan.disk_bytes), "", "")
    return table


def _totals(plan: Plan) -> list[str]:
    chain, at_once = plan.schedule, plan.schedule.parallel
    stages = " → ".join(dict.fromkeys(name.split()[0] for name in chain.critical_path))
    which = "the jobs' sum" if chain.bound == "work" else "the longest chain of jobs"
    return [
        f"With {at_once} job{'s' if at_once > 1 else ''} at a time: about {duration(chain.total_s)}, bound by {which}.",
        f"  longest chain {duration(chain.critical_path_s)} ({stages}); "
        f"sum / {at_once} = {duration(chain.work_s / at_once)}",
        f"Disk: {size(plan.disk_bytes)} needed, {size(plan.free_bytes)} free at {plan.results}.",
    ]
