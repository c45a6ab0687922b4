"""Measures unit costs in processes of its own, so that memory and start-up are those of real jobs.

`python -m mskd.plan.worker volumes|networks FOLDER` reads FOLDER/task.json and writes FOLDER/<kind>.json.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from mskd.config.loading import load_study
from mskd.console import log
from mskd.errors import MskdError
from mskd.leaves import stage_code

STARTED = {
    "volumes": ("evaluate",),
    "networks": ("train_student", "predict"),
}  # what these import and fingerprint is start-up
PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / 2**20
TAIL = 2000


def main(kind: str, folder: Path) -> None:
    """Measure, and write what was found."""
    for stage in STARTED[kind]:
        import_module(f"mskd.stages.{stage}")
        stage_code(stage)
    started_s = time.time()
    task = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    study = load_study(folder / "study.yaml")
    if kind == "volumes":
        from mskd.plan.volume_costs import measure_volumes as measure
    else:
        from mskd.plan.network_costs import measure_networks as measure
    start_s = started_s - float(task["started"])
    found = measure(study, folder, task)
    (folder / f"{kind}.json").write_text(json.dumps({**found, "start_s": start_s}), encoding="utf-8")


def peak_mib() -> float:
    """Return the largest memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def present_mib() -> float:
    """Return the memory that this process has now."""
    statm = Path("/proc/self/statm")
    if not statm.is_file():  # not Linux
        return peak_mib()
    return int(statm.read_text().split()[1]) * PAGE_MIB


def in_child(title: str, folder: Path, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Do something in a forked process, so that its memory is its own and nothing stays initialised here.

    Returns:
        What `work` returns, and "memory_mib": peak of the process; "growth_mib": by how much it grew; "time_s".

    Raises:
        MskdError: If it failed; the message holds the end of what it printed.
    """
    log(f"measuring {title}")
    folder.mkdir(parents=True, exist_ok=True)
    answer, printed = folder / "answer.json", folder / "printed.log"
    answer.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            stream = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(stream, 1)
            os.dup2(stream, 2)
            before_mib, started = present_mib(), time.monotonic()
            result = work()
            result |= {"time_s": time.monotonic() - started, "memory_mib": peak_mib()}
            result["growth_mib"] = max(0.0, result["memory_mib"] - before_mib)
            answer.write_text(json.dumps(result), encoding="utf-8")
            status = 0
        except BaseException:  # noqa: BLE001 - the parent reports it
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    os.waitpid(child, 0)
    if not answer.is_file():
        tail = printed.read_text(encoding="utf-8", errors="replace")[-TAIL:] if printed.is_file() else ""
        raise MskdError(
            f"measuring {title} failed (out of memory?); it printed:\n{tail}\n"
            "  way out: measure on the machine that computes, with --write-units FILE, and plan here with --units FILE"
        )
    found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    return found


if __name__ == "__main__":
    try:
        main(sys.argv[1], Path(sys.argv[2]))
    except MskdError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
