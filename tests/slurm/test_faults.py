"""What goes wrong on clusters: after each fault the study is finished, and its tables are those of a run without it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.workflow.project import Project

from .cluster import Cluster, wait_for
from .conftest import LONG, SOME_SECONDS, Begin, Record
from .runs import (
    CHECKPOINT_EVERY,
    NEVER,
    documented,
    failed_s,
    lost_s,
    make_slurm_project,
    resumed_after,
    saved_by_the_dead,
    slurm,
    still,
    tables,
    trained_rows,
    training_under_way,
    trainings,
)

BEYOND_A_MINUTE = 12_000  # steps; Slurm knows no shorter limit


def states(cluster: Cluster, done: set[str]) -> list[str]:
    """Return the states of this test's jobs."""
    return [job.fields["JobState"] for job in cluster.jobs() if job.id not in done]


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        (["scancel"], "job killed (scancel)"),  # SIGTERM, and SIGKILL after KillWait
        (["scancel", "--signal=TERM"], "job told to stop (SIGTERM)"),
        (["scancel", "--signal=USR1"], "job told to stop (SIGUSR1)"),
    ],
)
def test_a_job_that_is_told_to_stop_loses_no_step(
    cluster: Cluster,
    undisturbed_long: Project,
    tmp_path: Path,
    done: set[str],
    command: list[str],
    fault: str,
    record: Record,
    begin: Begin,
) -> None:
    # with a reading process, which Slurm signals too
    project = make_slurm_project(tmp_path / "project", LONG, checkpoint_every=NEVER, workers=1)
    run = begin(project)
    job = training_under_way(project, cluster, done, checkpoint=False)
    before = project.artefacts()
    subprocess.run([*command, job.id], check=True)
    step = saved_by_the_dead(project, job)
    rows = trained_rows(project)
    code, said = run.finish()
    assert code == 0, said
    assert resumed_after(project) == [step]
    first, second = trainings(cluster, done)
    assert first.fields["JobState"] == ("CANCELLED" if command == ["scancel"] else "FAILED")
    assert second.fields["JobState"] == "COMPLETED"
    assert still(project, before) == before
    assert tables(project) == tables(undisturbed_long)
    record(fault, lost_s(rows, step))


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


@pytest.mark.parametrize(
    ("grace_s", "fault", "ends"),
    [
        (0, "preempted by Slurm (requeued)", [("COMPLETED", 1)]),
        # where it has time to end by itself it has failed for Slurm, and Snakemake starts the next
        (20, "preempted by Slurm (GraceTime)", [("FAILED", 0), ("COMPLETED", 0)]),
    ],
)
def test_a_job_that_slurm_preempts(
    cluster: Cluster,
    undisturbed_student: Project,
    tmp_path: Path,
    done: set[str],
    grace_s: int,
    fault: str,
    ends: list[tuple[str, int]],
    record: Record,
    begin: Begin,
) -> None:
    project = make_slurm_project(tmp_path / "project", student_steps=SOME_SECONDS, checkpoint_every=NEVER)
    run = begin(project)
    with cluster.grace("gpu", grace_s):
        job = training_under_way(project, cluster, done, checkpoint=False)
        before = project.artefacts()
        urgent = cluster.submit("--partition=urgent", "--gpus=2", "--wrap=sleep 600")
        step = saved_by_the_dead(project, job)
    rows = trained_rows(project)
    subprocess.run(["scancel", urgent], check=True)
    code, said = run.finish()
    assert code == 0, said
    assert [(job.fields["JobState"], job.restarts) for job in trainings(cluster, done)] == ends
    assert resumed_after(project) == [step]
    assert still(project, before) == before
    assert tables(project) == tables(undisturbed_student)
    record(fault, lost_s(rows, step))


def test_a_node_that_crashes(
    cluster: Cluster, undisturbed_long: Project, tmp_path: Path, done: set[str], record: Record, begin: Begin
) -> None:
    project = make_slurm_project(tmp_path / "project", LONG)
    run = begin(project)
    job = training_under_way(project, cluster, done)
    before = project.artefacts()
    cluster.crash("g1")
    wait_for(lambda: job.id in {j.id for j in cluster.jobs() if j.restarts}, "the controller to notice", seconds=90)
    rows = trained_rows(project)
    cluster.start_node("g1")
    code, said = run.finish()
    assert code == 0, said
    (same,) = trainings(cluster, done)  # Slurm queued it again, and Snakemake started none beside it
    assert (same.id, same.restarts, same.fields["JobState"]) == (job.id, 1, "COMPLETED")
    (step,) = resumed_after(project)
    assert step >= CHECKPOINT_EVERY
    assert still(project, before) == before
    assert tables(project) == tables(undisturbed_long)
    record("node crashed (daemon and job killed)", lost_s(rows, step))


def test_snakemake_itself_is_killed(
    cluster: Cluster, undisturbed_long: Project, tmp_path: Path, done: set[str], record: Record, begin: Begin
) -> None:
    project = make_slurm_project(tmp_path / "project", LONG)
    run = begin(project)
    training_under_way(project, cluster, done)
    before = project.artefacts()
    run.kill()
    project.run("bash", "-c", documented("Snakemake itself is killed"))
    assert not cluster.jobs("RUNNING", "COMPLETING", "PENDING")  # nothing writes beside the second run
    rows = trained_rows(project)
    slurm(project)
    assert still(project, before) == before
    assert tables(project) == tables(undisturbed_long)
    record("Snakemake itself killed (SIGKILL)", lost_s(rows, resumed_after(project)[-1]))


def test_a_time_limit_in_the_middle_of_a_training(
    cluster: Cluster, tmp_path: Path, done: set[str], record: Record, begin: Begin
) -> None:
    expected = make_slurm_project(tmp_path / "expected", student_steps=BEYOND_A_MINUTE)
    expected.snakemake()
    project = make_slurm_project(tmp_path / "project", student_steps=BEYOND_A_MINUTE)
    run = begin(project)
    job = training_under_way(project, cluster, done)
    before = project.artefacts()
    subprocess.run(["scontrol", "update", f"JobId={job.id}", "TimeLimit=1"], check=True)
    wait_for(lambda: "TIMEOUT" in states(cluster, done), "the time limit", seconds=240)
    rows = trained_rows(project)
    code, said = run.finish()
    assert code == 0, said
    assert any(step >= CHECKPOINT_EVERY for step in resumed_after(project))
    assert still(project, before) == before
    assert tables(project) == tables(expected)
    record("time limit in a training", lost_s(rows, resumed_after(project)[-1]))
