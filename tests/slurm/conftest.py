"""A cluster for all tests of this folder, and the study without any fault to compare with."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mskd.provenance import made_by
from tests.workflow.project import Project

from .cluster import PREFIX, Cluster
from .runs import Running, make_slurm_project

LONG = 400  # steps: some seconds of training, so that a fault finds one under way
SOME_SECONDS = 3000  # steps, until Slurm has come to preempt a job


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A running cluster; everything that it started is stopped afterwards."""
    if missing := Cluster.missing():
        pytest.skip(f"Slurm is not installed ({', '.join(missing)}): apt-get install slurm-wlm slurm-client munge")
    if os.getuid() != 0:
        pytest.skip("the cluster's daemons need root")
    if occupied := Cluster.occupied():
        pytest.skip(
            f"another Slurm is set up here ({', '.join(map(str, occupied))}); where tests that were killed left it:"
            " end their slurmd, slurmctld and munged"
        )
    with tempfile.TemporaryDirectory(prefix=PREFIX) as folder:  # a short path: sockets have no long ones
        started = Cluster(Path(folder))
        try:
            started.start()
            yield started
        finally:
            started.stop()


@pytest.fixture
def done(cluster: Cluster) -> set[str]:
    """The jobs of earlier tests."""
    return {job.id for job in cluster.jobs()}


Begin = Callable[[Project], Running]


@pytest.fixture
def begin() -> Iterator[Begin]:
    """Start runs in the background; those that a failing test leaves are ended, so that they disturb no other."""
    runs: list[Running] = []

    def started(project: Project) -> Running:
        runs.append(Running(project))
        return runs[-1]

    yield started
    for run in runs:
        run.end()


Record = Callable[[str, float], None]


@pytest.fixture
def record() -> Record:
    """Note what a fault cost, once the tables are known to be right; `make test-slurm-faults` gathers the rows."""

    def write(fault: str, lost_s: float) -> None:
        if target := os.environ.get("MSKD_FAULTS"):
            with Path(target).open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"fault": fault, "lost_s": round(lost_s, 3), "made_by": made_by()}) + "\n")

    return write


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The study, run on this machine without a cluster and without a fault."""
    project = make_slurm_project(tmp_path_factory.mktemp("undisturbed") / "project")
    project.snakemake()
    return project


@pytest.fixture(scope="session")
def undisturbed_long(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The same with longer trainings."""
    project = make_slurm_project(tmp_path_factory.mktemp("undisturbed_long") / "project", LONG)
    project.snakemake()
    return project


@pytest.fixture(scope="session")
def undisturbed_student(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The same with a longer training of the student alone."""
    project = make_slurm_project(tmp_path_factory.mktemp("undisturbed_student") / "project", student_steps=SOME_SECONDS)
    project.snakemake()
    return project
