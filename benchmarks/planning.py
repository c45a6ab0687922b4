"""Time and memory of planning: `snakemake -n` on studies of 200, 2,000 and 20,000 cases with four teachers.

The scans are sparse files with a header, 100 to a folder, listed by a table per dataset; no job is run. For each
size three fresh processes are measured: the graph alone (`mskd.dag.Graph` and all its jobs), a dry run with nothing
done, and a dry run of the finished study, whose outputs are empty files that `snakemake --touch` marked as done.

    python benchmarks/planning.py --cases 200 2000 20000
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import yaml

from mskd.config.loading import load_study
from mskd.dag import Graph
from mskd.plan.jobs import study_jobs
from mskd.provenance import made_by
from mskd.storage import write_json, write_text

REPOSITORY = Path(__file__).parents[1]
RESULTS = REPOSITORY / "benchmarks/results/planning.json"
ORGANS = ("liver", "kidney", "pancreas", "spleen")
SCAN_BYTES, LABEL_BYTES = 60_000_000, 300_000
PER_FOLDER = 100
# as much of a packed scan as its header needs: sizeof_hdr, dim, pixdim
HEADER = gzip.compress(struct.pack("<i36x8h20x8f60x", 348, 3, 512, 512, 120, 1, 1, 1, 1, 1, 0.8, 0.8, 2.5, 1, 1, 1, 1))
SAMPLED_S = 0.1
GRAPH = """
import sys, time
from pathlib import Path
started = time.perf_counter()
from mskd.config.loading import load_study
from mskd.dag import Graph
from mskd.plan.jobs import study_jobs
graph = Graph(load_study(Path(sys.argv[1])))
print(len(study_jobs(graph)), time.perf_counter() - started)
"""


def main() -> None:
    """Write each study, measure, and keep every row as it comes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, nargs="+", default=[200, 2000, 20000])
    parser.add_argument("--datasets", type=int, default=len(ORGANS), choices=range(1, len(ORGANS) + 1))
    parser.add_argument("--blocks", type=int, help="of each dataset; as many as the study would choose without it")
    parser.add_argument("--states", nargs="+", default=["graph", "nothing done", "finished"])
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    for cases in given.cases:
        with tempfile.TemporaryDirectory(prefix="mskd-planning-") as name:
            folder = Path(name)
            study = write_study(folder, cases, ORGANS[: given.datasets], given.blocks)
            for state in given.states:
                if state == "finished":
                    finish(folder, study)
                row = {"cases": cases, "datasets": given.datasets, "state": state, **measured(folder, study, state)}
                keep(row, given.output)
    print(pd.DataFrame(json.loads(given.output.read_text())["rows"]).to_markdown(index=False))


def write_study(folder: Path, cases: int, organs: Sequence[str], blocks: int | None) -> Path:
    """Write a study file and its datasets, which share the cases evenly, and return the file."""
    chosen = {} if blocks is None else {"blocks": blocks}
    study: dict[str, Any] = {
        "study": "planned",
        "organs": list(organs),
        "datasets": {},
        "methods": {"naive_union": {}, "mskd": {}},
    }
    for index, organ in enumerate(organs):
        rows = ["case,image,label"]
        for number in range(index, cases, len(organs)):
            bucket = f"{number // len(organs) // PER_FOLDER:03d}"
            file = f"{bucket}/{number:05d}.nii.gz"
            row = [f"{organ}_{number:05d}", f"scans/{file}", f"labels/{file}"]
            for path, size in zip(row[1:], (SCAN_BYTES, LABEL_BYTES), strict=True):
                _sparse(folder / "data" / organ / path, size)
            rows.append(",".join(row))
        table = folder / "data" / organ / "cases.csv"
        write_text(table, "\n".join(rows) + "\n")
        study["datasets"][organ] = {"adapter": "table", "path": str(table), "label_map": {1: organ}, **chosen}
    write_text(folder / "study.yaml", yaml.safe_dump(study, sort_keys=False))
    return folder / "study.yaml"


def finish(folder: Path, study: Path) -> None:
    """Make every output an empty file and let Snakemake record it as done by the present code and configuration."""
    os.chdir(folder)
    for job in study_jobs(Graph(load_study(study))):
        write_text(job.output, "")
    write_text(folder / "results/planned/report/index.html", "")
    command = snakemake(study, "--touch", "--forceall", "--cores", "1")
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")


def measured(folder: Path, study: Path, state: str) -> dict[str, Any]:
    """Return time, peak memory of all processes together, and what the machine did beside."""
    command = [sys.executable, "-c", GRAPH, str(study)] if state == "graph" else snakemake(study, "--dry-run")
    load = os.getloadavg()[0]
    with (folder / "printed.txt").open("w+") as stream:
        started = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, env=environment(), stdout=stream, stderr=subprocess.STDOUT)
        peak = 0
        while process.poll() is None:
            peak = max(peak, tree_bytes(process.pid))
            time.sleep(SAMPLED_S)
        taken_s = time.perf_counter() - started
        stream.seek(0)
        printed = stream.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{printed[-2000:]}")
    return {
        "jobs": int(printed.split()[0]) if state == "graph" else jobs_in(printed),
        "seconds": round(taken_s, 2),
        "peak_mib": round(peak / 2**20),
        "load_before": round(load, 1),
        "cores": os.cpu_count(),
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": made_by(),
    }


def tree_bytes(pid: int) -> int:
    """Return the resident memory of a process and of all below it; pages that they share count several times."""
    total = 0
    try:
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            total += process.memory_info().rss
    except psutil.NoSuchProcess:  # it ended meanwhile
        pass
    return total


def jobs_in(printed: str) -> int:
    """Return the number of jobs that a dry run would start."""
    totals = [line.split()[1] for line in printed.splitlines() if line.startswith("total ")]
    if not totals and "Nothing to be done" not in printed:
        raise SystemExit(f"no number of jobs in what Snakemake printed:\n{printed[-2000:]}")
    return int(totals[0]) if totals else 0


def snakemake(study: Path, *arguments: str) -> list[str]:
    """Return a command that runs this repository's workflow on a study, in the study's folder."""
    workflow = str(REPOSITORY / "workflow/Snakefile")
    command = [sys.executable, "-m", "snakemake", "--snakefile", workflow, "--configfile", str(study)]
    return [*command, "--quiet", "rules", *arguments]


def environment() -> dict[str, str]:
    """Return an environment in which this repository's package is the one that is imported."""
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"}


def keep(row: dict[str, Any], target: Path) -> None:
    """Put a row into the results in the place of an earlier one of the same study and state."""
    rows = json.loads(target.read_text())["rows"] if target.is_file() else []
    same = ("cases", "datasets", "state")
    kept = [old for old in rows if any(old[name] != row[name] for name in same)]
    write_json(target, {"rows": sorted([*kept, row], key=lambda r: [r["datasets"], r["cases"], r["state"]])})
    print({name: value for name, value in row.items() if name != "versions"}, flush=True)


def _sparse(path: Path, size: int) -> None:
    """Write a file of that size that begins as a scan does: its header is all that is looked at."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        stream.write(HEADER)
        stream.truncate(size)


if __name__ == "__main__":
    main()
