"""Where a study stands: jobs done, trainings under way with the time left, and what failed. Imports nothing heavy.

Only looks at files that are there. Whether what is there is up to date, a dry run of Snakemake says.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mskd.config.study import Study
from mskd.dag import Graph
from mskd.plan.jobs import STAGES, Job, study_jobs
from mskd.plan.quantities import duration

METRICS = "metrics.jsonl"  # as mskd.training.journal, whose import would take long
QUIET_S = 120.0  # a training whose journal is older than this, and than some of its rows, has probably stopped
STOPPED = ": stopped after step "  # what a training says that was told to stop, and left a checkpoint
ROWS = 6  # of a journal, from which its present speed is taken
LOG_TAIL_BYTES = 8192
ERROR_LINES = 3


@dataclass(frozen=True)
class StageStatus:
    """Jobs of a stage.

    Attributes:
        stage: Its rule.
        done: Jobs whose output is there.
        expected: All its jobs.
    """

    stage: str
    done: int
    expected: int


@dataclass(frozen=True)
class TrainingStatus:
    """A training that has begun and whose job is not done.

    Attributes:
        name: `train_teacher liver fold0-seed0`.
        step: Last step in its journal.
        steps: Steps in all.
        left_s: Seconds left at the speed of its last rows, without validations to come; None if unknown.
        quiet_s: Seconds since its journal was last written.
        running: Whether it seems to run still.
    """

    name: str
    step: int
    steps: int
    left_s: float | None
    quiet_s: float
    running: bool


@dataclass(frozen=True)
class Failure:
    """A job that is not done and whose log ends with an error.

    Attributes:
        name: The job.
        log: Its log.
        lines: The end of what it printed.
    """

    name: str
    log: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class StudyStatus:
    """Where a study stands.

    Attributes:
        study: Its name.
        stages: One entry per stage that has jobs.
        trainings: Trainings that have begun and are not done.
        failures: Jobs that failed.
    """

    study: str
    stages: tuple[StageStatus, ...]
    trainings: tuple[TrainingStatus, ...]
    failures: tuple[Failure, ...]


def study_status(study: Study) -> StudyStatus:
    """Return where a study stands.

    Raises:
        DataError: If the cases of a dataset cannot be listed.
    """
    graph = Graph(study)
    jobs = study_jobs(graph)
    open_jobs = [job for job in jobs if not job.output.is_file()]
    unfinished = {job.name for job in open_jobs}
    stages = []
    for stage in STAGES:
        names = [job.name for job in jobs if job.stage == stage]
        if names:
            stages.append(StageStatus(stage, sum(name not in unfinished for name in names), len(names)))
    trainings, failures = [], []
    for job in open_jobs:
        failure = _failure(job)
        stopped = failure is not None and STOPPED in failure.lines[0]
        if failure and not stopped:
            failures.append(failure)
        if job.stage in ("train_teacher", "train_student"):
            training = _training(graph, job)
            if training:
                trainings.append(replace(training, running=training.running and failure is None))
    return StudyStatus(study.study, tuple(stages), tuple(trainings), tuple(failures))


def show_status(status: StudyStatus) -> None:
    """Print where a study stands to standard output."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    table = Table(title=f"Study {status.study}")
    table.add_column("stage")
    table.add_column("done", justify="right")
    table.add_column("jobs", justify="right")
    for stage in status.stages:
        style = "green" if stage.done == stage.expected else None
        table.add_row(stage.stage, str(stage.done), str(stage.expected), style=style)
    console.print(table)
    for training in status.trainings:
        console.print(_training_line(training), markup=False)
    for failure in status.failures:
        console.print(f"failed: {failure.name}  ({failure.log})", markup=False, style="bold red")
        for line in failure.lines:
            console.print(f"    {line}", markup=False)
    done, expected = sum(s.done for s in status.stages), sum(s.expected for s in status.stages)
    console.print(
        f"{done} of {expected} jobs done. Counted are files that are there; whether they are up to date, "
        "`snakemake -n` says.",
        markup=False,
    )


def status_json(status: StudyStatus) -> str:
    """Return where a study stands as JSON; times in seconds."""
    return json.dumps(asdict(status), indent=1)


def _training_line(training: TrainingStatus) -> str:
    share = f"{training.name}: step {training.step} of {training.steps} ({training.step / training.steps:.0%})"
    if not training.running:
        return (
            f"{share}, stopped (last row {duration(training.quiet_s)} ago); run again: it goes on from its checkpoint"
        )
    return f"{share}, {duration(training.left_s)} left" if training.left_s is not None else share


def _training(graph: Graph, job: Job) -> TrainingStatus | None:
    name, run = job.parts
    if job.stage == "train_teacher":
        folder, section = graph.layout.teacher(name, run), graph.study.teacher_training(name)
    else:
        folder, section = graph.layout.student(name, run), graph.study.method_training(name)
    journal = folder / METRICS
    rows = _timed_rows(journal)
    if not rows or rows[-1][0] >= section.steps:
        return None
    quiet_s = max(0.0, time.time() - journal.stat().st_mtime)
    step_s = _step_s(rows)
    usual_s = 3 * section.log_every * step_s if step_s else 0.0
    left_s = step_s * (section.steps - rows[-1][0]) if step_s else None
    return TrainingStatus(job.name, rows[-1][0], section.steps, left_s, quiet_s, quiet_s <= max(QUIET_S, usual_s))


def _timed_rows(journal: Path) -> list[tuple[int, float]]:
    """Return step and time of the last training rows; a torn or odd line is left out."""
    try:
        lines = journal.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    rows: list[tuple[int, float]] = []
    for line in reversed(lines):
        try:
            row = json.loads(line)
            rows.append((int(row["step"]), float(row["time_s"])))
        except (ValueError, KeyError, TypeError):
            continue
        if len(rows) == ROWS:
            break
    return rows[::-1]


def _step_s(rows: Sequence[tuple[int, float]]) -> float | None:
    """Return the seconds per step over the last rows; a resumed training counts its time from 0 again."""
    first = len(rows) - 1
    while first > 0 and rows[first - 1][1] < rows[first][1]:
        first -= 1
    steps, taken_s = rows[-1][0] - rows[first][0], rows[-1][1] - rows[first][1]
    return taken_s / steps if steps > 0 else None


def _failure(job: Job) -> Failure | None:
    """Return the end of a job's log if it tells of an error; a log without one belongs to a job that runs or waits."""
    try:
        with job.log.open("rb") as stream:
            stream.seek(0, 2)
            stream.seek(max(0, stream.tell() - LOG_TAIL_BYTES))
            text = stream.read().decode("utf-8", errors="replace")
    except OSError:
        return None
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    starts = [i for i, line in enumerate(lines) if line.startswith("error:")]
    if starts:
        return Failure(job.name, str(job.log), tuple(lines[starts[-1] :][:ERROR_LINES]))
    if any(line.startswith("Traceback") for line in lines) or (lines and lines[-1] in ("Killed", "Terminated")):
        return Failure(job.name, str(job.log), tuple(lines[-ERROR_LINES:]))
    return None
