"""How many processes a job starts: as many as it gets GPUs."""

from __future__ import annotations

import re
from typing import Any

import pytest

from .project import Project, make_project

pytestmark = pytest.mark.xdist_group("gpus")  # one worker, so that the module's study is made once


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = make_project(tmp_path_factory.mktemp("gpus") / "project")

    def more_gpus(study: dict[str, Any]) -> None:
        study["training"] |= {"batch_size": 4, "gpus": 2, "workers": 3}
        study["methods"]["mskd"] = {"training": {"gpus": 4}}
        study["inference"]["gpus"] = 3

    project.edit_study(more_gpus)
    return project


def jobs(project: Project, *arguments: str) -> dict[str, set[tuple[int, int]]]:
    """Return rule → processes and cores of its jobs, from a dry run; training the method mskd stands by itself."""
    done = project.snakemake("--cores", "64", "--dry-run", "--printshellcmds", *arguments)
    found: dict[str, set[tuple[int, int]]] = {}
    for rule, job in re.findall(r"^rule (\w+):\n(.+?)\n\n", done.stdout, re.MULTILINE | re.DOTALL):
        if command := re.search(r" -m mskd .* --processes (\d+) ", job):
            cores = re.search(r"^ +threads: (\d+)", job, re.MULTILINE)
            name = f"{rule} mskd" if rule == "train_student" and "method=mskd" in job else rule
            found.setdefault(name, set()).add((int(command[1]), int(cores[1]) if cores else 1))
    return found


def test_the_study_says_how_many(project: Project) -> None:
    assert jobs(project) == {
        "train_teacher": {(2, 2 * 4)},  # a thread and three readers each
        "train_student": {(2, 2 * 4), (1, 2 * 4)},  # individual is only put together
        "train_student mskd": {(4, 4 * 4)},
        "cache_targets": {(3, 3)},
        "predict": {(3, 3)},
    }


def test_no_more_than_are_granted(project: Project) -> None:
    assert {processes for found in jobs(project, "--resources", "gpu=1").values() for processes, _ in found} == {1}
    found = jobs(project, "--set-resources", "train_teacher:gpu=0")
    assert found["train_teacher"] == {(0, 8)}
    assert found["predict"] == {(3, 3)}
