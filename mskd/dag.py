"""What the workflow has to know of a study: which jobs there are, and which files each depends on.

The graph is static: cases are known when the workflow is parsed. Imports nothing heavy.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from mskd.cache.settings import cache_settings
from mskd.cases import (
    Case,
    block_count,
    by_block,
    check_study_cases,
    fold_of_run,
    has_logits_alone,
    held_out,
    is_part,
    list_cases,
)
from mskd.config.data import Dataset
from mskd.config.loading import dump_study
from mskd.config.study import GIVEN, Study
from mskd.datasets.folders import files_below
from mskd.errors import ConfigError
from mskd.layout import Layout
from mskd.leaves import Leaves
from mskd.methods.registry import MethodFacts, method_facts
from mskd.provenance import content_key
from mskd.storage import write_text
from mskd.teachers.registry import model_files, wanted_files


class Graph:
    """Jobs of a study and their dependencies, as lists of paths."""

    def __init__(self, study: Study) -> None:
        """Read the cases of every dataset.

        Raises:
            ConfigError: If a dataset to train on has no training case.
        """
        check_study_cases(study)
        self.study, self.layout = study, Layout(study.root)
        self._cases = {
            (name, fold): list_cases(study, name, fold) for name in study.datasets for fold in range(study.runs.folds)
        }
        self._of_block = {name: by_block(self._cases[name, 0]) for name in study.datasets}

    def check_names(self) -> None:
        """Refuse paths that Snakemake would take for patterns.

        Raises:
            ConfigError: Names the first one.
        """
        cases = (case for of_dataset in self._cases.values() for case in of_dataset)
        paths = (path for case in cases for path in (case.image, *(label.path for label in case.labels)))
        for path in (self.layout.root, *paths):
            if set(str(path)) & set("{}"):
                raise ConfigError(
                    f"{path}: Snakemake reads braces in a path as a wildcard\n"
                    "  way out: rename the folder or the file, or reach it through a symbolic link"
                )

    def snapshot(self) -> Path:
        """Write the whole configuration, defaults included, under a name made of its content; jobs read this file.

        A study file that is edited while jobs run does not change them, nor does a case that comes to a dataset: the
        number of blocks is written down.
        """
        datasets = {
            name: section.model_copy(update={"blocks": block_count(self.study, name, len(self.cases(name)))})
            for name, section in self.study.datasets.items()
        }
        text = dump_study(self.study.model_copy(update={"datasets": datasets}))
        path = self.layout.root / "config" / f"{content_key(text=text)[:12]}.yaml"
        if not path.is_file():
            write_text(path, text)
        return path

    def cases(self, dataset: str, run: str = "fold0-seed0") -> list[Case]:
        """Return the cases of a dataset in a run."""
        return self._cases[dataset, fold_of_run(run)]

    def of_block(self, dataset: str, block: str) -> list[Case]:
        """Return the cases of a block."""
        return self._of_block[dataset].get(block, [])

    def blocks(self, dataset: str, run: str = "fold0-seed0", *splits: str) -> list[str]:
        """Return the blocks that hold cases of some splits (default: any)."""
        return list(by_block([case for case in self.cases(dataset, run) if not splits or case.split in splits]))

    @property
    def training(self) -> list[str]:
        """Datasets that students learn from."""
        return [name for name, dataset in self.study.datasets.items() if dataset.role == "train"]

    @cache  # noqa: B019 - one graph per process
    def tested(self) -> list[tuple[str, str]]:
        """Return (dataset, run) pairs that have test cases."""
        return [
            (dataset, run)
            for dataset in self.study.datasets
            for run in self.study.run_names
            if any(case.split == "test" for case in self.cases(dataset, run))
        ]

    def facts(self, method: str) -> MethodFacts:
        """Return what a row's method says of itself."""
        return method_facts(self.study.method_kind(method))

    def raw_files(self, dataset: str, block: str) -> list[Path]:
        """Return what preparing a block reads: raw files, or the manifest of the phantoms."""
        if self.section(dataset).phantom is not None:
            return [self.layout.manifest("make_phantoms", dataset)]
        cases = self.of_block(dataset, block)
        withheld = [case.withheld for case in cases if case.withheld is not None]
        # A folder (a DICOM series) is given by its files: its own time does not change with what they hold.
        scans = [file for case in cases for file in (files_below(case.image) if case.image.is_dir() else [case.image])]
        return scans + [label.path for case in cases for label in case.labels] + withheld

    def segmentations(self) -> list[Path]:
        """Return the segmentations that teach and that are there: checking the data looks at them too."""
        found = [
            path
            for teacher in self.study.teachers
            for dataset in self.training
            if self.study.teacher_covers(teacher, dataset)
            for block in self.blocks(dataset)
            for path in self._segmentations(teacher, dataset, block)
        ]
        return list(dict.fromkeys(found))

    def _segmentations(self, teacher: str, dataset: str, block: str) -> list[Path]:
        """Return what a teacher reads of a block's cases beside their scans; what is missing, check_data says."""
        if not self.study.teachers[teacher].given:
            return []
        wanted = wanted_files(self.study.teachers[teacher], self.asked(dataset, block))
        return [path for _, path in wanted if path.is_file()]

    def asked(self, dataset: str, block: str) -> list[Case]:
        """Return the cases of a block that teachers which exist already are asked about: those of every fold."""
        splits = self.study.cache.splits
        asked = {c.id for (name, _), of in self._cases.items() if name == dataset for c in of if c.split in splits}
        return [case for case in self.of_block(dataset, block) if case.id in asked]

    @property
    def checked(self) -> Path:
        """Return the manifest that says that the data was looked at, and which cases are left out."""
        return self.layout.manifest("check_data", "study")

    def every_case(self) -> list[Case]:
        """Return the cases of all datasets."""
        return [case for name in self.study.datasets for case in self.cases(name)]

    def section(self, dataset: str) -> Dataset:
        """Return the configuration of a dataset."""
        return self.study.datasets[dataset]

    def prepared(self, *datasets: str) -> list[Path]:
        """Return the manifests of all blocks of datasets."""
        return [self.layout.manifest("prepare", name, block) for name in datasets for block in self.blocks(name)]

    def teacher(self, teacher: str, run: str) -> Path:
        """Return the manifest of a teacher that is ready to answer."""
        study = self.study
        return self.layout.manifest(study.teacher_stage(teacher), teacher, study.teacher_run(teacher, run))

    def teacher_files(self, teacher: str) -> list[Path]:
        """Return the files of a teacher that exists already."""
        return model_files(self.study.teachers[teacher])

    def check_given_teachers(self) -> None:
        """Look whether the files of all teachers that exist already are there; Snakemake tells it less well, later.

        Raises:
            MskdError: If one's are not.
        """
        for teacher, section in self.study.teachers.items():
            if section.given:
                self.teacher_files(teacher)

    def said_files(self, teacher: str, dataset: str, block: str) -> list[Path]:
        """Return what caching a block reads of raw data, where the teacher exists already: scans, segmentations."""
        if not self.study.teachers[teacher].given:
            return []
        raw = [] if self.section(dataset).phantom is not None else [c.image for c in self.asked(dataset, block)]
        return self._segmentations(teacher, dataset, block) + [path for path in raw if not path.is_dir()]

    def projection(self, teacher: str, run: str) -> list[Path]:
        """Return the manifest of a teacher's projection of features, where features are projected."""
        settings = cache_settings(self.study.cache, logits_alone=has_logits_alone(run))
        if not settings.feature_channels or not settings.taps:
            return []
        return [self.layout.manifest("fit_projection", teacher, run)]

    def cross_fitted(self, run: str) -> list[Path]:
        """Return the manifests of what teachers of part runs say of the training cases that they left out."""
        found = []
        for teacher in self.study.trained_teachers:
            dataset = self.study.teacher_dataset(teacher)
            for part in self.study.part_runs(run):
                left_out = held_out(self.study, part, self.cases(dataset, run))
                found += [
                    self.layout.manifest("cache_targets", teacher, part, dataset, block) for block in by_block(left_out)
                ]
        return found

    def targets(self, run: str) -> list[Path]:
        """Return the manifests of every teacher's targets for all cases that students learn from."""
        return [
            self.layout.manifest("cache_targets", teacher, self.study.teacher_run(teacher, run), dataset, block)
            for teacher in self.study.teachers
            for dataset in self.training
            if self.study.teacher_covers(teacher, dataset)
            for block in self.blocks(dataset, run, *self.study.cache.splits)
        ]

    def compared(self, run: str) -> list[Path]:
        """Return the manifest of what the teachers of a run say beside each other, where any row learns from them."""
        asked = any("targets" in self.facts(method).needs for method in self.study.methods)
        return [self.layout.manifest("compare_teachers", run)] if asked else []

    def student_inputs(self, method: str, run: str) -> list[Path]:
        """Return the manifests that training (or assembling) a method's network depends on."""
        needs, files = self.facts(method).needs, []
        if self.facts(method).trains:
            files += self.prepared(*self.training)
        if "teachers" in needs:
            files += [self.teacher(teacher, run) for teacher in self.study.teachers]
        if "targets" in needs:
            files += self.targets(run)
        if self.study.method_cross_fits(method):
            files += self.cross_fitted(run)
        if self.study.method_weighs(method):
            files += self.compared(run)
        return files

    def predictions(self, method: str, run: str, dataset: str) -> list[Path]:
        """Return the manifests of a method's predictions of a dataset's test cases."""
        return [
            self.layout.manifest("predict", method, run, dataset, block) for block in self.blocks(dataset, run, "test")
        ]

    def metrics(self) -> list[Path]:
        """Return every metrics file of the study."""
        return [
            self.layout.metrics(method, run, dataset) for method in self.study.methods for dataset, run in self.tested()
        ]

    def manifests(self) -> list[Path]:
        """Return every manifest that a finished study has.

        The final target names them all: Snakemake does not remake an intermediate file that is merely missing.
        """
        found = [self.checked]
        for method in self.study.methods:
            for run in self.study.run_names:
                found += self.student_inputs(method, run)
                found.append(self.layout.manifest("train_student", method, run))
        for run in self.study.run_names:
            found += self.compared(run)
        for dataset, run in self.tested():
            found += self.prepared(dataset)
            found += [file for method in self.study.methods for file in self.predictions(method, run, dataset)]
        return list(dict.fromkeys(found))

    def members(self, run: str, *datasets: str) -> str:
        """Return a digest of which cases of datasets fall into which split, and which a part run leaves out."""
        cases = {name: self.cases(name, run) for name in datasets}
        members: Leaves = {name: [(case.id, case.split) for case in of_name] for name, of_name in cases.items()}
        if run == GIVEN:  # asked about the cases of all folds
            members |= {
                f"{n}/{f}": [(c.id, c.split) for c in of] for (n, f), of in self._cases.items() if n in datasets
            }
        if is_part(run):
            members["held_out"] = [c.id for of_name in cases.values() for c in held_out(self.study, run, of_name)]
        return short(members)


def short(leaves: Leaves) -> str:
    """Return a digest of configuration leaves, for a rule's params."""
    return content_key(leaves=leaves)[:16]
