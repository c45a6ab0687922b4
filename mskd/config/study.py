"""The study: one configuration file and everything that it produces."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import field_validator, model_validator

from mskd.config.cache import Cache
from mskd.config.data import BACKGROUND, IGNORE, Dataset
from mskd.config.distillation import Distillation
from mskd.config.evaluation import Evaluation, Inference
from mskd.config.model import Network, Preprocessing
from mskd.config.section import Section, key
from mskd.config.training import Training

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
MAX_ORGANS = 200  # study labels are uint8 with 255 = ignore
AnySection = TypeVar("AnySection", bound=Section)


class Teacher(Section):
    """A network that owns the organs of one dataset."""

    kind: Literal["trained"] = key("trained", "trained: a network trained on one dataset of this study")
    dataset: str = key("", "dataset it is trained on; default: the teacher's own name")
    training: dict[str, Any] = key(dict, "keys of `training` that differ for this teacher")


class Method(Section):
    """One row of the comparison, or of the ablation."""

    kind: str = key("", "module of mskd/methods; default: the row's own name")
    table: Literal["comparison", "ablation"] = key("comparison", "the table that shows this row")
    training: dict[str, Any] = key(dict, "keys of `training` that differ for this row")
    distillation: dict[str, Any] = key(dict, "keys of `distillation` that differ for this row")


class Runs(Section):
    """Repetitions: every run has its own teachers."""

    seeds: list[int] = key(lambda: [0], "seeds; each is a run", min_length=1)
    folds: int = key(
        1, "1: the datasets' own splits; k > 1: k-fold cross-validation over the training datasets", ge=1
    )


class Study(Section):
    """A study file."""

    study: str = key("study", "name; results go to results/<study>/")
    title: str = key("", "one line for the report")
    results: Path = key(lambda: Path("results"), "folder that holds the studies' results")
    organs: list[str] = key(
        lambda: ["liver"],
        "organs of the student, in the order of its channels",
        min_length=1,
        max_length=MAX_ORGANS,
    )
    datasets: dict[str, Dataset] = key(dict, "the datasets by name")
    teachers: dict[str, Teacher] = key(dict, "the teachers by name; default: one per training dataset")
    methods: dict[str, Method] = key(
        lambda: {"individual": Method(), "mskd": Method()}, "rows of the tables by name", min_length=1
    )
    runs: Runs = key(Runs, "repetitions")
    preprocessing: Preprocessing = key(Preprocessing, "from raw scans to the study grid")
    network: Network = key(Network, "the network of teachers and students")
    training: Training = key(Training, "optimisation, sampling, augmentation")
    cache: Cache = key(Cache, "what is stored of the teachers' targets")
    distillation: Distillation = key(Distillation, "how the student learns from the targets")
    inference: Inference = key(Inference, "sliding window")
    evaluation: Evaluation = key(Evaluation, "scores")

    @field_validator("study")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        return _check_name("study", value)

    @field_validator("datasets", "teachers", "methods")
    @classmethod
    def _plain_names(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            _check_name("name", name)
        return value

    @field_validator("organs")
    @classmethod
    def _distinct(cls, value: list[str]) -> list[str]:
        if len(set(value)) != len(value) or {IGNORE, BACKGROUND} & set(value):
            raise ValueError(f"organs need distinct names other than ignore and background, found {value}")
        return value

    @model_validator(mode="before")
    @classmethod
    def _default_teachers(cls, data: Any) -> Any:
        if isinstance(data, dict) and not data.get("teachers") and isinstance(data.get("datasets"), dict):
            training = [
                n
                for n, d in data["datasets"].items()
                if isinstance(d, dict) and d.get("role", "train") == "train"
            ]
            return {**data, "teachers": {name: {"dataset": name} for name in training}}
        return data

    @model_validator(mode="after")
    def _consistent(self) -> Study:
        for name, dataset in self.datasets.items():
            named = [
                *dataset.label_map.values(),
                *dataset.withheld_label_map.values(),
                *dataset.structures.values(),
            ]
            named += dataset.organs or []
            for organ in named:
                if organ not in (*self.organs, IGNORE, BACKGROUND):
                    raise ValueError(
                        f"datasets.{name} maps to {organ!r}, which is no organ of this study; "
                        f"allowed: {', '.join([*self.organs, IGNORE, BACKGROUND])}. "
                        f"Write `organs: [{', '.join([*self.organs, organ])}]` or change the label_map"
                    )
        for name, teacher in self.teachers.items():
            source = teacher.dataset or name
            if source not in self.datasets:
                raise ValueError(
                    f"teachers.{name}.dataset is {source!r}, allowed: {', '.join(self.datasets)}. "
                    f"Write `teachers: {{{name}: {{dataset: {next(iter(self.datasets), 'liver')}}}}}`"
                )
            if self.datasets[source].role != "train":
                raise ValueError(
                    f"teachers.{name} learns from {source}, whose role is external; write `role: train` there"
                )
        self._check_sizes()
        for name in self.teachers:
            self.teacher_training(name)
        for name in self.methods:
            self.method_training(name)
            self._check_temperature(name)
        return self

    def _check_temperature(self, method: str) -> None:
        low, high = self.cache.temperatures
        temperature = self.method_distillation(method).temperature
        if not low <= temperature <= high:
            raise ValueError(
                f"methods.{method}: distillation.temperature is {temperature}, allowed: {low} to {high}, for which the "
                f"cache bounds its error; write `cache: {{temperatures: [{min(low, temperature)}, "
                f"{max(high, temperature)}]}}`"
            )

    def _check_sizes(self) -> None:
        stride = self.network.coarsest_stride
        for where, size in (
            ("training.patch_size", self.training.patch_size),
            ("inference.window", self.window),
        ):
            if any(n % s for n, s in zip(size, stride, strict=True)):
                better = [max(s, round(n / s) * s) for n, s in zip(size, stride, strict=True)]
                raise ValueError(
                    f"{where} is {list(size)}, allowed: multiples of the network's coarsest stride {list(stride)}; "
                    f"write `{where.split('.')[1]}: {better}`"
                )
        for tap in [*self.cache.taps, *(self.distillation.feature_taps or [])]:
            self.network.tap_level(tap)

    @property
    def window(self) -> tuple[int, int, int]:
        """Sliding window in voxels."""
        return self.inference.window or self.training.patch_size

    @property
    def root(self) -> Path:
        """Folder of everything that this study produces."""
        return self.results / self.study

    @property
    def run_names(self) -> list[str]:
        """`fold<f>-seed<s>` of every run."""
        return [f"fold{f}-seed{s}" for f in range(self.runs.folds) for s in self.runs.seeds]

    @property
    def label_values(self) -> dict[str, int]:
        """Organ → value in prepared labels and predictions."""
        return {organ: i for i, organ in enumerate(self.organs, start=1)}

    def teacher_dataset(self, teacher: str) -> str:
        """Return the dataset that a teacher is trained on."""
        return self.teachers[teacher].dataset or teacher

    def teacher_organs(self, teacher: str) -> list[str]:
        """Return the organs that a teacher owns, in the study's order."""
        labelled = self.datasets[self.teacher_dataset(teacher)].labelled_organs
        return [organ for organ in self.organs if organ in labelled]

    def method_kind(self, method: str) -> str:
        """Return the module of mskd/methods behind a row."""
        return self.methods[method].kind or method

    def teacher_training(self, teacher: str) -> Training:
        """Return the training section of a teacher, its own keys applied."""
        return _override(self.training, self.teachers[teacher].training, f"teachers.{teacher}.training")

    def method_training(self, method: str) -> Training:
        """Return the training section of a row, its own keys applied."""
        return _override(self.training, self.methods[method].training, f"methods.{method}.training")

    def method_distillation(self, method: str) -> Distillation:
        """Return the distillation section of a row, its own keys applied."""
        return _override(
            self.distillation, self.methods[method].distillation, f"methods.{method}.distillation"
        )


def _check_name(what: str, value: str) -> str:
    if not NAME.fullmatch(value):
        raise ValueError(
            f"{what} {value!r} may hold letters, digits, '_', '.', '-' and starts with a letter or digit"
        )
    return value


def _override(section: AnySection, changes: dict[str, Any], where: str) -> AnySection:
    if not changes:
        return section
    merged = section.model_dump()
    for name, value in changes.items():
        if name not in merged:
            raise ValueError(f"{where} has the unknown key {name!r}; allowed: {', '.join(merged)}")
        both = isinstance(value, dict) and isinstance(merged[name], dict)
        merged[name] = {**merged[name], **value} if both else value
    return type(section).model_validate(merged)
