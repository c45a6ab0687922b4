"""From raw files in every layout to tables: `mskd init` writes the study, one command runs it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from tests.made_layouts import write_layouts

from .project import STUDY, make_project

TINY = ("preprocessing", "network", "training", "cache", "inference")


def test_from_raw_files_to_tables(tmp_path: Path) -> None:
    project = make_project(tmp_path / "project")
    layouts = write_layouts(project.root / "raw")
    command = [sys.executable, "-m", "mskd", "init", "raw", "raw/table/cases.tsv", "-o", "config/raw.yaml", "--yes"]
    project.run(*command)
    file = project.root / "config" / "raw.yaml"
    study: dict[str, Any] = yaml.safe_load(file.read_text())
    assert sorted(dataset["adapter"] for dataset in study["datasets"].values()) == layouts
    study.update({key: STUDY[key] for key in TINY}, methods={"individual": {}, "naive_union": {}})
    file.write_text(yaml.safe_dump(study, sort_keys=False))
    project.run(sys.executable, "-m", "snakemake", "--configfile", "config/raw.yaml", "--cores", "2")
    metrics = pd.read_csv(project.root / "results" / "raw" / "metrics.csv")
    for name, dataset in study["datasets"].items():
        rows = metrics[metrics["dataset"] == name]
        meant = {*dataset.get("label_map", {}).values(), *dataset.get("structures", {}).values()}
        present = set(rows[rows["status"].isin(["scored", "missed"])]["organ"])
        assert present == meant & set(study["organs"]), name
        assert set(rows["method"]) == {"individual", "naive_union"}
    assert (project.root / "results" / "raw" / "report" / "index.html").is_file()
