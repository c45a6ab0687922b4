"""A cluster for all tests of this folder, and a study to run on it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.workflow.project import Project, make_project

from .cluster import Cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A running cluster; everything that it started is stopped afterwards."""
    if missing := Cluster.missing():
        pytest.skip(f"Slurm is not installed ({', '.join(missing)}): apt-get install slurm-wlm slurm-client munge")
    if os.getuid() != 0:
        pytest.skip("the cluster's daemons need root")
    with tempfile.TemporaryDirectory(prefix="slurm") as folder:  # a short path: sockets have no long ones
        started = Cluster(Path(folder))
        try:
            started.start()
            yield started
        finally:
            started.stop()


def make_slurm_project(root: Path) -> Project:
    """Write a small study: two datasets, two methods, one block each."""
    project = make_project(root)
    (root / "slurm").symlink_to("profiles/slurm")

    def smaller(study: dict[str, object]) -> None:
        study["methods"] = {"individual": {}, "mskd": {}}
        for dataset in study["datasets"].values():  # type: ignore[attr-defined]
            dataset["blocks"] = 1

    project.edit_study(smaller)
    return project


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The study, run on this machine without a cluster and without a fault."""
    project = make_slurm_project(tmp_path_factory.mktemp("undisturbed") / "project")
    project.snakemake()
    return project
