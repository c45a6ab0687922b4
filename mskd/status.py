"""Where a study stands: jobs done, running with the time left, failed, killed, and stale.

Done is what lies there; whether that is up to date, Snakemake is asked (`--summary`, which starts no job and takes no
lock), so that there is one answer to it. What runs, what was killed and how long jobs take, their own records tell
(`mskd.job_record`). Imports nothing heavy.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mskd.config.study import Study
from mskd.console import log, printable
from mskd.dag import Graph
from mskd.job_record import Running, read_attempts, read_running
from mskd.plan.jobs import STAGES, Job, study_jobs
from mskd.plan.quantities import duration

METRICS = "metrics.jsonl"  # as mskd.training.journal, whose import would take long
CHECKPOINT = "checkpoint.safetensors"  # as mskd.training.loop
QUIET_S = 120.0  # a training whose journal is older than this, and than some of its rows, has probably stopped
STOPPED = ": stopped after step "  # what a training says that was told to stop, and left a checkpoint
STOPPED_ERROR = "InterruptedTraining"  # its error, as mskd.training.loop has it
KILLED = "ended without a word: killed, out of memory or out of time?"
SLURM_LOGS = "logs/slurm"  # as profiles/slurm says
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
        running: Those that run now, of all.
        left_s: Seconds until all are done, if as many run at a time as now; None if nothing is left, or unknown.
    """

    stage: str
    done: int
    expected: int
    stale: int | None = None
    running: int = 0
    left_s: float | None = None


@dataclass(frozen=True)
class RunningJob:
    """A job that runs now.

    Attributes:
        name: The job.
        host: Machine of its first process.
        slurm_job: Number of its Slurm job; empty where Slurm did not start it.
        elapsed_s: Seconds since it began.
        done: Cases or steps that are done, of those of its first process; None if it has not said.
        total: Those that there are.
        left_s: Seconds left; None if unknown.
    """

    name: str
    host: str
    slurm_job: str
    elapsed_s: float
    done: int | None = None
    total: int | None = None
    left_s: float | None = None


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
        resumes: Whether it has a checkpoint to go on from.
    """

    name: str
    step: int
    steps: int
    left_s: float | None
    quiet_s: float
    running: bool
    resumes: bool


@dataclass(frozen=True)
class Failure:
    """A job that is not done, does not run, and whose last attempt failed or was killed.

    Attributes:
        name: The job.
        log: Its log; one that was started by hand has none.
        lines: The end of what it printed, or what its record tells.
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
        running: Jobs that run now.
    """

    study: str
    stages: tuple[StageStatus, ...]
    trainings: tuple[TrainingStatus, ...]
    failures: tuple[Failure, ...]
    stale: tuple[Stale, ...] | None = None
    running: tuple[RunningJob, ...] = ()


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
    records = {job.name: record for job in jobs if (record := read_running(_record(graph, job)))}
    running = {name: _running_job(name, *found) for name, found in records.items() if found[0].lives(found[1])}
    ends = {}
    for job in open_jobs:
        if job.name not in running and (end := _end(graph, job, records.get(job.name))):
            ends[job.name] = end
    trainings = {job.name: training for job in open_jobs if (training := _training(graph, job))}
    for name, training in trainings.items():
        if name in running:  # its journal knows its present speed, its record the mean
            left_s = running[name].left_s if training.left_s is None else training.left_s
            running[name] = replace(running[name], done=training.step, total=training.steps, left_s=left_s)
        alive = name in running or (training.running and name not in records and name not in ends)
        trainings[name] = replace(training, running=alive)
    stale = None if outdated is None else _stale(jobs, unfinished, outdated)
    stages = []
    for stage in STAGES:
        if of_stage := [job for job in jobs if job.stage == stage]:
            found = _stage_status(graph, of_stage, unfinished, running)
            stages.append(found if stale is None else replace(found, stale=sum(job.name in stale for job in of_stage)))
    return StudyStatus(
        study.study,
        tuple(stages),
        tuple(trainings.values()),
        tuple(end for end in ends.values() if not _was_told_to_stop(end)),
        None if stale is None else tuple(Stale(name, why) for name, why in stale.items()),
        tuple(running.values()),
    )


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
    table.add_column("running", justify="right")
    table.add_column("time left", justify="right")
    if status.stale is not None:
        table.add_column("stale", justify="right")
    for stage in status.stages:
        style = "green" if stage.done == stage.expected and not stage.stale else None
        old = [] if stage.stale is None else [str(stage.stale)]
        left = "" if stage.left_s is None else duration(stage.left_s)
        counts = [str(count) for count in (stage.done, stage.expected, stage.running or "")]
        table.add_row(stage.stage, *counts, left, *old, style=style)
    console.print(table)
    for job in status.running:
        console.print(printable(_running_line(job)), markup=False)
    shown = {job.name for job in status.running}
    for training in status.trainings:
        if training.name not in shown:
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


def _record(graph: Graph, job: Job) -> Path:
    return graph.layout.job(job.stage, *job.parts)


def _running_job(name: str, record: Running, quiet_s: float) -> RunningJob:
    left_s = None if record.left_s is None else max(0.0, record.left_s - quiet_s)
    elapsed_s = max(0.0, time.time() - record.began)
    return RunningJob(name, record.host, record.slurm_job, elapsed_s, record.done, record.total, left_s)


def _stage_status(
    graph: Graph, jobs: Sequence[Job], unfinished: set[str], running: Mapping[str, RunningJob]
) -> StageStatus:
    """Return the status of the jobs of one stage."""
    now = [running[job.name] for job in jobs if job.name in running]
    done = [job for job in jobs if job.name not in unfinished]
    waiting = sum(job.name in unfinished and job.name not in running for job in jobs)
    left_s = None
    if (waiting or now) and (job_s := _job_s(graph, done, now)) is not None:
        of_running = [max(0.0, job_s - job.elapsed_s) if job.left_s is None else job.left_s for job in now]
        left_s = (sum(of_running) + waiting * job_s) / max(1, len(now))
    return StageStatus(jobs[0].stage, len(done), len(jobs), running=len(now), left_s=left_s)


def _job_s(graph: Graph, done: Sequence[Job], now: Sequence[RunningJob]) -> float | None:
    """Return the mean seconds of a job: of those that are done, the longest attempt; else of those that run."""
    taken = [max((one.seconds for one in read_attempts(_record(graph, job))), default=None) for job in done]
    known = [seconds for seconds in taken if seconds is not None]
    known = known or [job.elapsed_s + job.left_s for job in now if job.left_s is not None]
    return sum(known) / len(known) if known else None


def _running_line(job: RunningJob) -> str:
    where = f"{job.host}, Slurm job {job.slurm_job}" if job.slurm_job else job.host
    far = "" if job.done is None or job.total is None else f", {job.done} of {job.total}"
    left = "" if job.left_s is None else f", {duration(job.left_s)} left"
    return f"running: {job.name}  ({where}) for {duration(job.elapsed_s)}{far}{left}"


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
        again = "goes on from its checkpoint" if training.resumes else "begins anew, for it left no checkpoint"
        return f"{share}, stopped (last row {duration(training.quiet_s)} ago); run again: it {again}"
    return f"{share}, {duration(training.left_s)} left" if training.left_s is not None else share


def _training(graph: Graph, job: Job) -> TrainingStatus | None:
    if job.stage not in ("train_teacher", "train_student"):
        return None
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
    running, resumes = quiet_s <= max(QUIET_S, usual_s), (folder / CHECKPOINT).is_file()
    return TrainingStatus(job.name, rows[-1][0], section.steps, left_s, quiet_s, running, resumes)


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


def _end(graph: Graph, job: Job, record: tuple[Running, float] | None) -> Failure | None:
    """Return how the last attempt at a job ended that is not done and does not run; None if there was none."""
    began = record[0].began if record else 0.0
    if said := _failure(job, began):
        return said
    if record:
        return Failure(job.name, str(job.log), tuple(_killed_lines(record[0], _tail(job.log, began))))
    attempts = read_attempts(_record(graph, job))
    if attempts and attempts[-1].outcome != "done":
        error, host = attempts[-1].error or attempts[-1].outcome, printable(attempts[-1].host)
        lines = (f"ended with {error} on {host}, started by hand or without this log: the message stands there",)
        return Failure(job.name, str(job.log), lines)
    return None


def _killed_lines(record: Running, tail: Sequence[str]) -> list[str]:
    lines = [f"{KILLED} (on {printable(record.host)})", *(f"the last line of its log: {line}" for line in tail[-1:])]
    if record.slurm_job:
        number = printable(record.slurm_job)
        lines.append(f"Slurm may know why: {SLURM_LOGS}/**/{number}.log, sacct -j {number}")
    return lines


def _was_told_to_stop(end: Failure) -> bool:
    return any(word in end.lines[0] for word in (STOPPED, STOPPED_ERROR, KeyboardInterrupt.__name__))


def _failure(job: Job, began: float) -> Failure | None:
    """Return the end of a job's log if it tells of an error; a log without one belongs to a job that runs or waits."""
    lines = _tail(job.log, began)
    starts = [i for i, line in enumerate(lines) if line.startswith("error:")]
    if starts:
        return Failure(job.name, str(job.log), tuple(lines[starts[-1] :][:ERROR_LINES]))
    if any(line.startswith("Traceback") for line in lines) or (lines and lines[-1] in ("Killed", "Terminated")):
        return Failure(job.name, str(job.log), tuple(lines[-ERROR_LINES:]))
    return None


def _tail(log: Path, began: float) -> list[str]:
    """Return the last lines of a log; none if it is older than the attempt that began then."""
    try:
        with log.open("rb") as stream:
            if os.fstat(stream.fileno()).st_mtime < began:
                return []
            stream.seek(0, 2)
            stream.seek(max(0, stream.tell() - LOG_TAIL_BYTES))
            text = stream.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()]
