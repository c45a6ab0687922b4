"""One finished study that all workflow tests start from."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from filelock import FileLock

from .project import Project, make_project


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a project whose tiny study is done; tests work on copies of it, and of pytest's workers one makes it."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with FileLock(folder / "finished.lock"):
        return _made_once(folder / "finished")


def _made_once(folder: Path) -> Project:
    project = Project(folder / "project")
    if (folder / "done").exists():
        return project
    shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed at it
    make_project(project.root).snakemake()
    (folder / "done").touch()
    return project
