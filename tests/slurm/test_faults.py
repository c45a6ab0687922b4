"""What goes wrong on clusters: after each fault the study is finished, and its tables are those of a run without it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.workflow.project import Project

from .cluster import Cluster, wait_for
from .conftest import LONG
from .runs import (
    CHECKPOINT_EVERY,
    Running,
    make_slurm_project,
    resumed_after,
    slurm,
    tables,
    training_under_way,
)

BEYOND_A_MINUTE = 12_000  # steps; Slurm knows no shorter limit


@pytest.fixture
def done(cluster: Cluster) -> set[str]:
    """The jobs of earlier tests."""
    return {job.id for job in cluster.jobs()}


def states(cluster: Cluster, done: set[str]) -> list[str]:
    """Return the states of this test's jobs."""
    return [job.fields["JobState"] for job in cluster.jobs() if job.id not in done]


@pytest.mark.parametrize("name", ["KILL", "TERM", "USR1"])
def test_a_job_that_is_killed_or_preempted_goes_on_from_its_checkpoint(
    cluster: Cluster, undisturbed_long: Project, tmp_path: Path, done: set[str], name: str
) -> None:
    project = make_slurm_project(tmp_path / "project", LONG)
    run = Running(project)
    job = training_under_way(project, cluster, "train_student", done)
    if name == "KILL":
        subprocess.run(["scancel", job.id], check=True)
    else:
        subprocess.run(["scancel", f"--signal={name}", job.id], check=True)
    code, said = run.finish()
    assert code == 0, said
    assert any(step >= CHECKPOINT_EVERY for step in resumed_after(project))
    assert set(states(cluster, done)) - {"COMPLETED"}  # one attempt at least did not end well
    assert tables(project) == tables(undisturbed_long)


def test_a_job_that_needs_more_memory_gets_it(
    cluster: Cluster, undisturbed: Project, tmp_path: Path, done: set[str]
) -> None:
    project = make_slurm_project(tmp_path / "project")
    said = slurm(project, "--set-resources", "train_student:mem_mb=200 * attempt ** 2")
    assert said.count("Error in rule train_student") >= 1
    jobs = [job for job in cluster.jobs() if job.id not in done and job.rule == "train_student"]
    assert {job.fields["JobState"] for job in jobs} >= {"FAILED", "COMPLETED"}
    assert tables(project) == tables(undisturbed)


def test_a_node_that_crashes(cluster: Cluster, undisturbed_long: Project, tmp_path: Path, done: set[str]) -> None:
    project = make_slurm_project(tmp_path / "project", LONG)
    run = Running(project)
    training_under_way(project, cluster, "train_student", done)
    cluster.crash("g1")
    wait_for(lambda: "NODE_FAIL" in states(cluster, done), "the controller to notice", seconds=90)
    cluster.start_node("g1")
    code, said = run.finish()
    if code:  # the executor leaves a node out on which a job was lost; here there is only one with GPUs
        said = slurm(project)
    assert any(step >= CHECKPOINT_EVERY for step in resumed_after(project)), said
    assert tables(project) == tables(undisturbed_long)


def test_snakemake_itself_is_killed(
    cluster: Cluster, undisturbed_long: Project, tmp_path: Path, done: set[str]
) -> None:
    project = make_slurm_project(tmp_path / "project", LONG)
    run = Running(project)
    training_under_way(project, cluster, "train_student", done)
    before = project.artefacts()
    run.kill()
    # the one line of docs/slurm.md
    subprocess.run(["scancel", "--me"], check=True)
    project.snakemake("--unlock")
    wait_for(lambda: not cluster.jobs("RUNNING", "COMPLETING"), "the end of orphaned jobs")
    slurm(project)
    kept = {name: mark for name, mark in project.artefacts().items() if name in before}
    assert kept == before  # what was complete was not made again
    assert tables(project) == tables(undisturbed_long)


def test_a_time_limit_in_the_middle_of_a_training(cluster: Cluster, tmp_path: Path, done: set[str]) -> None:
    expected = make_slurm_project(tmp_path / "expected", student_steps=BEYOND_A_MINUTE)
    expected.snakemake()
    project = make_slurm_project(tmp_path / "project", student_steps=BEYOND_A_MINUTE)
    run = Running(project)
    job = training_under_way(project, cluster, "train_student", done)
    subprocess.run(["scontrol", "update", f"JobId={job.id}", "TimeLimit=1"], check=True)
    code, said = run.finish()
    assert code == 0, said
    assert "TIMEOUT" in states(cluster, done)
    assert any(step >= CHECKPOINT_EVERY for step in resumed_after(project))
    assert tables(project) == tables(expected)
