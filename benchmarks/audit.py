"""Does `mskd audit` find label errors? A hundred phantoms, ten errors planted in their labels, cross-fitted teachers.

Errors: three missing parts, two wrong sides, three leaks into a neighbour, two missing organs; which case and organ the
seed decides. The score was developed on seed 1; the row that is kept is of seed 2.

    python benchmarks/audit.py --seed 2
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pandas as pd
import yaml

from mskd.config.phantom import PhantomDataset
from mskd.phantom.layouts import PhantomCase, write_case
from mskd.provenance import made_by
from mskd.storage import write_json

RESULTS = Path(__file__).parent / "results/audit.json"
REPOSITORY = Path(__file__).parents[1]
KINDS = ["missing part"] * 3 + ["wrong side"] * 2 + ["leaked neighbour"] * 3 + ["missing organ"] * 2
VALUES, NEIGHBOURS = {"liver": 6, "spleen": 1}, {"liver": 2, "spleen": 3}  # the kidney beside it
STUDY: dict[str, Any] = {
    "organs": ["liver", "spleen"],
    "datasets": {
        "audited": {
            "adapter": "btcv",
            "label_map": {6: "liver", 1: "spleen"},
            "split": {"kind": "all", "into": "train"},
            "blocks": 4,
        },
        "tested": {
            "adapter": "btcv",
            "role": "external",
            "label_map": {6: "liver", 1: "spleen"},
            "phantom": {"layout": "btcv", "organs": [], "n_train": 0, "n_val": 0, "n_test": 1},
        },
    },
    "methods": {"mskd": {}},
    "runs": {"parts": 2},
    "distillation": {"targets": "cross_fitted"},
    "preprocessing": {"spacing_mm": [8, 8, 8]},
    "network": {"features": [8, 16, 32]},
    "training": {
        "steps": 400,
        "batch_size": 2,
        "patch_size": [32, 32, 32],
        "optimiser": "adamw",
        "learning_rate": 0.003,
        "threads": 1,
        "validation_cases": 0,
    },
    "cache": {"taps": ["decoder0"]},
    "inference": {"threads": 1},
}


def main() -> None:
    """Make the data, plant, train and cache, audit; print and keep the ranks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--keep", type=Path, help="work in this folder and leave it there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        planted = make_data(folder / "data", options.cases, options.seed)
        study = {**STUDY, "study": "audited", "results": str(folder / "results")}
        study["datasets"]["audited"]["path"] = str(folder / "data")
        path = folder / "study.yaml"
        path.write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")
        snakemake = [sys.executable, "-m", "snakemake", "--configfile", str(path), "--cores", "2"]
        subprocess.run([*snakemake, "--until", "cache_targets"], check=True, cwd=REPOSITORY)
        subprocess.run([sys.executable, "-m", "mskd", "audit", str(path)], check=True, cwd=REPOSITORY)
        table = pd.read_csv(folder / "results/audited/audit/cases.csv")
    found = []
    for case, organ, kind in planted:
        row = table[table["case"].str.endswith(case) & (table["organ"] == organ)].iloc[0]
        found.append({"case": case, "organ": organ, "planted": kind, "found": row["kind"], "rank": int(row["rank"])})
    result = {
        "seed": options.seed,
        "cases": options.cases,
        "planted": sorted(found, key=lambda row: int(str(row["rank"]))),
        "among_first_12": sum(int(str(row["rank"])) <= 12 for row in found),
        "made_by": made_by(),
    }
    print(json.dumps(result, indent=1))
    if options.keep is None:
        write_json(RESULTS, result)


def make_data(root: Path, n_cases: int, seed: int) -> list[tuple[str, str, str]]:
    """Write phantoms and spoil ten labels; return (case, organ, kind)."""
    spec = PhantomDataset.model_validate(
        {
            "layout": "btcv",
            "organs": ["liver", "spleen"],
            "n_train": n_cases,
            "seed": seed,
            "scanner": {"spacing_mm": [7.0, 7.0, 7.0], "slice_thickness_mm": 7.0},
        }
    )
    cases = [write_case(root, spec, index) for index in range(n_cases)]
    rng = np.random.default_rng(seed)
    chosen = rng.choice(n_cases, len(KINDS), replace=False)
    planted = []
    for index, kind in zip(chosen, KINDS, strict=True):
        organ = str(rng.choice(list(VALUES)))
        spoil(cases[index], organ, kind)
        planted.append((cases[index].name, organ, kind))
    return planted


def spoil(case: PhantomCase, organ: str, kind: str) -> None:
    """Write a label file with an error of this kind in this organ."""
    file, value = nib.load(case.label), VALUES[organ]
    labels: npt.NDArray[Any] = np.asarray(file.dataobj).copy()
    mask = labels == value
    labels[mask] = 0
    if kind == "missing part":
        mask = _without_top(mask)
    elif kind == "wrong side":
        mask = np.flip(mask, axis=0)
    elif kind == "leaked neighbour":
        mask |= np.asarray(nib.load(case.withheld).dataobj) == NEIGHBOURS[organ]
    if kind != "missing organ":
        labels[mask] = value
    nib.save(nib.Nifti1Image(labels, file.affine), case.label)


def _without_top(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return a mask without the upper two fifths of its slices, as if somebody had stopped drawing."""
    at = np.flatnonzero(mask.any(axis=(0, 1)))
    kept = mask.copy()
    kept[:, :, at[0] + int(0.6 * len(at)) :] = False
    return kept


if __name__ == "__main__":
    main()
