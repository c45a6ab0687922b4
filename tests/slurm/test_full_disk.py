"""The shared disk is full: nothing that was complete is lost, and with room the same command finishes the study."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.workflow.project import Project

from .cluster import Cluster
from .conftest import Record
from .runs import failed_s, make_slurm_project, slurm, still, tables

MB = 1024 * 1024


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 MB; `leave` makes it smaller and larger."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no disk of a chosen size can be made here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def leave(disk: Path, room: int) -> None:
    """Resize the disk so that so many bytes are free."""
    state = os.statvfs(disk)
    used = (state.f_blocks - state.f_bfree) * state.f_frsize
    subprocess.run(["mount", "-o", f"remount,size={used + room}", str(disk)], check=True)


@pytest.mark.parametrize("room_kb", [150, 500, 1000])  # in the first jobs, in the middle, in the last
def test_a_full_disk(
    cluster: Cluster, undisturbed: Project, disk: Path, done: set[str], room_kb: int, record: Record
) -> None:
    project = make_slurm_project(disk / "project")
    leave(disk, room_kb * 1024)
    said = slurm(project, "--retries", "0", check=False)
    assert not (project.results / "report" / "index.html").exists()
    logs = [path.read_text(errors="replace") for path in project.results.glob("logs/**/*.log")]
    assert "No space left on device" in said + "".join(logs), said
    before = project.artefacts()
    leave(disk, 64 * MB)
    slurm(project)
    assert still(project, before) == before
    assert tables(project) == tables(undisturbed)
    record("shared disk full", failed_s([job for job in cluster.jobs() if job.id not in done]))
