"""A damaged scan among good ones: the workflow stops before it computes, or goes on without it and says so."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from .project import Project, copy_of, make_project


def damage(project: Project, organ: str, case: str) -> bytes:
    """Cut a scan in half; return what it was."""
    path = project.root / "data" / organ / "imagesTr" / f"{case}.nii.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return whole


def skip(study: dict[str, Any]) -> None:
    study["on_bad_case"] = "skip"


@pytest.fixture
def fresh(tmp_path: Path) -> Project:
    return make_project(tmp_path / "project")


def test_nothing_is_computed_before_the_data_is_in_order(fresh: Project) -> None:
    damage(fresh, "spleen", "spleen_1")
    damage(fresh, "liver", "liver_2")
    done = fresh.snakemake(check=False)
    said = done.stdout + done.stderr
    assert done.returncode != 0
    for name in ("liver_2", "spleen_1"):  # one run names both
        assert f"{name}.nii.gz" in said
    assert "on_bad_case: skip" in said
    assert not (fresh.results / "prepared").exists()


def test_the_study_goes_on_without_bad_cases_and_says_so(fresh: Project, finished: Project) -> None:
    learned, tested = damage(fresh, "spleen", "spleen_1"), damage(fresh, "liver", "liver_2")
    fresh.edit_study(skip)
    fresh.snakemake()
    text = (fresh.results / "tables" / "comparison.md").read_text()
    assert "liver/liver\\_2" in text
    assert "spleen/spleen\\_1" in text
    assert "Left out" in (fresh.results / "report" / "index.html").read_text()
    scored = pd.read_csv(fresh.results / "metrics.csv")
    assert set(scored["case"]) == {"spleen_2"}
    assert not list((fresh.results / "prepared").glob("*/*/liver_2.zarr"))
    info = fresh.run(sys.executable, "-m", "mskd", "cache", "verify", "config/tiny.yaml")
    assert "every store is whole and current" in info.stdout

    # mended files come back, and the tables are those of a study that never had a fault
    for organ, case, whole in (("spleen", "spleen_1", learned), ("liver", "liver_2", tested)):
        (fresh.root / "data" / organ / "imagesTr" / f"{case}.nii.gz").write_bytes(whole)
    fresh.snakemake()
    ours, theirs = (project.results / "metrics.csv" for project in (fresh, finished))
    assert ours.read_bytes() == theirs.read_bytes()
    assert "Left out" not in (fresh.results / "tables" / "comparison.md").read_text()


def test_a_case_without_its_label_is_left_out_too(finished: Project, tmp_path: Path) -> None:
    project = copy_of(finished, tmp_path)
    (project.root / "data" / "liver" / "labelsTr" / "liver_2.nii.gz").unlink()
    done = project.snakemake(check=False)
    assert done.returncode != 0
    assert "liver_2" in done.stdout + done.stderr
    project.edit_study(skip)
    project.snakemake()
    assert "liver/liver\\_2" in (project.results / "tables" / "comparison.md").read_text()
    assert set(pd.read_csv(project.results / "metrics.csv")["case"]) == {"spleen_2"}


def test_no_training_case_left_is_an_error(fresh: Project) -> None:
    for case in ("spleen_0", "spleen_1"):
        damage(fresh, "spleen", case)
    fresh.edit_study(skip)
    done = fresh.snakemake(check=False)
    assert done.returncode != 0
    assert "every training case was left out" in done.stdout + done.stderr
