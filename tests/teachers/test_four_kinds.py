"""The example of docs/teachers.md, run: four teachers of four kinds, from their files to the table by one command."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
import zarr

from mskd.config.phantom import PhantomDataset
from mskd.phantom.layouts import write_case
from mskd.provenance import file_digest
from tests.workflow.project import REPOSITORY, Project

from . import bundle
from .conftest import TrainedNnUNet
from .phantoms import SPACING_MM, label_map, write_scans

pytestmark = bundle.QUIET

EXAMPLE = re.compile(r"^```yaml\n(study: four_teachers.*?)^```", re.MULTILINE | re.DOTALL)
SMALL: dict[str, Any] = {
    "preprocessing": {"spacing_mm": [8.0, 8.0, 8.0]},
    "network": {"features": [4, 8]},
    "training": {
        "steps": 10,
        "batch_size": 1,
        "patch_size": [16, 16, 16],
        "threads": 1,
        "validation_cases": 0,
    },
    "cache": {"taps": ["decoder0"]},
    "inference": {"threads": 1},
}


def write_project(root: Path, trained: TrainedNnUNet) -> Project:
    """Lay out data and teachers where the page says, and its study with a smaller network and shorter training."""
    project = Project(root)
    for name in ("mskd", "workflow", "profiles"):
        shutil.copytree(REPOSITORY / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    text = EXAMPLE.search((REPOSITORY / "docs/teachers.md").read_text(encoding="utf-8"))
    assert text is not None
    study = yaml.safe_load(text[1]) | SMALL
    study["datasets"]["liver"]["split"] = {"val_fraction": 0, "test_fraction": 0.3}  # of five scans
    livers = write_scans(root / "data/Task03_Liver", "liver", 5, seed=9)
    for case in livers:
        label_map(case, root / study["teachers"]["seen"]["path"] / f"{case.name}.nii.gz", "pancreas")
    tested = PhantomDataset.model_validate(
        {"layout": "btcv", "organs": [], "seed": 3, "scanner": {"spacing_mm": SPACING_MM, "slice_thickness_mm": 5.0}}
    )
    for index in range(2):
        write_case(root / "data/btcv", tested, index)
    bundle.make(root / study["teachers"]["bundle"]["path"], write_scans(root / "kidneys", "kidney", 2), "kidney", 20)
    code = (root / study["teachers"]["bundle"]["path"] / "configs").glob("*.json")
    study["teachers"]["bundle"]["trust"] = {file_digest(path): True for path in code}
    shutil.copytree(trained.folder, root / study["teachers"]["nnunet"]["path"])
    own = {"python": str(trained.python), "checkpoint": "checkpoint_best.pth", "classes": {"liver": "spleen"}}
    study["teachers"]["nnunet"] |= own  # the tiny one was trained on livers; what it says is no matter here
    project.study_file.parent.mkdir()
    project.study_file.write_text(yaml.safe_dump(study, sort_keys=False))
    return project


def test_from_four_teachers_to_the_table(trained: TrainedNnUNet, tmp_path: Path) -> None:
    project = write_project(tmp_path / "project", trained)
    project.snakemake()
    assert project.scheduled() == {}
    results = project.root / "results/four_teachers"
    metrics = pd.read_csv(results / "metrics.csv")
    assert set(metrics["method"]) == {"naive_union", "mskd"}
    assert set(metrics["organ"]) == {"liver", "spleen", "kidney", "pancreas"}
    said = (results / "logs/train_student/mskd/fold0-seed0.log").read_text()
    assert "no features of nnunet, bundle, seen" in said
    report = (results / "report/index.html").read_text()
    assert all(kind in report for kind in ("nnunetv2", "monai_bundle", "labels", "Conflicts between teachers"))
    cached = {path.relative_to(results / "cache").parts[0] for path in results.glob("cache/**/zarr.json")}
    assert cached == {"liver", "nnunet", "bundle", "seen"}
    for teacher, tool in (("nnunet", "nnunetv2"), ("bundle", "monai")):
        store = next(results.glob(f"cache/{teacher}/**/*.zarr"))
        assert tool in zarr.open_group(store, mode="r").attrs["tool"]  # type: ignore[operator]
    shown = project.run(sys.executable, "-m", "mskd", "status", str(project.study_file), "--json")
    assert '"stale": []' in shown.stdout
