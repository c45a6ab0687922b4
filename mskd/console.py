"""What a person sees while something runs: log lines, and a progress bar with the time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from mskd.processes import is_first

REPORT_EVERY_S = 15.0
Watcher = Callable[[int, int, int], object]  # (done, total, how many of those done stood already)
_WATCHER: ContextVar[Watcher | None] = ContextVar("watcher of progress", default=None)


class Advance(Protocol):
    """Reports progress: `advance(1)`, `advance(1, "loss 0.31")`, `advance(1, case, stood=True)`."""

    def __call__(self, steps: int = 1, note: str = "", *, stood: bool = False) -> None:
        """Count steps as done; `stood`: they were done before, and cost nothing now."""


def log(message: str) -> None:
    """Print a line to standard error, so that standard output stays for results; of several processes, the first."""
    if is_first():
        print(message, file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """Return a text that cannot steer a terminal: file names may hold any character."""
    return text if text.isprintable() else ascii(text)


@contextmanager
def watched(by: Watcher) -> Iterator[None]:
    """Tell also somebody else how far the progress inside has come.

    Args:
        by: Told what is done, what there is to do in all, and how much stood already, when a progress begins and at
            each of its steps.
    """
    before = _WATCHER.set(by)
    try:
        yield
    finally:
        _WATCHER.reset(before)


@contextmanager
def progress(title: str, total: int, *, done: int = 0) -> Iterator[Advance]:
    """Show progress with an estimate of the time left: a bar on a terminal, a line now and then in a log file."""
    watcher, count, standing = _WATCHER.get(), done, done
    if watcher is not None:
        watcher(done, total, standing)
    shown = _bar if sys.stderr.isatty() and is_first() else _lines
    with shown(title, total, done) as show:

        def advance(steps: int = 1, note: str = "", *, stood: bool = False) -> None:
            nonlocal count, standing
            count += steps
            standing += steps if stood else 0
            if watcher is not None:
                watcher(count, total, standing)
            show(steps, note)

        yield advance


@contextmanager
def _lines(title: str, total: int, done: int) -> Iterator[Advance]:
    started, last, count = time.monotonic(), time.monotonic(), done

    def advance(steps: int = 1, note: str = "", *, stood: bool = False) -> None:
        nonlocal last, count
        count += steps
        now = time.monotonic()
        if now - last >= REPORT_EVERY_S or count == total:
            last = now
            left = (now - started) / max(1, count - done) * (total - count)
            log(f"{title}: {count}/{total}, {_duration(left)} left{', ' + note if note else ''}")

    yield advance


@contextmanager
def _bar(title: str, total: int, done: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total, completed=done, note="")

        def advance(steps: int = 1, note: str = "", *, stood: bool = False) -> None:
            bar.update(task, advance=steps, note=note)

        yield advance


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
