"""What a person sees while something runs: log lines, and a progress bar with the time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from mskd.processes import is_first

REPORT_EVERY_S = 15.0


class Advance(Protocol):
    """Reports progress: `advance(1)`, `advance(1, "loss 0.31")`."""

    def __call__(self, steps: int = 1, note: str = "") -> None:
        """Count steps as done."""


def log(message: str) -> None:
    """Print a line to standard error, so that standard output stays for results; of several processes, the first."""
    if is_first():
        print(message, file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """Return a text that cannot steer a terminal: file names may hold any character."""
    return text if text.isprintable() else ascii(text)


@contextmanager
def progress(title: str, total: int, *, done: int = 0) -> Iterator[Advance]:
    """Show progress with an estimate of the time left: a bar on a terminal, a line now and then in a log file."""
    if sys.stderr.isatty() and is_first():
        yield from _bar(title, total, done)
        return
    started, last, count = time.monotonic(), time.monotonic(), done

    def advance(steps: int = 1, note: str = "") -> None:
        nonlocal last, count
        count += steps
        now = time.monotonic()
        if now - last >= REPORT_EVERY_S or count == total:
            last = now
            left = (now - started) / max(1, count - done) * (total - count)
            log(f"{title}: {count}/{total}, {_duration(left)} left{', ' + note if note else ''}")

    yield advance


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

        def advance(steps: int = 1, note: str = "") -> None:
            bar.update(task, advance=steps, note=note)

        yield advance


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
