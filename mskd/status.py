"""Where a study stands: jobs done and stale, trainings under way with the time left, and what failed.

Done is what lies there; whether that is up to date, Snakemake is asked (`--summary`, which starts no job and takes no
lock), so that there is one answer to it. Imports nothing heavy.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mskd.config.study import Study
from mskd.console import log
from mskd.dag import Graph
from mskd.plan.jobs import STAGES, Job, study_jobs
from mskd.plan.quantities import duration

METRICS = "metrics.jsonl"  # as mskd.training.journal, whose import would take long
QUIET_S = 120.0  # a training whose journal is older than this, and than some of its rows, has probably stopped
STOPPED = ": stopped after step "  # what a training says that was told to stop, and left a checkpoint
ROWS = 6  # of a journal, from which its present speed is taken
LOG_TAIL_BYTES = 8192
ERROR_LINES = 3
STALE_SHOWN = 10
UP_TO_DATE = "no update"  # Snakemake's word in the column `plan`
FOLLOWS = {"ok", "missing"}  # of an output that is itself as it should be
WORKFLOWS = (Path("workflow/Snakefile"), Path(__file__).parents[1] / "workflow/Snakefile")


@dataclass(frozen=True)
class StageStatus:
    """Jobs of a stage.

    Attributes:
        stage: Its rule.
        done: Jobs whose output is there.
        expected: All its jobs.
        stale: Those of the done ones that Snakemake would run again; None if it was not asked.
    """

    stage: str
    done: int
    expected: int
    stale: int | None = None


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
class Stale:
    """A job whose output is there and no longer belongs to study, code or data.

    Attributes:
        name: The job.
        why: What Snakemake says of it; `follows` if only what comes before it is stale.
    """

    name: str
    why: str


@dataclass(frozen=True)
class StudyStatus:
    """Where a study stands.

    Attributes:
        study: Its name.
        stages: One entry per stage that has jobs.
        trainings: Trainings that have begun and are not done.
        failures: Jobs that failed.
        stale: Jobs that would run again although their output is there; None if Snakemake was not asked.
    """

    study: str
    stages: tuple[StageStatus, ...]
    trainings: tuple[TrainingStatus, ...]
    failures: tuple[Failure, ...]
    stale: tuple[Stale, ...] | None = None


def study_status(study: Study, outdated: Mapping[Path, str] | None = None) -> StudyStatus:
    """Return where a study stands.

    Args:
        study: The study.
        outdated: What `outdated_outputs` found; None if Snakemake was not asked.

    Raises:
        DataError: If the cases of a dataset cannot be listed.
    """
    graph = Graph(study)
    jobs = study_jobs(graph)
    open_jobs = [job for job in jobs if not job.output.is_file()]
    unfinished = {job.name for job in open_jobs}
    stale = None if outdated is None else _stale(jobs, unfinished, outdated)
    stages = []
    for stage in STAGES:
        names = [job.name for job in jobs if job.stage == stage]
        if names:
            old = None if stale is None else sum(job.stage == stage and job.name in stale for job in jobs)
            stages.append(StageStatus(stage, sum(name not in unfinished for name in names), len(names), old))
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
    listed = None if stale is None else tuple(Stale(name, why) for name, why in stale.items())
    return StudyStatus(study.study, tuple(stages), tuple(trainings), tuple(failures), listed)


def outdated_outputs(study_file: Path) -> dict[Path, str] | None:
    """Ask Snakemake which outputs it would make again; return path → reason, or None where it cannot be asked."""
    workflow = next((place for place in WORKFLOWS if place.is_file()), None)
    if workflow is None:
        log("stale jobs are not counted: no workflow/Snakefile here; run this in the project's folder")
        return None
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(workflow), "--configfile", str(study_file)]
    found = subprocess.run(
        [*command, "--cores", "1", "--summary"], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if found.returncode:
        last = (found.stderr.strip() or found.stdout.strip()).splitlines()[-1:]
        log(f"stale jobs are not counted: snakemake --summary ended with {found.returncode}: {' '.join(last)}")
        return None
    rows = [line.split("\t") for line in found.stdout.splitlines()]
    head = next((row for row in rows if row[0] == "output_file"), [])
    if not {"status", "plan"} <= set(head):
        log("stale jobs are not counted: snakemake --summary has another form in this version")
        return None
    status, plan = head.index("status"), head.index("plan")
    whole = [row for row in rows if len(row) == len(head) and row is not head]
    return {Path(row[0]).absolute(): row[status] for row in whole if row[plan] != UP_TO_DATE}


def show_status(status: StudyStatus) -> None:
    """Print where a study stands to standard output."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    table = Table(title=f"Study {status.study}")
    table.add_column("stage")
    table.add_column("done", justify="right")
    table.add_column("jobs", justify="right")
    if status.stale is not None:
        table.add_column("stale", justify="right")
    for stage in status.stages:
        style = "green" if stage.done == stage.expected and not stage.stale else None
        old = [] if stage.stale is None else [str(stage.stale)]
        table.add_row(stage.stage, str(stage.done), str(stage.expected), *old, style=style)
    console.print(table)
    for training in status.trainings:
        console.print(_training_line(training), markup=False)
    for failure in status.failures:
        console.print(f"failed: {failure.name}  ({failure.log})", markup=False, style="bold red")
        for line in failure.lines:
            console.print(f"    {line}", markup=False)
    for stale in (status.stale or ())[:STALE_SHOWN]:
        console.print(f"stale: {stale.name}  ({stale.why})", markup=False, style="yellow")
    if status.stale and len(status.stale) > STALE_SHOWN:
        console.print(f"stale: {len(status.stale) - STALE_SHOWN} more (--json lists all)", markup=False, style="yellow")
    done, expected = sum(s.done for s in status.stages), sum(s.expected for s in status.stages)
    if status.stale is None:
        known = "Whether they are up to date was not asked."
    elif status.stale:
        known = f"{len(status.stale)} of them are stale: the next run makes them again."
    else:
        known = "None of them is stale."
    console.print(f"{done} of {expected} jobs done. {known}", markup=False)


def status_json(status: StudyStatus) -> str:
    """Return where a study stands as JSON; times in seconds."""
    return json.dumps(asdict(status), indent=1)


def _stale(jobs: Sequence[Job], unfinished: set[str], outdated: Mapping[Path, str]) -> dict[str, str]:
    """Return the done jobs that would run again, and why."""
    found = {}
    for job in jobs:
        why = outdated.get(job.output.absolute())
        if why is not None and job.name not in unfinished:
            found[job.name] = "follows" if why in FOLLOWS else why
    return found


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
