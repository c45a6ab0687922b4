"""Which configuration leaves and which code each stage depends on.

One place for both uses: the workflow passes them as params (so that Snakemake schedules exactly the changed stages),
and the stages put them into their content keys (so that only what really changed is made again). Imports nothing heavy.
"""

from __future__ import annotations

from typing import Any

from mskd.cache.settings import cache_settings
from mskd.cases import has_logits_alone
from mskd.config.data import BACKGROUND, IGNORE, Dataset
from mskd.config.study import Study
from mskd.config.training import Training
from mskd.fingerprint import code_fingerprint
from mskd.methods.registry import method_facts
from mskd.teachers.registry import teacher_modules

IGNORE_VALUE = 255
UNSEEN = {
    "log_every",
    "checkpoint_every",
    "workers",
    "gpus",
    "ram_cache_gib",
}  # keys of `training` that change no result

Leaves = dict[str, Any]


def study_values(study: Study, label_map: dict[Any, str]) -> dict[Any, int]:
    """Return file value (or structure) → study value: organs 1 … K, background 0, ignore 255."""
    special = {BACKGROUND: 0, IGNORE: IGNORE_VALUE}
    return {value: special.get(organ, study.label_values.get(organ, 0)) for value, organ in label_map.items()}


def phantom_leaves(study: Study, dataset: str) -> Leaves:
    """Leaves of a dataset that is made in code; counts and splits decide how many cases, not how they look."""
    spec = study.datasets[dataset].phantom
    if spec is None:
        return {}
    return {"phantom": spec.model_dump(mode="json", exclude={"n_train", "n_val", "n_test"})}


def check_leaves(study: Study, dataset: str) -> Leaves:
    """Leaves of checking a dataset's cases one by one; what is accepted is decided afterwards."""
    section = study.datasets[dataset]
    return {
        "label_map": section.label_map,
        "structures": section.structures,
        "labelled": section.labelled_organs,
        "withheld": section.withheld_label_map if section.withheld else {},
    }


def verdict_leaves(study: Study) -> Leaves:
    """Leaves of checking the whole study, and of what follows from what is found."""
    segmentations = {
        name: section.model_dump(mode="json", include={"path", "files", "datasets", "classes"})
        for name, section in study.teachers.items()
        if section.kind == "labels"
    }
    return {
        **({"segmentations": segmentations, "asked": study.cache.splits} if segmentations else {}),
        "cases": {name: check_leaves(study, name) for name in study.datasets},
        "accept": {name: section.accept for name, section in study.datasets.items()},
        "splits": {name: section.split.model_dump(mode="json") for name, section in study.datasets.items()},
        "roles": {name: (section.role, metrics_role(section)) for name, section in study.datasets.items()},
        "folds": study.runs.folds,
        "on_bad_case": study.on_bad_case,
    }


def prepare_leaves(study: Study, dataset: str) -> Leaves:
    """Leaves of preparing a dataset's cases."""
    section = study.datasets[dataset]
    return {
        "preprocessing": study.preprocessing.model_dump(mode="json"),
        "label_map": study_values(study, section.label_map),
        "structures": study_values(study, section.structures),
        "labelled": _values(study, section.labelled_organs),
        "withheld": study_values(study, section.withheld_label_map) if section.withheld else None,
    }


def teacher_leaves(study: Study, teacher: str) -> Leaves:
    """Leaves of training a teacher."""
    return {
        "organs": _values(study, study.teacher_organs(teacher)),
        **_network_leaves(study, study.teacher_training(teacher)),
    }


def adopt_leaves(study: Study, teacher: str) -> Leaves:
    """Leaves of looking at a teacher that exists already."""
    section = study.teachers[teacher].model_dump(mode="json", exclude={"datasets", "training"})
    return {"teacher": section, "organs": _values(study, study.teacher_organs(teacher))}


def projection_leaves(study: Study) -> Leaves:
    """Leaves of fitting any teacher's projection of features."""
    settings = cache_settings(study.cache)
    return {
        "taps": settings.taps,
        "channels": settings.feature_channels,
        "hu_clip": study.preprocessing.hu_clip,
        **_window_leaves(study),
    }


def cache_leaves(study: Study, teacher: str, run: str) -> Leaves:
    """Leaves of caching a teacher's targets; of part runs and of teachers that exist already the logits alone."""
    section = study.teachers[teacher]
    own: Leaves = {}
    if section.given:  # where it lies and in what it runs is no matter; what it is, its digest says
        own["teacher"] = section.model_dump(mode="json", exclude={"path", "datasets", "python", "trust", "training"})
        own["organs"] = _values(study, study.teacher_organs(teacher))
    return {
        **own,
        "cache": cache_settings(study.cache, logits_alone=has_logits_alone(run)).to_json(),
        "hu_clip": study.preprocessing.hu_clip,
        **_window_leaves(study),
        **_precision_leaves(study),
    }


def compare_leaves(study: Study) -> Leaves:
    """Leaves of comparing what teachers say."""
    return {
        "owned": {teacher: _values(study, study.teacher_organs(teacher)) for teacher in study.teachers},
        "given": {name: section.kind for name, section in study.teachers.items() if section.given},
        "covers": {name: section.datasets for name, section in study.teachers.items()},
        "labelled": {name: data.labelled_organs for name, data in study.datasets.items() if data.role == "train"},
        "spacing_mm": study.preprocessing.spacing_mm,
        "splits": study.cache.splits,
    }


def student_leaves(study: Study, method: str) -> Leaves:
    """Leaves of training (or assembling) a method's network."""
    needs = method_facts(study.method_kind(method)).needs
    leaves: Leaves = {
        "organs": study.organs,
        "kind": study.method_kind(method),
        **_network_leaves(study, study.method_training(method)),
    }
    if {"targets", "teachers"} & needs:
        leaves["owned"] = {teacher: _values(study, study.teacher_organs(teacher)) for teacher in study.teachers}
        if partial := {
            name: section.datasets for name, section in study.teachers.items() if section.datasets is not None
        }:
            leaves["covers"] = partial
    if "organ_sets" in needs:
        leaves["organ_sets"] = study.labelled_sets
    if "distillation" in needs:
        leaves["distillation"] = study.method_distillation(method).model_dump(mode="json")
    return leaves


def resumed_leaves(leaves: Leaves, training: Training) -> Leaves:
    """Leaves that a checkpoint shares with a training that goes on from it: all but how long the training lasts.

    Courses of rates and weights are part of it; so a training that was longer from the start, or of which
    `schedule_steps` was written down, goes on where a shorter one ended.
    """
    return {**leaves, "training": {**leaves["training"], "steps": None, "schedule_steps": training.course_steps}}


def predict_leaves(study: Study) -> Leaves:
    """Leaves of predicting."""
    return {
        "organs": study.organs,
        "largest_component": study.evaluation.largest_component,
        "hu_clip": study.preprocessing.hu_clip,
        **_window_leaves(study),
        **_precision_leaves(study),
    }


def evaluate_leaves(study: Study, dataset: str) -> Leaves:
    """Leaves of scoring predictions of a dataset."""
    section = study.datasets[dataset]
    return {
        "evaluation": study.evaluation.model_dump(mode="json", exclude={"largest_component"}),
        "organs": study.organs,
        "role": metrics_role(section),
        "label_map": study_values(study, section.label_map),
        "structures": study_values(study, section.structures),
        "labelled": section.labelled_organs,
        "withheld": study_values(study, section.withheld_label_map) if study.evaluation.withheld else None,
    }


def tabulate_leaves(study: Study) -> Leaves:
    """Leaves of tables and report."""
    return {
        "title": study.title,
        "methods": {name: (spec.kind, spec.table) for name, spec in study.methods.items()},
        "label_maps": {name: section.label_map for name, section in study.datasets.items()},
        "statistics": study.statistics.model_dump(mode="json"),
    }


def metrics_role(dataset: Dataset) -> str:
    """Return the role that a dataset's rows have in metrics.csv."""
    if dataset.metrics_role != "auto":
        return dataset.metrics_role
    return "test" if dataset.role == "train" else "external"


def stage_code(stage: str, method: str | None = None, *, teacher: str | None = None) -> str:
    """Return the fingerprint of a stage's code, and of the file of a method or of a kind of teacher."""
    modules = [f"mskd.stages.{stage}"]
    if method is not None:
        modules.append(method_facts(method).module)
    if teacher is not None:
        modules += teacher_modules(teacher)
    return code_fingerprint(*modules)


def _network_leaves(study: Study, training: Training) -> Leaves:
    return {
        "network": study.network.model_dump(mode="json"),
        "training": training.model_dump(mode="json", exclude=UNSEEN),
        "preprocessing": study.preprocessing.model_dump(mode="json", include={"spacing_mm", "hu_clip"}),
        **_window_leaves(study),
    }


def _window_leaves(study: Study) -> Leaves:
    return {"window": study.window, "overlap": study.inference.overlap, "threads": study.inference.threads}


def _precision_leaves(study: Study) -> Leaves:
    """Leaves of inference that is asked of finished networks; validation while they are trained is float32."""
    precision = study.inference.precision
    return {} if precision == "float32" else {"precision": precision}


def _values(study: Study, organs: list[str]) -> dict[str, int]:
    return {organ: study.label_values[organ] for organ in organs if organ in study.label_values}
