"""The plan of a study: what every stage costs, and all of them together."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mskd.config.study import Study
from mskd.dag import Graph
from mskd.plan.costs import Cost, Costs
from mskd.plan.jobs import STAGES, study_jobs
from mskd.plan.schedule import Schedule, schedule
from mskd.plan.units import Units
from mskd.plan.volumes import scan_sizes


@dataclass(frozen=True)
class StagePlan:
    """What the jobs of one stage cost.

    Attributes:
        stage: Its rule.
        jobs: Number of jobs.
        total_s: Sum of their times.
        longest_s: Time of the longest one.
        disk_bytes: Bytes that they leave on disk together.
        memory_mib: Memory of the one that needs most.
        gpu_memory_mib: The same on a GPU; 0 where none is used.
    """

    stage: str
    jobs: int
    total_s: float
    longest_s: float
    disk_bytes: float
    memory_mib: float
    gpu_memory_mib: float


@dataclass(frozen=True)
class Plan:
    """What a study costs from an empty results folder.

    Attributes:
        study: Its name.
        stages: One entry per stage that has jobs.
        schedule: All jobs together; names are `stage part part …`.
        units: What it was computed from.
        results: Folder of the results.
        free_bytes: Free disk there.
        foreign: Teachers with a network that exists already, whose time is not known.
    """

    study: str
    stages: tuple[StagePlan, ...]
    schedule: Schedule[str]
    units: Units
    results: Path
    free_bytes: int
    foreign: tuple[str, ...] = ()

    @property
    def disk_bytes(self) -> float:
        """Bytes that all stages leave on disk."""
        return sum(stage.disk_bytes for stage in self.stages)

    @property
    def jobs(self) -> int:
        """Number of all jobs."""
        return sum(stage.jobs for stage in self.stages)


def plan_study(study: Study, units: Units, *, parallel: int = 1) -> Plan:
    """Plan a study; the same answer for the same units.

    Args:
        study: The study.
        units: Unit costs.
        parallel: Jobs at a time.

    Raises:
        DataError: If a dataset's folder or a header cannot be read.
    """
    graph = Graph(study)
    jobs = study_jobs(graph)
    costs = Costs(graph, scan_sizes(graph), units)
    by_output = {job.output: job.name for job in jobs}
    per_job = {job.name: costs.of(job) for job in jobs}
    waits_for = {job.name: [by_output[path] for path in job.inputs] for job in jobs}
    stages = [_stage(stage, [per_job[job.name] for job in jobs if job.stage == stage]) for stage in STAGES]
    return Plan(
        study=study.study,
        stages=tuple(stage for stage in stages if stage.jobs),
        schedule=schedule({name: cost.time_s for name, cost in per_job.items()}, waits_for, parallel),
        units=units,
        results=study.root,
        free_bytes=free_disk_bytes(study.root),
        foreign=tuple(name for name, section in study.teachers.items() if section.given and section.kind != "labels"),
    )


def free_disk_bytes(folder: Path) -> int:
    """Return the free disk on the file system that a folder lies on, or will lie on."""
    present = folder.absolute()
    while not present.exists():
        present = present.parent
    return shutil.disk_usage(present).free


def _stage(stage: str, costs: Sequence[Cost]) -> StagePlan:
    return StagePlan(
        stage=stage,
        jobs=len(costs),
        total_s=sum(cost.time_s for cost in costs),
        longest_s=max((cost.time_s for cost in costs), default=0.0),
        disk_bytes=sum(cost.disk_bytes for cost in costs),
        memory_mib=max((cost.memory_mib for cost in costs), default=0.0),
        gpu_memory_mib=max((cost.gpu_memory_mib for cost in costs), default=0.0),
    )
