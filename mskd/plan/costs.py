"""From jobs, sizes of scans and unit costs to the time, disk and memory of every job. Pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import ceil, prod

from mskd.cases import Case, by_block, held_out, is_part
from mskd.dag import Graph
from mskd.inference import study_windows
from mskd.methods.registry import method_facts
from mskd.plan.jobs import Job
from mskd.plan.kept import kept_gib
from mskd.plan.units import InferenceUnits, Units
from mskd.plan.volumes import ScanSize, Triple
from mskd.stages.fit_projection import FITTED_CASES

TABLES_S, FIGURE_S = 3.0, 0.5  # tabulate: imports, tables and the page; each box plot and overlay (not measured)
TABLES_MIB = 500.0
OVERLAYS = 4


@dataclass(frozen=True)
class Cost:
    """What one job costs.

    Attributes:
        time_s: Seconds.
        disk_bytes: Bytes that it leaves on disk.
        memory_mib: Peak memory.
        gpu_memory_mib: Peak memory on a GPU; 0 for jobs that use none.
    """

    time_s: float
    disk_bytes: float
    memory_mib: float
    gpu_memory_mib: float = 0.0


class Costs:
    """Costs of the jobs of a study."""

    def __init__(self, graph: Graph, sizes: dict[str, ScanSize], units: Units) -> None:
        """Take together.

        Args:
            graph: Jobs and cases.
            sizes: Size of every scan by case id.
            units: Unit costs.
        """
        self.graph, self.study, self.sizes, self.units = graph, graph.study, sizes, units
        self._windows: dict[Triple, int] = {}

    def of(self, job: Job) -> Cost:
        """Return the cost of a job."""
        cost: Cost = getattr(self, f"_{job.stage}")(*job.parts)
        return cost

    @cached_property
    def _kept_gib(self) -> dict[str, float]:
        return kept_gib(self.graph, self.sizes, self.units.volumes.body_share)

    def _shape(self, case: Case) -> Triple:
        return self.sizes[case.id].prepared(self.study, self.units.volumes.body_share)

    def _mvoxels(self, case: Case) -> float:
        return prod(self._shape(case)) / 1e6

    def _count_windows(self, case: Case) -> int:
        shape = self._shape(case)
        if shape not in self._windows:
            self._windows[shape] = len(study_windows(self.study).starts(shape))
        return self._windows[shape]

    def _make_phantoms(self, dataset: str) -> Cost:
        unit, cases = self.units.volumes, self.graph.cases(dataset)
        raw = [self.sizes[case.id].raw_mvoxels for case in cases]
        return Cost(
            unit.start_s + unit.phantom_s[dataset] * sum(raw),
            unit.phantom_bytes * sum(raw) * 1e6,
            unit.memory_mib + unit.phantom_mib * max(raw, default=0),
        )

    def _check_data(self, study: str) -> Cost:
        del study
        unit = self.units.volumes
        raw = [self.sizes[case.id].raw_mvoxels for case in self.graph.every_case()]
        # mostly unpacking scan and label, as scoring does twice
        return Cost(unit.start_s + unit.read_s * sum(raw), 0.0, unit.memory_mib + unit.evaluate_mib * max(raw))

    def _prepare(self, dataset: str, block: str) -> Cost:
        unit, cases = self.units.volumes, by_block(self.graph.cases(dataset))[block]
        both = [self.sizes[case.id].raw_mvoxels + self.sizes[case.id].full_mvoxels for case in cases]
        stored = sum(self._mvoxels(case) for case in cases) * 1e6
        return Cost(
            unit.start_s + unit.prepare_s * sum(both),
            unit.prepared_bytes * stored,
            unit.memory_mib + unit.prepare_mib * max(both),
        )

    def _train_teacher(self, teacher: str, run: str) -> Cost:
        return self._training(f"teacher/{teacher}", run, [self.study.teacher_dataset(teacher)])

    def _adopt_teacher(self, teacher: str, run: str) -> Cost:
        del teacher, run
        return Cost(self.units.start_s, 0.0, self.units.predict.memory_mib)

    def _compare_teachers(self, run: str) -> Cost:
        unit, wanted = self.units.volumes, self.study.cache.splits
        cases = [c for name in self.graph.training for c in self.graph.cases(name, run) if c.split in wanted]
        mvoxels = [self._mvoxels(case) * len(self.study.teachers) for case in cases]
        # decoding margins is about as much work as unpacking a scan
        return Cost(unit.start_s + unit.read_s * sum(mvoxels), 0.0, unit.memory_mib + 20 * max(mvoxels, default=0))

    def _train_student(self, method: str, run: str) -> Cost:
        if method_facts(self.study.method_kind(method)).trains:
            return self._training(f"method/{method}", run, self.graph.training)
        members = sum(self.units.parameters[f"teacher/{name}"] for name in self.study.trained_teachers)
        return Cost(self.units.start_s, 4 * members, self.units.predict.memory_mib)

    def _training(self, name: str, run: str, datasets: list[str]) -> Cost:
        kind, _, row = name.partition("/")
        section = self.study.teacher_training(row) if kind == "teacher" else self.study.method_training(row)
        unit, window = self.units.training[name], self.units.predict.window_s
        checked = [
            case
            for dataset in datasets
            for case in [c for c in self.graph.cases(dataset, run) if c.split == "val"][: section.validation_cases]
        ]
        validation_s = window * sum(self._count_windows(case) for case in checked)
        times = ceil(section.steps / section.validate_every)
        kept_mib = min(section.ram_cache_gib, self._kept_gib[name]) * 1024 * max(1, section.workers)
        beside = method_facts(self.study.method_kind(row)).companions if kind == "method" else {}
        learning, following = 1 + beside.get("learning", 0), beside.get("following", 0)
        states = (2 if section.optimiser == "adamw" else 1) * learning + (1 if section.ema_decay else 0)
        checkpoint = 1 + learning + following + states  # with the best
        copies = 1 + (checkpoint if section.steps > section.checkpoint_every else 0)
        return Cost(
            self.units.start_s + unit.fixed_s + section.steps * unit.step_s + times * validation_s,
            4 * self.units.parameters[name] * copies,
            unit.memory_mib + kept_mib,
            unit.gpu_memory_mib,
        )

    def _fit_projection(self, teacher: str, run: str) -> Cost:
        cases = [case for case in self.graph.cases(self.study.teacher_dataset(teacher), run) if case.split == "train"]
        return self._inference(self.units.cache, cases[:FITTED_CASES], [], 1)

    def _cache_targets(self, teacher: str, run: str, dataset: str, block: str) -> Cost:
        wanted, section = self.study.cache.splits, self.study.teachers[teacher]
        of_dataset = self.graph.cases(dataset, run)
        asked = held_out(self.study, run, of_dataset) if is_part(run) else [c for c in of_dataset if c.split in wanted]
        cases = self.graph.asked(dataset, block) if section.given else by_block(asked).get(block, [])
        voxels = [self._mvoxels(case) for case in cases]
        # of a network that exists already only its answers are known: it is taken to cost what the study's own do
        cost = self._inference(self.units.cache, cases, voxels, 0 if section.kind == "labels" else 1)
        stored = self.units.cache_bytes * sum(voxels) * 1e6
        return Cost(cost.time_s, stored, cost.memory_mib, cost.gpu_memory_mib)

    def _predict(self, method: str, run: str, dataset: str, block: str) -> Cost:
        cases = [case for case in by_block(self.graph.cases(dataset, run))[block] if case.split == "test"]
        passes = 1 if method_facts(self.study.method_kind(method)).trains else len(self.study.teachers)
        raw = [self.sizes[case.id].raw_mvoxels for case in cases]
        cost = self._inference(self.units.predict, cases, raw, passes)
        stored = self.units.volumes.prediction_bytes * sum(raw) * 1e6
        return Cost(cost.time_s, stored, cost.memory_mib, cost.gpu_memory_mib)

    def _inference(self, unit: InferenceUnits, cases: list[Case], mvoxels: list[float], passes: int) -> Cost:
        windows = sum(self._count_windows(case) for case in cases)
        return Cost(
            self.units.start_s + passes * unit.window_s * windows + unit.mvoxel_s * sum(mvoxels),
            0.0,
            unit.memory_mib + unit.mvoxel_mib * max((self._mvoxels(case) for case in cases), default=0),
            unit.gpu_memory_mib,
        )

    def _evaluate(self, method: str, run: str, dataset: str) -> Cost:
        del method
        unit, section = self.units.volumes, self.study.datasets[dataset]
        known = section.withheld_label_map if self.study.evaluation.withheld and section.withheld else None
        organs = len(set(known.values()) if known else section.labelled_organs)
        raw = [self.sizes[case.id].raw_mvoxels for case in self.graph.cases(dataset, run) if case.split == "test"]
        per_mvoxel_s = unit.read_s + organs * unit.organ_s
        return Cost(unit.start_s + per_mvoxel_s * sum(raw), 0.0, unit.memory_mib + unit.evaluate_mib * max(raw))

    def _tabulate(self) -> Cost:
        figures = len({dataset for dataset, _ in self.graph.tested()}) + OVERLAYS
        return Cost(TABLES_S + FIGURE_S * figures, 0.0, TABLES_MIB)
