"""Commands that a person waits for: `mskd --help`, `check-data` of one case, a dry run of a finished study."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from threading import Event, Thread
from typing import Any

import yaml

from benchmarks.speed.data import LABELS, SCAN
from benchmarks.speed.options import Options
from benchmarks.speed.pairing import BROKEN, MEASURED
from benchmarks.speed.sides import peak_mib
from benchmarks.speed.sides import set_up as set_up_stage
from mskd.storage import write_text

REPOSITORY = Path(__file__).parents[2]
MSKD = [sys.executable, "-m", "mskd"]


def run(session: Any, folder: Path) -> None:
    """Measure every command that is wanted."""
    rows: list[tuple[str, str, float, Callable[[Path, Options], list[str]]]] = [
        ("command_help", "`mskd --help`", 0.5, lambda *_: [*MSKD, "--help"]),
        ("command_check_data", "`mskd check-data` of a study of one case", 1.0, _check_data),
        ("command_dry_run", "`snakemake --dry-run` of a finished study", 5.0, _dry_run),
    ]
    for name, work, target_s, prepare in rows:
        if session.wants(name):
            about = {"work": work, "target_s": target_s}
            try:
                content = measured(prepare(folder, session.options), folder, session.options.rounds)
            except subprocess.CalledProcessError as error:
                last = (error.stderr or error.output or "no output").strip().splitlines()[-1]
                content = {"status": BROKEN, "reason": last.replace(str(folder) + os.sep, "")}
            session.add(name, "command", {**about, **content})


def measured(command: list[str], folder: Path, rounds: int) -> dict[str, Any]:
    """Run a command once to warm the disk's cache, then some times more.

    Raises:
        CalledProcessError: If it fails.
    """
    times, peaks = [], []
    for _ in range(1 + rounds):
        seconds, peak = once(command, folder)
        times.append(seconds)
        peaks.append(peak)
    return {"status": MEASURED, "ours_s": median(times[1:]), "times_s": times[1:], "peak_mib": round(max(peaks))}


def once(command: list[str], folder: Path) -> tuple[float, float]:
    """Return a command's time and the peak memory of its process in MiB (of its children's nothing)."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    printed = folder / "printed.txt"
    peak, ended = [0.0], Event()

    def watch(pid: int) -> None:
        while not ended.wait(0.02):
            peak[0] = max(peak[0], peak_mib(pid))

    with printed.open("w+") as stream:
        started = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=stream, stderr=subprocess.STDOUT)
        watcher = Thread(target=watch, args=(process.pid,))
        watcher.start()
        status = process.wait()
        seconds = time.perf_counter() - started
        ended.set()
        watcher.join()
    if status:
        raise subprocess.CalledProcessError(status, command, stderr=printed.read_text())
    return seconds, peak[0]


def _check_data(folder: Path, options: Options) -> list[str]:
    set_up_stage("benchmarks.speed.metrics", folder, options)
    write_text(folder / "cases.csv", f"case,image,label\none,{SCAN},{LABELS}\n")
    label_map = {1: "liver", **dict.fromkeys(range(2, 6), "background")}
    split = {"kind": "all", "into": "train"}
    study = {
        "study": "one_case",
        "organs": ["liver"],
        "datasets": {
            "mine": {"adapter": "table", "path": str(folder / "cases.csv"), "label_map": label_map, "split": split}
        },
        "methods": {"naive_union": {}},
    }
    write_text(folder / "one_case.yaml", yaml.safe_dump(study, sort_keys=False))
    return [*MSKD, "check-data", str(folder / "one_case.yaml")]


def _dry_run(folder: Path, options: Options) -> list[str]:
    """Finish a study with empty outputs, as benchmarks/planning.py does, and plan it again."""
    finish = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1] + '/benchmarks'); import planning;"
        "f = Path(sys.argv[2]); f.mkdir(exist_ok=True); s = planning.write_study(f, 200, planning.ORGANS, None);"
        "planning.finish(f, s)"
    )
    subprocess.run(
        [sys.executable, "-c", finish, str(REPOSITORY), str(folder / "finished")],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=True,
    )
    study = str(folder / "finished/study.yaml")
    workflow = str(REPOSITORY / "workflow/Snakefile")
    command = [sys.executable, "-m", "snakemake", "--snakefile", workflow, "--configfile", study, "--quiet", "rules"]
    return [*command, "--directory", str(folder / "finished"), "--dry-run"]
