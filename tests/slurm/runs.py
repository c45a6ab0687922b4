"""The small study on a cluster: started, watched, disturbed, started again."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from mskd.training.journal import read_rows
from tests.workflow.project import REPOSITORY, Project, make_project

from .cluster import Cluster, Job, processes_of, wait_for

COMMAND = [sys.executable, "-m", "snakemake", "--profile", "slurm", "--configfile", "config/tiny.yaml"]
CHECKPOINT_EVERY = 20
NEVER = 1_000_000  # steps


def make_slurm_project(
    root: Path,
    steps: int = 6,
    student_steps: int | None = None,
    checkpoint_every: int = CHECKPOINT_EVERY,
    workers: int = 0,
) -> Project:
    """Write a small study: two datasets, two methods, one block each; trainings of so many steps."""
    project = make_project(root)
    (root / "slurm").symlink_to("profiles/slurm")

    def smaller(study: dict[str, Any]) -> None:
        study["methods"] = {"individual": {}, "mskd": {"training": {"steps": student_steps or steps}}}
        study["training"] |= {"steps": steps, "checkpoint_every": checkpoint_every, "log_every": 5}
        study["training"] |= {
            "workers": workers,
            "validate_every": NEVER,
        }  # there is a checkpoint before each validation
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

    def end(self) -> None:
        """Kill Snakemake, and what of it runs outside the cluster, where they still run."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def finish(self, seconds: float = 600) -> tuple[int, str]:
        """Wait for the end; return the exit status and what was said."""
        code = self.process.wait(seconds)
        return code, self.log.read_text()


def training_under_way(project: Project, cluster: Cluster, done: set[str], checkpoint: bool = True) -> Job:
    """Wait until a student's training has a checkpoint or, where it shall have none, some rows; return its job."""
    folder = project.results / "models" / "mskd"

    def begun() -> bool:
        return any(folder.glob("*/checkpoint.safetensors")) if checkpoint else len(trained_rows(project)) > 1

    job = _first(lambda: trainings(cluster, done, "RUNNING") if begun() else [], "a training under way")
    assert checkpoint or not any(folder.glob("*/checkpoint.safetensors"))
    return job


def trainings(cluster: Cluster, done: set[str], *states: str) -> list[Job]:
    """Return the jobs that trained this test's student, oldest first; only those in some states where any are named."""
    name = "rule_train_student_wildcards_mskd"
    return [j for j in cluster.jobs(*states) if j.fields.get("Comment", "").startswith(name) and j.id not in done]


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


def saved_by_the_dead(project: Project, job: Job) -> int:
    """Wait until a training's job is over; return the step after which it stopped by itself, its checkpoint written."""
    wait_for(lambda: not processes_of(job.id), f"the end of job {job.id}")
    (step,) = _steps(project, "stopped after step")
    assert step >= trained_rows(project)[-1]["step"]
    assert any((project.results / "models" / "mskd").glob("*/checkpoint.safetensors"))
    return step


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
    return _steps(project, "resuming after step")


def _steps(project: Project, said: str) -> list[int]:
    logs = (project.results / "logs").glob("train_*/**/*.log")
    return [int(step) for log in logs for step in re.findall(rf"{said} (\d+)", log.read_text())]


def still(project: Project, before: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """Return what of the artefacts of an earlier time stands now: the same, where none was made again."""
    return {name: mark for name, mark in project.artefacts().items() if name in before}


def documented(row: str) -> str:
    """Return the command that docs/slurm.md gives for a fault, with this study's name."""
    lines = (REPOSITORY / "docs/slurm.md").read_text(encoding="utf-8").splitlines()
    (line,) = (line for line in lines if line.startswith(f"| {row} |"))
    return line.split("`")[1].replace("config/my_study.yaml", "config/tiny.yaml")
