"""A run of the harness: rows one after the other, each written as it is finished, none measured twice."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.speed.machine import machine, missing, versions
from benchmarks.speed.options import Options
from benchmarks.speed.pairing import BROKEN, MEASURED, SKIPPED, Pair, compare
from benchmarks.speed.sides import SideProcess, SideProcessError, set_up
from benchmarks.speed.table import page
from mskd.storage import write_json, write_text

STAGES = ("metrics", "preparation", "inference", "cache", "training", "student")
ALONE = ("commands", "growth")
INSTALL = 'pip install ".[bench]"'


class Session:
    """Rows of one run.

    Attributes:
        results: Folder of the rows, one JSON file each.
        options: Of the run.
        command: As it was typed, without paths.
        again: Rows that stand are measured again.
        only: Rows whose name starts with one of these; all if empty.
    """

    def __init__(
        self, results: Path, options: Options, *, command: str, again: bool = False, only: Sequence[str] = ()
    ) -> None:
        self.results, self.options, self.command = results, options, command
        self.again, self.only = again, tuple(only)

    def wants(self, name: str) -> bool:
        """Return whether a row is to be measured: asked for, and not there already with the same options."""
        if self.only and not name.startswith(self.only):
            return False
        stored = self.stored(name)
        return self.again or not (
            stored and stored["status"] == MEASURED and stored["options"] == self.described(self.options)
        )

    def stored(self, name: str) -> dict[str, Any]:
        """Return a row that was written earlier; empty if there is none."""
        path = self.results / f"{name}.json"
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return found

    def add(self, name: str, kind: str, content: dict[str, Any]) -> None:
        """Write a row, and say what came of it."""
        row = {
            "name": name,
            "kind": kind,
            "command": self.command,
            "options": self.described(self.options),
            "machine": machine(self.options.device),
            "versions": versions(),
            **content,
        }
        write_json(self.results / f"{name}.json", row)
        said = row.get("reason", "")
        if "ratio" in row:
            said = f"{row['ratio']:.3f} (target {row['target']:.3g})"
        elif "exponent" in row:
            said = f"exponent {row['exponent']:.2f}"
        print(f"{name}: {row['status']} {said}", flush=True)

    def attempt(
        self, name: str, kind: str, about: dict[str, Any], measure: Callable[[], dict[str, Any]], folder: Path
    ) -> None:
        """Measure a row and write it; one whose process fails says why, and stops no other."""
        try:
            content = measure()
        except SideProcessError as error:
            print(error, file=sys.stderr)
            content = {"status": BROKEN, "reason": plain(str(error), folder)}
        self.add(name, kind, {**about, **content})

    @staticmethod
    def described(options: Options) -> dict[str, Any]:
        """Return options as rows record them: a given scan without its path."""
        return {**asdict(replace(options, scan=None, labels=None)), "own_scan": options.scan is not None}


def run(session: Session, folder: Path | None = None) -> None:
    """Measure every row that is wanted; what the stages share is written into a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="mskd-speed-") as name:
        shared = folder or Path(name)
        for stage in STAGES:
            run_stage(session, f"benchmarks.speed.{stage}", shared)
        for stage in ALONE:
            import_module(f"benchmarks.speed.{stage}").run(session, shared)


def run_stage(session: Session, module: str, folder: Path) -> None:
    """Measure the rows of a stage; one that fails stops no other."""

    @cache
    def ready() -> None:
        set_up(module, folder, session.options)

    def measure(pair: Pair) -> dict[str, Any]:
        ready()
        return _measured(pair, module, folder, session.options)

    for pair in import_module(module).pairs(session.options):
        if not session.wants(pair.name):
            continue
        about = {name: getattr(pair, name) for name in ("work", "against", "target", "note")}
        if lacking := missing(pair.needs):
            reason = f"{', '.join(lacking)} not installed: {INSTALL}"
            session.add(pair.name, "pair", {**about, "status": SKIPPED, "reason": reason})
            continue
        session.attempt(pair.name, "pair", about, partial(measure, pair), folder)


def _measured(pair: Pair, module: str, folder: Path, options: Options) -> dict[str, Any]:
    with (
        SideProcess(module, pair.ours, folder, options) as ours,
        SideProcess(module, pair.theirs, folder, options) as theirs,
    ):
        return compare(pair, ours, theirs, rounds=options.rounds, budget_s=options.budget_s)


def plain(text: str, folder: Path) -> str:
    """Return the last line of a traceback without paths of this machine."""
    last = text.strip().splitlines()[-1]
    for path in (str(folder), str(Path.cwd()), sys.prefix, str(Path.home())):
        last = last.replace(path + os.sep, "")
    return last


def rendered(results: Path, order: Callable[[str], int] | None = None) -> str:
    """Return the page of all rows of a folder."""
    rows = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))]
    return page(sorted(rows, key=lambda row: order(row["name"]) if order else 0))


def write_page(results: Path, page_file: Path) -> None:
    """Write the page of all rows of a folder."""
    write_text(page_file, rendered(results))
