"""Does it matter in which form a teacher comes? One student taught by trained teachers, one by the same in four kinds.

Takes a finished study of four trained teachers (`config/phantom_few_cases.yaml`) and teaches the same student anew: its
liver teacher is trained again, the spleen's is its model folder (`mskd`), the kidney's its export (`onnx`), and the
pancreas's is what it segments in the training scans (`labels`). So the teachers are of equal quality; what differs is
what they can say: three of them give no features, one of them no probabilities.

    python benchmarks/given_teachers.py --study config/phantom_few_cases.yaml --cores 2
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import pandas as pd
import yaml

from mskd.config.loading import load_study
from mskd.config.study import Study
from mskd.layout import Layout
from mskd.provenance import made_by
from mskd.stages.inputs import cases_of, training_datasets
from mskd.storage import write_json

RUN = "fold0-seed0"
RESULTS = Path(__file__).parent / "results/given_teachers.json"


def main() -> None:
    """Write the study of given teachers, run it, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--study", type=Path, default=Path("config/phantom_few_cases.yaml"))
    parser.add_argument("--cores", default="2")
    options = parser.parse_args()
    study = load_study(options.study)
    name = f"{study.study}_given"
    path = Path("results") / f"{name}.yaml"
    section: dict[str, Any] = yaml.safe_load(options.study.read_text(encoding="utf-8"))
    section |= {"study": name, "methods": {"mskd": {}}, "runs": {"seeds": [0]}, "teachers": teachers(study)}
    path.write_text(yaml.safe_dump(section, sort_keys=False), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "snakemake", "--configfile", str(path), "--cores", options.cores], check=True)
    rows = {"trained": dice(study), "given": dice(load_study(path))}
    difference = {organ: round(rows["given"][organ] - rows["trained"][organ], 2) for organ in rows["trained"]}
    write_json(RESULTS, {"dice": rows, "difference": difference, "run": RUN, "made_by": made_by()})
    print(json.dumps({"dice": rows, "difference": difference}, indent=1))


def teachers(study: Study) -> dict[str, Any]:
    """Bring three of the trained teachers into other forms; return the section `teachers`."""
    layout, made = Layout(study.root), Path("results") / f"{study.study}_given_teachers"
    folders = {organ: layout.teacher(organ, RUN) for organ in ("spleen", "kidney", "pancreas")}
    if not (made / "kidney").is_dir():
        export = [sys.executable, "-m", "mskd", "export", "-m", str(folders["kidney"]), "-o", str(made / "kidney")]
        subprocess.run(export, check=True)
    segmented(study, folders["pancreas"], made / "pancreas")
    return {
        "liver": {},
        "spleen": {"kind": "mskd", "path": str(folders["spleen"]), "classes": {"spleen": "spleen"}},
        "kidney": {"kind": "onnx", "path": str(made / "kidney/model.onnx"), "classes": {"kidney": "kidney"}},
        "pancreas": {
            "kind": "labels",
            "path": str(made / "pancreas"),
            "files": "{dataset}/{case}.nii.gz",
            "classes": {1: "pancreas"},
        },
    }


def segmented(study: Study, model: Path, target: Path) -> None:
    """Let a teacher segment every scan that the student learns from."""
    from mskd.models import load_model
    from mskd.prediction import segment

    loaded = load_model(model)
    value = loaded.labels["pancreas"]
    for case in cases_of(study, training_datasets(study), RUN, study.cache.splits):
        path = target / case.dataset / f"{case.name}.nii.gz"
        if path.is_file():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        found = segment(loaded, nib.load(case.image))
        nib.save(nib.Nifti1Image((found.get_fdata() == value).astype("uint8"), found.affine), path)


def dice(study: Study) -> dict[str, float]:
    """Return the student's Dice in % on the external cases, per organ and in the mean."""
    metrics = pd.read_csv(study.root / "metrics.csv") if (study.root / "metrics.csv").is_file() else _of_run(study)
    first = (metrics["fold"] == 0) & (metrics["seed"] == 0)
    chosen = metrics[(metrics["method"] == "mskd") & first & (metrics["role"] == "external")]
    means = 100 * chosen.groupby("organ")["dice"].mean()
    return {**{organ: round(float(means[organ]), 2) for organ in study.organs}, "mean": round(float(means.mean()), 2)}


def _of_run(study: Study) -> pd.DataFrame:
    """Return the scores of this run, where the rest of the study is not finished."""
    folder = study.root / "metrics/mskd" / RUN
    return pd.concat([pd.read_csv(path) for path in sorted(folder.glob("*.csv"))])


if __name__ == "__main__":
    main()
