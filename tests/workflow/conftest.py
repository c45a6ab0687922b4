"""One finished study that all workflow tests start from."""

from __future__ import annotations

import pytest

from .project import Project, make_project


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a project whose tiny study is done; tests work on copies of it."""
    project = make_project(tmp_path_factory.mktemp("finished") / "project")
    project.snakemake()
    return project
