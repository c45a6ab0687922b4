"""The record that a job of a study keeps of itself, for `mskd status` and the report's table of stages.

While the job runs, `jobs/<stage>/<parts>.json` says where and since when it runs, and how far it is. It is written anew
every half minute: a job that was killed cannot say so, but its record grows old. When the job ends, a line is added to
`jobs/<stage>/<parts>.jsonl`: how it ended, and what it took. An attempt that was killed gets its line when the job
begins again, up to its last sign of life.

The command line keeps the record; no stage imports this, so that a change here runs nobody's study again. It names no
case, and of an error only its kind. What cannot be written (a full disk) is said once and disturbs nothing else.
Imports nothing heavy.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from mskd.console import log, watched
from mskd.errors import MskdError
from mskd.layout import Layout
from mskd.processes import is_first, world
from mskd.storage import write_json, write_text

BEAT_S = 30.0  # so often a running job writes its record anew
SILENT_S = 120.0  # a record that is older belongs to a job that is dead
PATIENCE_S = 10.0  # a disk that hangs must not keep a job that is done

T = TypeVar("T")


@dataclass(frozen=True)
class Running:
    """What a job says of itself while it runs.

    Attributes:
        began: When it began, in seconds since 1970.
        host: Machine of its first process.
        pid: Its first process there.
        pid_space: Where that number holds, by the kernel's name for it: containers count by themselves.
        slurm_job: Number of its Slurm job; empty where Slurm did not start it.
        processes: Processes that share its work.
        gpus: GPUs that they compute on.
        done: Cases or steps that are done, of those of the first process; None if it has not said.
        total: Those that there are.
        stood: Of those done, the ones that were done before it began.
        left_s: Seconds left when it wrote this; None if unknown.
    """

    began: float
    host: str
    pid: int
    pid_space: str = ""
    slurm_job: str = ""
    processes: int = 1
    gpus: int = 0
    done: int | None = None
    total: int | None = None
    stood: int | None = None
    left_s: float | None = None

    def lives(self, quiet_s: float) -> bool:
        """Return whether the job seems to run still.

        Args:
            quiet_s: Seconds since it wrote this; what runs elsewhere is known by that alone.
        """
        if (self.host, self.pid_space) == (socket.gethostname(), _pid_space()) and self.pid_space:
            return quiet_s < SILENT_S and _is_alive(self.pid)
        return quiet_s < SILENT_S


@dataclass(frozen=True)
class Attempt:
    """An attempt at a job that has ended.

    Attributes:
        outcome: How it ended.
        began: When it began, in seconds since 1970.
        seconds: How long it ran.
        error: Kind of error that ended it; empty for none.
        host: Machine of its first process.
        slurm_job: Number of its Slurm job; empty where Slurm did not start it.
        processes: Processes that shared its work.
        gpus: GPUs that they computed on.
        memory_mib: Peak of the largest among the first process and its children; None if unknown.
        gpu_memory_mib: Peak of what the first process held on its GPU; None where it used none, or if unknown.
        done: Cases or steps that were done at its end, of those of the first process; None if it has not said.
        total: Those that there were.
        stood: Of those done, the ones that were done before it began.
    """

    outcome: Literal["done", "failed", "killed"]
    began: float
    seconds: float
    error: str = ""
    host: str = ""
    slurm_job: str = ""
    processes: int = 1
    gpus: int = 0
    memory_mib: float | None = None
    gpu_memory_mib: float | None = None
    done: int | None = None
    total: int | None = None
    stood: int | None = None

    @property
    def made(self) -> int:
        """Cases or steps that it did; 0 if unknown."""
        return 0 if self.done is None or self.stood is None else self.done - self.stood


def read_running(path: Path) -> tuple[Running, float] | None:
    """Return what a job said of itself last, and how many seconds ago; None if it has ended, or never began.

    Args:
        path: `Layout.job` of it.
    """
    try:
        quiet_s = max(0.0, time.time() - path.stat().st_mtime)
        return _from_json(Running, path.read_text(encoding="utf-8")), quiet_s
    except (OSError, ValueError, TypeError):
        return None


def read_attempts(path: Path) -> list[Attempt]:
    """Return the attempts at a job that have ended, the first one first; a line that is none is left out.

    Args:
        path: `Layout.job` of it.
    """
    try:
        lines = _attempts_file(path).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []
    found = []
    for line in lines:
        try:
            found.append(_from_json(Attempt, line))
        except (ValueError, TypeError):
            continue
    return found


def all_attempts(root: Path) -> Iterator[tuple[str, list[Attempt]]]:
    """Yield the stage and the attempts of every job of a study that was ever tried.

    Args:
        root: Folder of the study's results.
    """
    folder = root / "jobs"
    for path in sorted(folder.rglob("*.jsonl")):
        if attempts := read_attempts(path.with_suffix(".json")):
            yield path.relative_to(folder).parts[0].removesuffix(".jsonl"), attempts


@dataclass(frozen=True)
class _Progress:
    """How far a job is: what was done when its progress began (by a clock), what is done, in all, and stood before."""

    clock: float
    first: int
    done: int
    total: int
    stood: int = 0

    def left_s(self) -> float | None:
        """Return the seconds left at the mean speed so far."""
        if self.done <= self.first:
            return None
        return round((time.monotonic() - self.clock) / (self.done - self.first) * (self.total - self.done), 1)


class JobRecord:
    """Keeps the record of the job that this process works on.

    Attributes:
        gpus: GPUs that its processes compute on, once that is known.
    """

    def __init__(self, path: Path) -> None:
        self.gpus = 0
        self._path = path
        self._began, self._clock = round(time.time(), 3), time.monotonic()
        self._host, self._slurm_job = socket.gethostname(), _slurm_job()
        self._seen: _Progress | None = None
        self._ended, self._troubled = threading.Event(), False
        self._beats = threading.Thread(target=self._beat, name="job record", daemon=True)

    def begin(self) -> None:
        """Say from now on that the job runs."""
        self._write(self._bury_predecessor)
        self._write(self._say)
        self._beats.start()

    def end(self, error: str = "") -> None:
        """Say that the job has ended, and what it took.

        Args:
            error: Kind of the error that ended it; empty for none.
        """
        self._ended.set()
        self._beats.join(PATIENCE_S)
        attempt = Attempt(
            outcome="failed" if error else "done",
            began=self._began,
            seconds=round(time.monotonic() - self._clock, 3),
            error=error,
            host=self._host,
            slurm_job=self._slurm_job,
            processes=world(),
            gpus=self.gpus,
            memory_mib=_peak_memory_mib(),
            gpu_memory_mib=_peak_gpu_memory_mib(),
            done=self._seen.done if self._seen else None,
            total=self._seen.total if self._seen else None,
            stood=self._seen.stood if self._seen else None,
        )
        self._write(lambda: _add_attempt(self._path, attempt))
        self._write(lambda: self._path.unlink(missing_ok=True))

    def progressed(self, done: int, total: int, stood: int) -> None:
        """Remember how far the job is; the next beat says it."""
        seen = self._seen
        anew = seen is None or done < seen.done or total != seen.total
        clock, first = (time.monotonic(), done) if seen is None or anew else (seen.clock, seen.first)
        self._seen = _Progress(clock, first, done, total, stood)

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_S):
            self._write(self._say)

    def _say(self) -> None:
        seen = self._seen
        running = Running(
            began=self._began,
            host=self._host,
            pid=os.getpid(),
            pid_space=_pid_space(),
            slurm_job=self._slurm_job,
            processes=world(),
            gpus=self.gpus,
            done=None if seen is None else seen.done,
            total=None if seen is None else seen.total,
            stood=None if seen is None else seen.stood,
            left_s=None if seen is None else seen.left_s(),
        )
        write_json(self._path, asdict(running))

    def _bury_predecessor(self) -> None:
        """Enter the attempt whose record nobody has ended, unless it runs still."""
        if not (found := read_running(self._path)):
            return
        old, quiet_s = found
        known = {attempt.began for attempt in read_attempts(self._path)}
        here = (old.host, old.pid_space) == (self._host, _pid_space())
        if old.began in known or (here and old.lives(quiet_s)):
            return
        seconds = round(max(0.0, time.time() - quiet_s - old.began), 3)
        where = replace(Attempt("killed", old.began, seconds), host=old.host, slurm_job=old.slurm_job)
        where = replace(where, processes=old.processes, gpus=old.gpus)
        _add_attempt(self._path, replace(where, done=old.done, total=old.total, stood=old.stood))

    def _write(self, write: Callable[[], object]) -> None:
        try:
            write()
        except (MskdError, OSError) as problem:
            if not self._troubled:
                self._troubled = True
                said = str(problem).splitlines()[0]
                log(f"this job goes on without its record, mskd status and the report do not see it: {said}")


@contextmanager
def job_record(root: Path, stage: str, *parts: str) -> Iterator[JobRecord]:
    """Keep the record of a job while the block runs; of several processes the first one does.

    Args:
        root: Folder of the study's results.
        stage: The job's rule.
        *parts: The rule's wildcards, as in `plan.jobs.Job`.
    """
    record = JobRecord(Layout(root).job(stage, *parts))
    if not is_first():
        yield record
        return
    record.begin()
    try:
        with watched(record.progressed):
            yield record
    except BaseException as error:
        record.end(type(error).__name__)
        raise
    record.end()


def _attempts_file(path: Path) -> Path:
    return path.with_suffix(".jsonl")


def _add_attempt(path: Path, attempt: Attempt) -> None:
    file = _attempts_file(path)
    before = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    write_text(file, f"{before}{json.dumps(asdict(attempt), sort_keys=True)}\n")


def _from_json(kind: type[T], text: str) -> T:
    """Return a record; what another version has added is left out.

    Raises:
        ValueError: If it is no JSON.
        TypeError: If it is no such record.
    """
    data: Any = json.loads(text)
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    if not isinstance(data, dict) or not isinstance(data.get("began"), (int, float)):
        raise TypeError(text)
    return kind(**{name: value for name, value in data.items() if name in names})


def _slurm_job() -> str:
    """Return the number of the Slurm job as `sacct` and the names of its logs have it."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID", "")


def _pid_space() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - it is a name, not a path
    except OSError:
        return ""


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # somebody else's
    return True


def _peak_memory_mib() -> float:
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def _peak_gpu_memory_mib() -> float | None:
    torch = sys.modules.get("torch")
    try:
        if torch is None or not torch.cuda.is_initialized():
            return None
        peaks = [int(torch.cuda.max_memory_allocated(i)) for i in range(torch.cuda.device_count())]
    except RuntimeError:  # a GPU that has failed; what the job says of it counts
        return None
    return round(sum(peaks) / 2**20, 1)
