"""A finished study grows: a teacher joins, one is replaced, an organ is split. What stands is not made again."""

from __future__ import annotations

import json
import shutil
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from .project import AFFINE, Project, copy_of, make_project, write_case

pytestmark = pytest.mark.xdist_group("growing")  # one worker, so that the module's study is made once

STUDENT = ["models/mskd", "predictions/mskd/*", "scores/mskd/*", "metrics.csv"]
RUN = "fold0-seed0"


def two_halves(project: Project) -> None:
    """Give the liver two values, so that it can be split; both are the liver for now."""
    for path in (project.root / "data/liver/labelsTr").glob("*.nii.gz"):
        label = np.asarray(nib.load(path).dataobj).copy()
        label[:, 7:] *= 2
        nib.save(nib.Nifti1Image(label, AFFINE), path)


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A finished study of two trained teachers and one student, and segmentations of every scan by another tool."""
    project = make_project(tmp_path_factory.mktemp("growing") / "project")
    two_halves(project)

    def smaller(study: dict[str, Any]) -> None:
        study["methods"] = {"naive_union": {}, "mskd": {}}
        study["datasets"]["liver"]["label_map"] = {1: "liver", 2: "liver"}
        study["teachers"] = {"liver": {}, "spleen": {}}
        for dataset in study["datasets"].values():
            dataset["blocks"] = 1

    project.edit_study(smaller)
    project.snakemake()
    for organ in ("liver", "spleen"):
        for path in (project.root / "data" / organ / "imagesTr").glob("*.nii.gz"):
            if path.name.startswith(f"{organ}_2"):  # a test case, which no teacher is asked about
                continue
            seen = np.zeros((16, 16, 16), np.uint8)
            seen[5:9, 4:10, 4:10] = 5  # where every scan has its spleen
            target = project.root / "data/seen" / organ / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(seen, AFFINE), target)
    shutil.copytree(project.results / "models/teachers/spleen" / RUN, project.root / "data/better")
    return project


def made_by(project: Project, change: Any) -> tuple[set[str], set[str]]:
    """Apply a change to the study and run it; return what was made, and everything."""
    before = project.artefacts()
    project.edit_study(change)
    project.snakemake()
    assert project.scheduled() == {}
    after = project.artefacts()
    return {name for name in after if before.get(name) != after[name]}, set(after)


def expect(made: set[str], everything: set[str], patterns: list[str]) -> None:
    assert made == {name for name in everything if any(fnmatch(name, pattern) for pattern in patterns)}
    assert all(any(fnmatch(name, pattern) for name in made) for pattern in patterns)


def test_a_case_that_comes_while_a_run_is_on_waits_for_the_next(grown: Project, tmp_path: Path) -> None:
    project = copy_of(grown, tmp_path)
    project.edit_study(lambda study: study["datasets"]["spleen"].update(split={"kind": "hash", "val_fraction": 0}))
    for index in range(3, 8):
        write_case(project.root / "data/spleen", "spleen", index)
    project.snakemake("--until", "prepare")
    snapshot = max((project.results / "config").glob("*.yaml"), key=lambda path: path.stat().st_mtime_ns)
    for index in range(8, 12):
        write_case(project.root / "data/spleen", "spleen", index)
    name = str(snapshot.relative_to(project.root))
    done = project.run(
        sys.executable, "-m", "mskd", "train-teacher", "--study", name, "--teacher", "spleen", "--run", RUN
    )
    assert "came to the data after prepare, the next run takes them: spleen/spleen_" in done.stderr
    project.snakemake("--until", "prepare")
    (manifest,) = (project.results / "manifests/prepare/spleen").glob("*.json")
    assert len(json.loads(manifest.read_text())["entries"]) == 12


def test_a_teacher_joins(grown: Project, tmp_path: Path) -> None:
    project = copy_of(grown, tmp_path)

    def join(study: dict[str, Any]) -> None:
        study["teachers"]["seen"] = {
            "kind": "labels",
            "path": "data/seen",
            "files": "{dataset}/{case}.nii.gz",
            "classes": {5: "spleen"},
        }

    made, everything = made_by(project, join)
    expect(made, everything, ["cache/seen/*", *STUDENT])
    assert "Conflicts between teachers" in (project.results / "report/index.html").read_text()
    said = "".join(path.read_text() for path in (project.results / "logs/train_student/mskd").glob("*.log"))
    assert "no features of seen" in said


def test_a_teacher_is_replaced_by_a_better_one(grown: Project, tmp_path: Path) -> None:
    project = copy_of(grown, tmp_path)

    def replace(study: dict[str, Any]) -> None:
        study["teachers"]["spleen"] = {"kind": "mskd", "path": "data/better", "classes": {"spleen": "spleen"}}

    made, everything = made_by(project, replace)
    expect(made, everything, ["cache/spleen/given/*", *STUDENT])


def test_an_organ_is_split_in_two(grown: Project, tmp_path: Path) -> None:
    project = copy_of(grown, tmp_path)

    def split(study: dict[str, Any]) -> None:
        study["organs"] = ["liver", "spleen", "liver_right"]  # the new one last: the others keep their numbers
        study["datasets"]["liver"]["label_map"] = {1: "liver", 2: "liver_right"}

    made, everything = made_by(project, split)
    of_liver = ["prepared/liver/*", "models/teachers/liver", "cache/liver/*"]
    students = ["models/naive_union", "models/mskd", "predictions/*", "scores/*", "metrics.csv"]
    expect(made, everything, [*of_liver, *students])
    # the scans are the same, so what the other teacher says of them stands
    assert not {name for name in made if name.startswith(("cache/spleen", "models/teachers/spleen"))}


def test_status_tells_what_is_stale(grown: Project, tmp_path: Path) -> None:
    project = copy_of(grown, tmp_path)

    def status() -> dict[str, Any]:
        found = project.run(sys.executable, "-m", "mskd", "status", "config/tiny.yaml", "--json")
        said: dict[str, Any] = json.loads(found.stdout)
        return said

    before = status()
    assert before["stale"] == []
    project.edit_study(lambda study: study["methods"]["mskd"].update(training={"learning_rate": 0.03}))
    after = status()
    assert after["stages"] == [
        {**stage, "stale": {"train_student": 1, "predict": 2, "evaluate": 2, "tabulate": 1}.get(stage["stage"], 0)}
        for stage in before["stages"]
    ]
    why = {stale["name"]: stale["why"] for stale in after["stale"]}
    assert "params" in why["train_student mskd fold0-seed0"]
    assert why["tabulate"] == "follows"


@pytest.mark.parametrize("kind", ["mskd", "nnunetv2", "monai_bundle", "onnx"])
def test_a_teacher_that_is_not_there_is_an_error_without_a_traceback(grown: Project, tmp_path: Path, kind: str) -> None:
    project = copy_of(grown, tmp_path)
    second = {"kind": kind, "path": "data/nowhere", "classes": {1: "spleen"}}
    project.edit_study(lambda study: study["teachers"].update(second=second))
    done = project.snakemake("--dry-run", check=False)
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "data/nowhere" in said
    assert "Traceback" not in said
