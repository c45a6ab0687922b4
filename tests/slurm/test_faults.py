"""What goes wrong on clusters: after each fault the study is finished, and its tables are those of a run without it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.workflow.project import Project

from .cluster import Cluster, wait_for
from .conftest import LONG, Record
from .runs import (
    CHECKPOINT_EVERY,
    Running,
    failed_s,
    lost_s,
    make_slurm_project,
    resumed_after,
    rows_of_the_dead,
    slurm,
    tables,
    trained_rows,
    training_under_way,
)

BEYOND_A_MINUTE = 12_000  # steps; Slurm knows no shorter limit


def states(cluster: Cluster, done: set[str]) -> list[str]:
    """Return the states of this test's jobs."""
    return [job.fields["JobState"] for job in cluster.jobs() if job.id not in done]


@pytest.mark.parametrize("name", ["KILL", "TERM", "USR1"])
def test_a_job_that_is_killed_or_preempted_goes_on_from_its_checkpoint(
    cluster: Cluster, undisturbed_long: Project, tmp_path: Path, done: set[str], name: str, record: Record
) -> None:
    project = make_slurm_project(tmp_path / "project", LONG)
    run = Running(project)
    job = training_under_way(project, cluster, "train_student", done)
    if name == "KILL":
        subprocess.run(["scancel", job.id], check=True)
    else:
        subprocess.run(["scancel", f"--signal={name}", job.id], check=True)
    rows = rows_of_the_dead(project, cluster, job)
    code, said = run.finish()
    assert code == 0, said
    assert any(step >= CHECKPOINT_EVERY for step in resumed_after(project))
    assert set(states(cluster, done)) - {"COMPLETED"}  # one attempt at least did not end well
    assert tables(project) == tables(undisturbed_long)
    record(
        "job killed (scancel)" if name == "KILL" else f"preempted (SIG{name})", lost_s(rows, resumed_after(project)[-1])
    )


def test_a_job_that_needs_more_memory_gets_it(
    cluster: Cluster, undisturbed: Project, tmp_path: Path, done: set[str], record: Record
) -> None:
    project = make_slurm_project(tmp_path / "project")
    said = slurm(project, "--set-resources", "train_student:mem_mb=200 * attempt ** 2")
    assert said.count("Error in rule train_student") >= 1
    jobs = [job for job in cluster.jobs() if job.id not in done and job.rule == "train_student"]
    assert {job.fields["JobState"] for job in jobs} >= {"FAILED", "COMPLETED"}
    assert tables(project) == tables(undisturbed)
    record("out of memory before the first checkpoint", failed_s(jobs))


def test_a_node_that_crashes(
    cluster: Cluster, undisturbed_long: Project, tmp_path: Path, done: set[str], record: Record
) -> None:
    project = make_slurm_project(tmp_path / "project", LONG)
    run = Running(project)
    training_under_way(project, cluster, "train_student", done)
    cluster.crash("g1")
    wait_for(lambda: "NODE_FAIL" in states(cluster, done), "the controller to notice", seconds=90)
    rows = trained_rows(project)
    cluster.start_node("g1")
    code, said = run.finish()
    if code:  # the executor leaves a node out on which a job was lost; here there is only one with GPUs
        said = slurm(project)
    assert any(step >= CHECKPOINT_EVERY for step in resumed_after(project)), said
    assert tables(project) == tables(undisturbed_long)
    record("node crashed (daemon and job killed)", lost_s(rows, resumed_after(project)[-1]))


def test_snakemake_itself_is_killed(
    cluster: Cluster, undisturbed_long: Project, tmp_path: Path, done: set[str], record: Record
) -> None:
    project = make_slurm_project(tmp_path / "project", LONG)
    run = Running(project)
    job = training_under_way(project, cluster, "train_student", done)
    before = project.artefacts()
    run.kill()
    # the one line of docs/slurm.md
    subprocess.run(["scancel", "--me"], check=True)
    project.snakemake("--unlock")
    rows = rows_of_the_dead(project, cluster, job)
    wait_for(lambda: not cluster.jobs("RUNNING", "COMPLETING"), "the end of orphaned jobs")
    slurm(project)
    kept = {name: mark for name, mark in project.artefacts().items() if name in before}
    assert kept == before  # what was complete was not made again
    assert tables(project) == tables(undisturbed_long)
    record("Snakemake itself killed (SIGKILL)", lost_s(rows, resumed_after(project)[-1]))


def test_a_time_limit_in_the_middle_of_a_training(
    cluster: Cluster, tmp_path: Path, done: set[str], record: Record
) -> None:
    expected = make_slurm_project(tmp_path / "expected", student_steps=BEYOND_A_MINUTE)
    expected.snakemake()
    project = make_slurm_project(tmp_path / "project", student_steps=BEYOND_A_MINUTE)
    run = Running(project)
    job = training_under_way(project, cluster, "train_student", done)
    subprocess.run(["scontrol", "update", f"JobId={job.id}", "TimeLimit=1"], check=True)
    wait_for(lambda: "TIMEOUT" in states(cluster, done), "the time limit", seconds=240)
    rows = trained_rows(project)
    code, said = run.finish()
    assert code == 0, said
    assert any(step >= CHECKPOINT_EVERY for step in resumed_after(project))
    assert tables(project) == tables(expected)
    record("time limit in a training", lost_s(rows, resumed_after(project)[-1]))
