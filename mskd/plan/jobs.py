"""The jobs of a study as the workflow would schedule them for an empty results folder; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mskd.dag import Graph

STAGES = (
    "make_phantoms",
    "check_data",
    "prepare",
    "train_teacher",
    "adopt_teacher",
    "fit_projection",
    "cache_targets",
    "compare_teachers",
    "train_student",
    "predict",
    "evaluate",
    "tabulate",
)


@dataclass(frozen=True)
class Job:
    """One job of the workflow.

    Attributes:
        stage: Its rule.
        parts: The rule's wildcards in the order of its output's path, for example (teacher, run).
        output: The file that says that it is done.
        log: Its log.
        inputs: Outputs of the jobs that it waits for.
    """

    stage: str
    parts: tuple[str, ...]
    output: Path
    log: Path
    inputs: tuple[Path, ...]

    @property
    def name(self) -> str:
        """`train_teacher liver fold0-seed0`."""
        return " ".join((self.stage, *self.parts))


def study_jobs(graph: Graph) -> list[Job]:
    """Return every job that the report needs, each after those that it waits for."""
    jobs: dict[Path, Job] = {}
    visited: set[Path] = set()
    waiting = [graph.layout.all_metrics]
    while waiting:
        output = waiting[-1]
        if output in visited:
            waiting.pop()
            if output not in jobs:
                jobs[output] = _job(graph, output)
            continue
        visited.add(output)
        waiting += [path for path in reversed(_job(graph, output).inputs) if path not in visited]
    return list(jobs.values())


def _job(graph: Graph, output: Path) -> Job:
    stage, parts = _stage_of(graph, output)
    log = graph.layout.root.joinpath("logs", stage, *parts)
    return Job(stage, parts, output, log.with_name(f"{log.name}.log"), tuple(_inputs(graph, stage, parts)))


def _stage_of(graph: Graph, output: Path) -> tuple[str, tuple[str, ...]]:
    root = graph.layout.root
    if output == graph.layout.all_metrics:
        return "tabulate", ()
    if output.is_relative_to(root / "manifests"):
        stage, *parts = output.relative_to(root / "manifests").parts
    else:
        stage, parts = "evaluate", list(output.relative_to(root / "metrics").parts)
    parts[-1] = parts[-1].removesuffix(output.suffix)
    return stage, tuple(parts)


def _inputs(graph: Graph, stage: str, parts: tuple[str, ...]) -> list[Path]:
    """Return what a rule of workflow/rules reads of other jobs."""
    layout = graph.layout
    made = layout.root / "manifests"
    if stage == "check_data":
        blocks = [(name, block) for name in graph.study.datasets for block in graph.blocks(name)]
        raw = [path for at in blocks for path in graph.raw_files(*at) if path.is_relative_to(made)]
        return list(dict.fromkeys(raw))
    if stage == "prepare":
        return [*(path for path in graph.raw_files(*parts) if path.is_relative_to(made)), graph.checked]
    if stage == "train_teacher":
        return graph.prepared(graph.study.teacher_dataset(parts[0]))
    if stage == "fit_projection":
        return [layout.manifest("train_teacher", *parts), *graph.prepared(graph.study.teacher_dataset(parts[0]))]
    if stage == "cache_targets":
        teacher, run, dataset, block = parts
        before = [graph.teacher(teacher, run), layout.manifest("prepare", dataset, block)]
        return [*before, *graph.projection(teacher, run)]
    if stage == "compare_teachers":
        return [*graph.targets(*parts), *graph.prepared(*graph.training)]
    if stage == "train_student":
        return graph.student_inputs(*parts)
    if stage == "predict":
        method, run, dataset, block = parts
        return [layout.manifest("train_student", method, run), layout.manifest("prepare", dataset, block)]
    if stage == "evaluate":
        return graph.predictions(*parts)
    if stage == "tabulate":
        return [*graph.metrics(), *(path for run in graph.study.run_names for path in graph.compared(run))]
    return []
