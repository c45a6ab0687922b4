"""The table of docs/scale.md: what each fault on a cluster cost, from the rows of `make test-slurm-faults`.

A row is written only once the study was finished and its tables were those of an undisturbed run.

    make test-slurm-faults && python benchmarks/faults.py
"""

from __future__ import annotations

import json
from pathlib import Path

from mskd.markdown import pipe_table

ROWS = Path(__file__).parent / "results/faults.jsonl"
HEADS = ("fault", "tried", "lost work, at most", "result")


def fault_table(rows: Path = ROWS) -> str:
    """Return the table, one row per fault."""
    lost: dict[str, list[float]] = {}
    for line in rows.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        lost.setdefault(row["fault"], []).append(float(row["lost_s"]))
    result = "finished; tables bit for bit as undisturbed"
    return pipe_table(HEADS, [(fault, len(s), f"{max(s):.1f} s", result) for fault, s in sorted(lost.items())])


if __name__ == "__main__":
    print(fault_table())
