"""The small study through `snakemake --profile slurm`, exactly as typed, on a real cluster."""

from __future__ import annotations

from pathlib import Path

from tests.workflow.project import Project

from .cluster import Cluster
from .runs import make_slurm_project, slurm, tables

GPU_RULES = {"train_teacher", "fit_projection", "cache_targets", "train_student", "predict"}
CPU_RULES = {"check_data", "prepare", "compare_teachers", "evaluate"}


def test_the_study_runs_through_the_profile(
    cluster: Cluster, undisturbed: Project, tmp_path: Path, done: set[str]
) -> None:
    project = make_slurm_project(tmp_path / "project")
    slurm(project)
    assert tables(project) == tables(undisturbed)
    jobs = [job for job in cluster.jobs() if job.id not in done]
    assert {job.fields["JobState"] for job in jobs} == {"COMPLETED"}
    assert {job.rule for job in jobs} == GPU_RULES | CPU_RULES  # the others run where Snakemake does
    for job in jobs:
        assert job.fields["Partition"] == ("gpu" if job.rule in GPU_RULES else "cpu")
        assert job.gpus == (1 if job.rule in GPU_RULES else 0)
        assert 1000 < job.memory_mb < (9000 if job.rule == "check_data" else 4000)  # it looks at eight scans at a time
        assert job.fields["Requeue"] == "1"
    assert "Nothing to be done" in slurm(project)
