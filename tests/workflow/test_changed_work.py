"""After a change exactly the work that depends on it is done again, and nothing else.

What counts is which artefacts are made again: a job that finds its work standing returns without making anything.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .project import SPLITS, Project, copy_of, dataset_section, make_project, write_case, write_dataset, write_splits

TABLES = ["metrics.csv"]
NEW_METHOD = '''
"""A baseline that is new: as naive_union, with another title."""

from mskd.methods.naive_union import build as build

TITLE = "New baseline"
TRAINS = True
NEEDS = []
'''


@dataclass(frozen=True)
class Change:
    """A change and what it makes.

    Attributes:
        name: What is changed.
        apply: Does it.
        made: Patterns of the artefacts that are made again, or for the first time; every other stands.
    """

    name: str
    apply: Callable[[Project], object]
    made: list[str]


def set_key(*keys: str, value: Any) -> Callable[[Project], None]:
    def apply(project: Project) -> None:
        def change(study: dict[str, Any]) -> None:
            section = study
            for key in keys[:-1]:
                section = section.setdefault(key, {})
            section[keys[-1]] = value

        project.edit_study(change)

    return apply


def add_case(project: Project) -> None:
    write_case(project.root / "data" / "liver", "liver", 3)
    write_splits(project.root, "liver", [*SPLITS, "train"])


def add_dataset(project: Project) -> None:
    write_dataset(project.root / "data", "kidney")
    write_splits(project.root, "kidney", SPLITS)

    def change(study: dict[str, Any]) -> None:
        study["organs"].append("kidney")
        study["datasets"]["kidney"] = dataset_section("kidney")

    project.edit_study(change)


def touch_raw_file(project: Project) -> None:
    os.utime(project.root / "data" / "liver" / "imagesTr" / "liver_0.nii.gz")


def change_raw_file(project: Project) -> None:
    write_case(project.root / "data" / "liver", "liver", 0, shift=25.0)


def add_method_file(project: Project) -> None:
    (project.root / "mskd" / "methods" / "new_baseline.py").write_text(NEW_METHOD)


def edit_evaluation(project: Project) -> None:
    project.edit_code("evaluation/metrics.py", "dice = 2.0 * int(", "dice = 1.0 * 2 * int(")


def edit_comments(project: Project) -> None:
    for path in (project.root / "mskd").rglob("*.py"):
        path.write_text("# a comment\n" + path.read_text())


CHANGES = [
    Change(
        "student learning rate",
        set_key("methods", "mskd", "training", "learning_rate", value=0.02),
        ["models/mskd", "predictions/mskd/*", "scores/mskd/*", *TABLES],
    ),
    Change(
        "one teacher's learning rate",
        set_key("teachers", value={"liver": {"training": {"learning_rate": 0.02}}, "spleen": {}}),
        [
            "models/teachers/liver",
            "cache/liver/*",
            *(f"{kind}/{method}*" for kind in ("models", "predictions", "scores") for method in ("mskd", "individual")),
            *TABLES,
        ],
    ),
    Change("evaluation tolerance", set_key("evaluation", "nsd_tolerance_mm", value=9.0), ["scores/*", *TABLES]),
    Change("a line of code in the evaluation", edit_evaluation, ["scores/*", *TABLES]),
    Change("a comment in every module", edit_comments, []),
    Change(
        "a new case",
        add_case,
        [
            "prepared/liver/liver_3",
            "models/teachers/liver",
            "cache/liver/*",
            "cache/spleen/liver/liver_3",
            *(f"models/{method}" for method in ("mskd", "individual", "naive_union")),
            "predictions/*",
            "scores/*",
            *TABLES,
        ],
    ),
    Change(
        "a new dataset with a new organ",
        add_dataset,
        [
            "prepared/kidney/*",
            "models/teachers/kidney",
            "cache/kidney/*",
            "cache/*/kidney/*",
            *(f"models/{method}" for method in ("mskd", "individual", "naive_union")),
            "predictions/*",
            "scores/*",
            *TABLES,
        ],
    ),
    Change("a touched, identical raw file", touch_raw_file, []),
    Change(
        "a changed raw file",
        change_raw_file,
        [
            "prepared/liver/liver_0",
            "models/teachers/liver",
            "cache/liver/*",
            "cache/spleen/liver/liver_0",
            *(f"models/{method}" for method in ("mskd", "individual", "naive_union")),
            "predictions/*",
            "scores/*",
            *TABLES,
        ],
    ),
    Change("a new method file that no study names", add_method_file, []),
    Change(
        "a new row of the table",
        set_key("methods", "again", value={"kind": "naive_union"}),
        ["models/again", "predictions/again/*", "scores/again/*", *TABLES],
    ),
]


def test_a_finished_study_has_every_artefact(finished: Project) -> None:
    found = finished.artefacts()
    assert len([name for name in found if name.startswith("cache/")]) == 2 * 2 * 2  # teachers × datasets × training
    assert {name for name in found if name.startswith("models/")} == {
        "models/teachers/liver",
        "models/teachers/spleen",
        "models/individual",
        "models/naive_union",
        "models/mskd",
    }
    assert finished.scheduled() == {}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name.replace(" ", "-"))
def test_exactly_the_changed_work_is_done_again(finished: Project, change: Change, tmp_path: Path) -> None:
    project = copy_of(finished, tmp_path)
    before, predicted = project.artefacts(), project.predictions()
    change.apply(project)
    project.snakemake()
    after = project.artefacts()
    made = {name for name in after if before.get(name) != after[name]}
    expected = {name for name in after if any(fnmatch(name, pattern) for pattern in change.made)}
    if "predictions/*" in change.made:  # where a new network says the same, there is nothing to score again
        same = {name for name, content in project.predictions().items() if predicted.get(name) == content}
        expected -= {name.replace("predictions/", "scores/") for name in same}
    assert made == expected
    assert all(any(fnmatch(name, pattern) for name in made) for pattern in change.made)
    assert project.scheduled() == {}


def test_a_large_touched_file_schedules_jobs_that_make_nothing(finished: Project, tmp_path: Path) -> None:
    """Snakemake compares checksums only up to a size (1 MB by default); above, content keys keep what stands."""
    project = copy_of(finished, tmp_path)
    everything_is_large = ["--max-checksum-file-size", "1"]
    before = {name: made for name, made in project.artefacts().items() if name != "metrics.csv"}
    content = (project.results / "metrics.csv").read_bytes()
    touch_raw_file(project)
    assert project.scheduled(*everything_is_large)
    project.snakemake(*everything_is_large)
    after = {name: made for name, made in project.artefacts().items() if name != "metrics.csv"}
    assert after == before
    assert (project.results / "metrics.csv").read_bytes() == content


def test_two_runs_from_scratch_are_identical(finished: Project, tmp_path: Path) -> None:
    again = make_project(tmp_path / "project")
    again.snakemake()
    for name in ("metrics.csv", "tables/comparison.csv", "tables/comparison.md", "tables/comparison.tex"):
        assert (again.results / name).read_bytes() == (finished.results / name).read_bytes()
    for path in sorted(finished.results.glob("manifests/**/*.json")):
        assert (again.results / path.relative_to(finished.results)).read_bytes() == path.read_bytes()


def test_a_study_takes_nothing_from_the_demo(finished: Project) -> None:
    snapshot = next((finished.results / "config").glob("*.yaml")).read_text()
    assert "multi_organ" not in snapshot


def test_shapes_of_the_written_data(finished: Project) -> None:
    import nibabel as nib

    prediction = nib.load(next(finished.results.glob("predictions/mskd/*/liver/*/liver_2.nii.gz")))
    raw = nib.load(finished.root / "data" / "liver" / "imagesTr" / "liver_2.nii.gz")
    assert prediction.shape == raw.shape
    np.testing.assert_allclose(prediction.affine, raw.affine)


def test_a_job_on_a_cluster_takes_the_study_that_its_run_began_with(finished: Project, tmp_path: Path) -> None:
    """Such a job parses the workflow again, maybe hours later, when the study file was edited for the next run."""
    project = copy_of(finished, tmp_path)
    (snapshot,) = (project.results / "config").glob("*.yaml")
    set_key("training", "learning_rate", value=0.5)(project)
    parsed = ["--configfile", "config/tiny.yaml", "--cores", "1", "--dry-run", "--mode", "remote"]

    def said(environment: dict[str, str]) -> str:
        done = project.run(sys.executable, "-m", "snakemake", *parsed, environment=environment)
        return done.stdout + done.stderr

    assert "train_teacher" in said({})
    assert "Nothing to be done" in said({"MSKD_STUDY_SNAPSHOT": str(snapshot)})
    assert "train_teacher" in project.snakemake("--dry-run").stdout  # a run of its own begins with what stands there
