"""What the study `paper` costs with its some 650 scans, and with 20,000: bytes, hours, jobs of each stage.

Scans are files that hold nothing but a header of the usual size of their dataset; unit costs are measured here (half a
minute), or read from a file that `mskd plan STUDY --write-units` wrote on another machine, such as a node with GPUs.

    python benchmarks/scale.py
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import yaml

from mskd.config.loading import parse_study
from mskd.plan.quantities import duration, size
from mskd.plan.study import Plan, plan_study
from mskd.plan.units import measured_or_read
from mskd.provenance import made_by
from mskd.storage import write_json, write_text

REPOSITORY = Path(__file__).parents[1]
SCANS = {
    # scans of the public dataset, usual shape, voxel size in mm
    "liver": (131, (512, 512, 432), (0.77, 0.77, 1.0)),
    "kidney": (210, (512, 512, 216), (0.78, 0.78, 3.0)),
    "pancreas": (281, (512, 512, 93), (0.80, 0.80, 2.5)),
    "spleen": (41, (512, 512, 90), (0.79, 0.79, 5.0)),
}
PER_FOLDER = 1000
PARALLEL = 8  # jobs at a time, for the time from start to end


def main() -> None:
    """Plan both sizes, write JSON, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=Path, help="unit costs of another machine")
    parser.add_argument("--write-units", type=Path, help="keep the unit costs that are measured")
    given = parser.parse_args()
    rows, units = [], given.units
    with tempfile.TemporaryDirectory(prefix="mskd-scale-") as name:
        kept = given.write_units or Path(name) / "units.json"
        for total in (sum(count for count, _, _ in SCANS.values()), 20_000):
            study = parse_study(write_data(Path(name) / str(total), total))
            costs = measured_or_read(study, device="auto", source=units, target=None if units else kept)
            units = units or kept  # measured once
            plan = plan_study(study, costs, parallel=PARALLEL)
            rows.append({"scans": total, **as_row(plan)})
            print(f"\n### {total:,} scans\n\n{table(plan)}\n")
    report = {"rows": rows, "made_by": made_by(), "machine": costs.machine, "device": costs.device}
    write_json(REPOSITORY / "benchmarks/results/scale.json", report)


def write_data(folder: Path, total: int) -> dict[str, Any]:
    """Write headers of so many scans, in the proportions of the public datasets, and return the study."""
    study = yaml.safe_load((REPOSITORY / "config/paper.yaml").read_text(encoding="utf-8"))
    study["datasets"] = {organ: study["datasets"][organ] for organ in SCANS}
    study["results"] = str(folder / "results")
    study["runs"] = {"seeds": [0]}
    public = sum(count for count, _, _ in SCANS.values())
    for organ, (count, shape, spacing_mm) in SCANS.items():
        rows = ["case,image,label"]
        for number in range(round(count * total / public)):
            scan = folder / organ / str(number // PER_FOLDER) / f"{number}.nii"
            scan.parent.mkdir(parents=True, exist_ok=True)
            header = nib.Nifti1Header()
            header.set_data_dtype(np.int16)
            header.set_data_shape(shape)
            header.set_sform(np.diag([*spacing_mm, 1.0]), 1)
            header["magic"], header["vox_offset"] = b"n+1", 352
            with scan.open("wb") as stream:
                stream.write(header.binaryblock)
                stream.truncate(352 + 2 * int(np.prod(shape)))
            relative = scan.relative_to(folder / organ)
            rows.append(f"{organ}_{number},{relative},{relative}")
        write_text(folder / organ / "cases.csv", "\n".join(rows) + "\n")
        section = {"adapter": "table", "path": str(folder / organ / "cases.csv"), "split": {"kind": "hash"}}
        study["datasets"][organ] = {**section, "label_map": study["datasets"][organ]["label_map"]}
    return dict(study)


def as_row(plan: Plan) -> dict[str, Any]:
    """Return the numbers of a plan."""
    return {
        "jobs": plan.jobs,
        "work_h": round(plan.schedule.work_s / 3600, 1),
        "longest_chain_h": round(plan.schedule.critical_path_s / 3600, 1),
        "disk_bytes": round(plan.disk_bytes),
        "stages": {
            stage.stage: {
                "jobs": stage.jobs,
                "hours": round(stage.total_s / 3600, 2),
                "longest_s": round(stage.longest_s),
                "disk_bytes": round(stage.disk_bytes),
                "memory_mib": round(stage.memory_mib),
            }
            for stage in plan.stages
        },
    }


def table(plan: Plan) -> str:
    """Return a plan as Markdown."""
    lines = ["| stage | jobs | hours, all | longest job | disk | memory of a job |", "|---|--:|--:|--:|--:|--:|"]
    for stage in plan.stages:
        cells = [
            f"`{stage.stage}`",
            f"{stage.jobs:,}",
            f"{stage.total_s / 3600:,.1f}",
            duration(stage.longest_s),
            size(stage.disk_bytes),
            size(stage.memory_mib * 2**20),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    chain = plan.schedule
    ends = f"{duration(chain.critical_path_s)} at least; {duration(chain.total_s)} with {chain.parallel} jobs at a time"
    lines.append(f"| together | {plan.jobs:,} | {chain.work_s / 3600:,.1f} | {ends} | {size(plan.disk_bytes)} | |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
