"""The study: one configuration file and everything that it produces."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import ValidationError, field_validator, model_validator

from mskd.config.cache import Cache
from mskd.config.consistency import faults_in
from mskd.config.data import BACKGROUND, IGNORE, Dataset
from mskd.config.distillation import Distillation
from mskd.config.evaluation import Evaluation, Inference, Statistics
from mskd.config.faults import Fault, FaultsError, faults_of
from mskd.config.model import Network, Preprocessing
from mskd.config.section import Section, key
from mskd.config.teachers import Teacher
from mskd.config.training import Training
from mskd.methods.registry import method_facts, method_kinds

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
NAMES = "letters, digits, '_', '.' and '-', the first a letter or digit"
GIVEN = "given"  # the run of teachers that exist already
MAX_ORGANS = 200  # study labels are uint8 with 255 = ignore
AnySection = TypeVar("AnySection", bound=Section)


class Method(Section):
    """One row of the comparison, or of the ablation."""

    kind: str = key("", "module of mskd/methods; default: the row's own name", example="mskd")
    table: Literal["comparison", "ablation"] = key("comparison", "the table that shows this row")
    training: dict[str, Any] = key(
        dict, "keys of `training` that differ for this row", example={"learning_rate": 0.005}
    )
    distillation: dict[str, Any] = key(
        dict, "keys of `distillation` that differ for this row", example={"temperature": 2.0}
    )


class Runs(Section):
    """Repetitions: every run has its own teachers."""

    seeds: list[int] = key(lambda: [0], "distinct seeds ≥ 0; each is a run with its own teachers", min_length=1)
    parts: int = key(
        2,
        "where targets are cross_fitted: each teacher is trained again without one part of its training cases, for "
        "every part, and says its targets of that part",
        unit="parts",
        ge=2,
    )
    folds: int = key(1, "1: the datasets' own splits; k > 1: k-fold cross-validation over the training datasets", ge=1)


class Study(Section):
    """A study file."""

    study: str = key("study", "name; results go to results/<study>/", example="my_study")
    title: str = key("", "one line for the report", example="Liver and spleen from two datasets")
    results: Path = key(lambda: Path("results"), "folder that holds the studies' results")
    organs: list[str] = key(
        lambda: ["liver"],
        "organs of the student, in the order of its channels",
        min_length=1,
        max_length=MAX_ORGANS,
    )
    datasets: dict[str, Dataset] = key(
        dict,
        "the datasets by name; at least one whose role is train, and every organ is labelled by one of those",
        example={"liver": {"adapter": "msd", "path": "/data/Task03_Liver", "label_map": {1: "liver"}}},
    )
    teachers: dict[str, Teacher] = key(
        dict, "the teachers by name; default: one per training dataset", example={"liver": {"dataset": "liver"}}
    )
    methods: dict[str, Method] = key(
        lambda: {"individual": Method(), "mskd": Method()}, "rows of the tables by name", min_length=1
    )
    on_bad_case: Literal["stop", "skip"] = key(
        "stop",
        "stop: a case that `mskd check-data` finds errors in stops the workflow before it computes; skip: it goes on "
        "without such cases and says so under the tables",
    )
    longest_job_min: int = key(
        24 * 60,
        "longest run time that a job asks a scheduler for; a site's limit stands in its profile (docs/slurm.md). A "
        "training that takes longer goes on in its next attempt",
        unit="min",
        ge=1,
    )
    runs: Runs = key(Runs, "repetitions")
    preprocessing: Preprocessing = key(Preprocessing, "from raw scans to the study grid")
    network: Network = key(Network, "the network of teachers and students")
    training: Training = key(Training, "optimisation, sampling, augmentation")
    cache: Cache = key(Cache, "what is stored of the teachers' targets")
    distillation: Distillation = key(Distillation, "how the student learns from the targets")
    inference: Inference = key(Inference, "sliding window")
    evaluation: Evaluation = key(Evaluation, "scores")
    statistics: Statistics = key(Statistics, "intervals and tests in the tables")

    @field_validator("study")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if not NAME.fullmatch(value):
            raise FaultsError(Fault("", value, NAMES, _plain(value)))
        return value

    @field_validator("datasets", "teachers", "methods")
    @classmethod
    def _plain_names(cls, value: dict[str, Any]) -> dict[str, Any]:
        if bad := [name for name in value if not NAME.fullmatch(name)]:
            keys = {name: value[name].model_dump(mode="json", exclude_unset=True) for name in bad}
            raise FaultsError(*(Fault("", n, NAMES, {_plain(n): keys[n]}, "found the name") for n in bad))
        return value

    @field_validator("organs")
    @classmethod
    def _distinct(cls, value: list[str]) -> list[str]:
        if len(set(value)) != len(value) or {IGNORE, BACKGROUND} & set(value):
            better = [organ for organ in dict.fromkeys(value) if organ not in (IGNORE, BACKGROUND)]
            raise FaultsError(Fault("", value, "distinct names other than ignore and background", better))
        return value

    @model_validator(mode="before")
    @classmethod
    def _default_teachers(cls, data: Any) -> Any:
        if isinstance(data, dict) and not data.get("teachers") and isinstance(data.get("datasets"), dict):
            training = [
                n for n, d in data["datasets"].items() if isinstance(d, dict) and d.get("role", "train") == "train"
            ]
            return {**data, "teachers": {name: {"dataset": name} for name in training}}
        return data

    @model_validator(mode="after")
    def _consistent(self) -> Study:
        if found := faults_in(self):
            raise FaultsError(*found)
        return self

    @property
    def window(self) -> tuple[int, int, int]:
        """Sliding window in voxels."""
        return self.inference.window or self.training.patch_size

    @property
    def root(self) -> Path:
        """Folder of everything that this study produces."""
        return self.results / self.study

    @property
    def cache_root(self) -> str:
        """Folder or URL of the study's target stores."""
        return f"{self.cache.root.rstrip('/')}/{self.study}" if self.cache.root else str(self.root / "cache")

    @property
    def run_names(self) -> list[str]:
        """`fold<f>-seed<s>` of every run."""
        return [f"fold{f}-seed{s}" for f in range(self.runs.folds) for s in self.runs.seeds]

    @property
    def cross_fits(self) -> bool:
        """Whether any row learns from cross-fitted targets."""
        return any(self.method_cross_fits(method) for method in self.methods)

    def method_cross_fits(self, method: str) -> bool:
        """Return whether a row learns from cross-fitted targets."""
        facts = method_facts(self.method_kind(method))
        return "targets" in facts.needs and self.method_distillation(method).targets == "cross_fitted"

    def method_weighs(self, method: str) -> bool:
        """Return whether a row weights the teachers of an organ by their validation Dice."""
        facts = method_facts(self.method_kind(method))
        wanted = self.method_distillation(method).combine == "validation_dice"
        return {"targets", "distillation"} <= facts.needs and wanted

    def part_runs(self, run: str) -> list[str]:
        """`fold<f>-seed<s>-part<p>` of every part of a run."""
        return [f"{run}-part{part}" for part in range(self.runs.parts)]

    @property
    def label_values(self) -> dict[str, int]:
        """Organ → value in prepared labels and predictions."""
        return {organ: i for i, organ in enumerate(self.organs, start=1)}

    @property
    def trained_teachers(self) -> list[str]:
        """Teachers that this study trains, each on one of its datasets."""
        return [name for name, teacher in self.teachers.items() if not teacher.given]

    def teacher_dataset(self, teacher: str) -> str:
        """Return the dataset that a teacher of this study is trained on."""
        return self.teachers[teacher].dataset or teacher

    def teacher_organs(self, teacher: str) -> list[str]:
        """Return the organs that a teacher owns, in the study's order."""
        section = self.teachers[teacher]
        owned = set(section.classes.values()) if section.given else self._labelled(self.teacher_dataset(teacher))
        return [organ for organ in self.organs if organ in owned]

    def teacher_covers(self, teacher: str, dataset: str) -> bool:
        """Return whether a teacher is asked about a training dataset."""
        chosen = self.teachers[teacher].datasets
        return chosen is None or dataset in chosen

    def teacher_run(self, teacher: str, run: str) -> str:
        """Return the run under which a teacher's targets lie: one that exists already is asked once for all runs."""
        return GIVEN if self.teachers[teacher].given else run

    def teacher_runs(self, teacher: str) -> list[str]:
        """Return every run under which a teacher has targets, its part runs too where a row cross-fits."""
        if self.teachers[teacher].given:
            return [GIVEN]
        parts = [part for run in self.run_names for part in self.part_runs(run)]
        return self.run_names + (parts if self.cross_fits else [])

    def teacher_stage(self, teacher: str) -> str:
        """Return the stage that makes a teacher ready: `train_teacher`, or `adopt_teacher` of one that exists."""
        return "adopt_teacher" if self.teachers[teacher].given else "train_teacher"

    def _labelled(self, dataset: str) -> set[str]:
        return set(self.datasets[dataset].labelled_organs)

    @property
    def labelled_sets(self) -> list[list[int]]:
        """Every different set of organs (0 … K − 1, ascending) that a training dataset labels, once."""
        training = [dataset.labelled_organs for dataset in self.datasets.values() if dataset.role == "train"]
        found = {tuple(i for i, organ in enumerate(self.organs) if organ in labelled) for labelled in training}
        return [list(organs) for organs in sorted(found) if organs]

    def method_kind(self, method: str) -> str:
        """Return the module of mskd/methods behind a row."""
        return self.methods[method].kind or method

    def teacher_training(self, teacher: str) -> Training:
        """Return the training section of a teacher, its own keys applied."""
        return _override(self.training, self.teachers[teacher].training, ("teachers", teacher, "training"))

    def method_training(self, method: str) -> Training:
        """Return the training section of a row, its own keys applied."""
        return _override(self.training, self.methods[method].training, ("methods", method, "training"))

    def method_distillation(self, method: str) -> Distillation:
        """Return the distillation section of a row: its own keys come first, then the method's own defaults."""
        kind, own = self.method_kind(method), self.methods[method].distillation
        defaults = method_facts(kind).distillation if kind in method_kinds() else {}
        return _override(self.distillation, {**defaults, **own}, ("methods", method, "distillation"))


def _plain(name: str) -> str:
    """Return a name without the characters that names may not hold."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("_.-") or "my_name"


def _override(section: AnySection, changes: dict[str, Any], where: tuple[str, ...]) -> AnySection:
    if not changes:
        return section
    merged = section.model_dump()
    for name, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = {**merged[name], **value} if both else value
    try:
        return type(section).model_validate(merged)
    except ValidationError as error:
        raise FaultsError(*(fault.below(where) for fault in faults_of(error, type(section)))) from None
