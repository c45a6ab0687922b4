"""Each side in a process of its own, so that its peak memory is its own; both wait while the other runs."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.speed.options import Options
from benchmarks.speed.pairing import Answer, Run

SET_UP = "set_up"


@dataclass(frozen=True)
class Work:
    """What a side does.

    Attributes:
        run: The work that is timed.
        answer: What of its result is compared (not timed).
    """

    run: Callable[[], Any]
    answer: Callable[[Any], Answer]


class SideProcessError(Exception):
    """A side ended with an error; the text is its traceback."""


class SideProcess:
    """A side of a stage module, in a fresh process."""

    def __init__(self, module: str, side: str, folder: Path, options: Options) -> None:
        """Start the process and let it set up.

        Args:
            module: Stage module; its `SIDES` maps names to functions (folder, options) → `Work`.
            side: Which; a name that begins with "set_up" is a function of the module, which is run here and now.
            folder: What `set_up` of the stage module wrote.
            options: Of the run.
        """
        self._pipe, other = get_context("spawn").Pipe()
        self._process = get_context("spawn").Process(
            target=_serve, args=(module, side, folder, options, other), daemon=True
        )
        self._process.start()
        self._peak_mib = 0.0
        other.close()
        self._receive()

    def run(self, *, answer: bool = False) -> Run:
        """Do the work once."""
        self._pipe.send("answer" if answer else "run")
        seconds, found, peak = self._receive()
        self._peak_mib = max(self._peak_mib, peak)
        return Run(seconds, found)

    def peak_mib(self) -> float:
        """Return the largest resident memory of the process in any run, in MiB; setting up and answers do not count."""
        return self._peak_mib

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._process.is_alive():
            self._pipe.send("end")
        self._process.join()
        self._pipe.close()

    def _receive(self) -> Any:
        try:
            kind, content = self._pipe.recv()
        except EOFError as error:
            raise SideProcessError("the process died (out of memory?)") from error
        if kind == "error":
            raise SideProcessError(content)
        return content


def set_up(module: str, folder: Path, options: Options, name: str = SET_UP) -> None:
    """Let a stage write what its sides share, in a process of its own."""
    with SideProcess(module, name, folder, options):
        pass


def _serve(module: str, side: str, folder: Path, options: Options, pipe: Connection) -> None:
    try:
        stage = import_module(module)
        if side.startswith(SET_UP):
            getattr(stage, side)(folder, options)
            pipe.send(("ready", None))
            return
        work: Work = stage.SIDES[side](folder, options)
        pipe.send(("ready", None))
        while (wanted := pipe.recv()) != "end":
            pipe.send(("done", _once(work, answer=wanted == "answer")))
    except Exception:  # noqa: BLE001 - told to the parent, which writes it into the row
        pipe.send(("error", traceback.format_exc()))


def _once(work: Work, *, answer: bool) -> tuple[float, Answer | None, float]:
    """Return the time of a run, its answer where that is asked for, and its peak memory in MiB."""
    forget_peak()
    started = time.perf_counter()
    result = work.run()
    seconds = time.perf_counter() - started
    peak = peak_mib()
    return seconds, work.answer(result) if answer else None, peak


def forget_peak() -> None:
    """Let this process's peak begin at what it holds now; where the kernel refuses, the peak holds what was before."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_mib(pid: int | str = "self") -> float:
    """Return a process's largest resident memory; 0 once it has ended.

    Not `ru_maxrss`, which holds that of the process it was forked from.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), 0.0)
