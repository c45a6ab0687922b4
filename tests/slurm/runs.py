"""The small study on a cluster: started, watched, disturbed, started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from mskd.training.journal import read_rows
from tests.workflow.project import Project, make_project

from .cluster import Cluster, Job, wait_for

COMMAND = [sys.executable, "-m", "snakemake", "--profile", "slurm", "--configfile", "config/tiny.yaml"]
CHECKPOINT_EVERY = 20


def make_slurm_project(root: Path, steps: int = 6, student_steps: int | None = None) -> Project:
    """Write a small study: two datasets, two methods, one block each; trainings of so many steps."""
    project = make_project(root)
    (root / "slurm").symlink_to("profiles/slurm")

    def smaller(study: dict[str, Any]) -> None:
        study["methods"] = {"individual": {}, "mskd": {"training": {"steps": student_steps or steps}}}
        study["training"] |= {"steps": steps, "checkpoint_every": CHECKPOINT_EVERY, "log_every": 5}
        for dataset in study["datasets"].values():
            dataset["blocks"] = 1

    project.edit_study(smaller)
    return project


def slurm(project: Project, *arguments: str, check: bool = True) -> str:
    """Run the study on the cluster; return what Snakemake said."""
    done = project.run(*COMMAND, *arguments, check=check)
    return done.stdout + done.stderr


class Running:
    """A run of the workflow in the background."""

    def __init__(self, project: Project, *arguments: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(project.root), "PYTHONDONTWRITEBYTECODE": "1"}
        self.log = project.root / "snakemake.log"
        with self.log.open("w") as stream:
            self.process = subprocess.Popen(
                [*COMMAND, *arguments],
                cwd=project.root,
                env=environment,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self) -> None:
        """Kill Snakemake itself, and nothing of what it started."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def finish(self, seconds: float = 600) -> tuple[int, str]:
        """Wait for the end; return the exit status and what was said."""
        code = self.process.wait(seconds)
        return code, self.log.read_text()


def training_under_way(project: Project, cluster: Cluster, rule: str, done: set[str]) -> Job:
    """Wait until a job of a training rule has written a checkpoint; return it."""
    folders = project.results / "models" / ("teachers" if rule == "train_teacher" else "mskd")

    def found() -> list[Job]:
        jobs = [job for job in cluster.jobs("RUNNING") if job.rule == rule and job.id not in done]
        return jobs if any(folders.glob("**/checkpoint.safetensors")) else []

    return _first(found, f"a checkpoint of {rule}")


def running(cluster: Cluster, rule: str, done: set[str]) -> Job:
    """Wait until a job of a rule runs; return it."""
    return _first(lambda: [job for job in cluster.jobs("RUNNING") if job.rule == rule and job.id not in done], rule)


def _first(found: Callable[[], list[Job]], what: str) -> Job:
    jobs: list[Job] = []

    def look() -> bool:
        jobs[:] = found()
        return bool(jobs)

    wait_for(look, what, seconds=600)
    return jobs[0]


def trained_rows(project: Project, method: str = "mskd") -> list[dict[str, float]]:
    """Return the rows of a student's journal that have a time."""
    rows = [row for path in (project.results / "models" / method).glob("*/metrics.jsonl") for row in read_rows(path)]
    return [row for row in rows if "time_s" in row]


def rows_of_the_dead(project: Project, cluster: Cluster, job: Job) -> list[dict[str, float]]:
    """Wait until a training's job is over; return the rows that it left, before another attempt goes on."""
    wait_for(lambda: job.id not in {j.id for j in cluster.jobs("RUNNING", "COMPLETING")}, f"the end of job {job.id}")
    return trained_rows(project)


def lost_s(rows: list[dict[str, float]], resumed: int) -> float:
    """Return the seconds of training that a fault cost: what lay between the checkpoint and the last row before it."""
    return rows[-1]["time_s"] - max((row["time_s"] for row in rows if row["step"] <= resumed), default=0.0)


def failed_s(jobs: list[Job]) -> float:
    """Return how long those jobs ran that were lost as a whole."""
    failed = [job.fields for job in jobs if job.fields["JobState"] != "COMPLETED"]
    return sum(
        (datetime.fromisoformat(f["EndTime"]) - datetime.fromisoformat(f["StartTime"])).total_seconds() for f in failed
    )


def tables(project: Project) -> dict[str, bytes]:
    """Return what must be equal from run to run: the metrics and the tables that hold no times."""
    files = [project.results / "metrics.csv", *sorted((project.results / "tables").glob("comparison.*"))]
    return {path.name: path.read_bytes() for path in files}


def resumed_after(project: Project) -> list[int]:
    """Return the steps after which trainings went on, from their logs."""
    steps = []
    for log in (project.results / "logs").glob("train_*/**/*.log"):
        steps += [int(line.rsplit(" ", 1)[1]) for line in log.read_text().splitlines() if "resuming after step" in line]
    return steps
