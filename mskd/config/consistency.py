"""What has to fit together in a study: sections that are right by themselves may still contradict each other."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from string import Formatter
from typing import TYPE_CHECKING, Any

from mskd.checks.codes import ACCEPTABLE, CODES
from mskd.config.data import BACKGROUND, IGNORE, Dataset
from mskd.config.faults import Fault, FaultsError, closest, nested
from mskd.config.teachers import OF_GIVEN, OF_KIND, Teacher
from mskd.datasets.listing import adapter_facts, adapter_names
from mskd.datasets.stated_splits import BUILTIN_PREFIXES
from mskd.methods.registry import method_facts, method_kinds

if TYPE_CHECKING:
    from mskd.config.study import Study

TEACHERS = "teachers"  # folder of the teachers beside those of the methods


def faults_in(study: Study) -> list[Fault]:
    """Return every fault of a study whose sections are right by themselves."""
    if not study.datasets:
        return [
            Fault("datasets", {}, "at least one dataset whose role is train", {"datasets": _example_dataset("liver")})
        ]
    found = [fault for name, dataset in study.datasets.items() for fault in _dataset(study, name, dataset)]
    found += _teachers(study)
    if not found:  # organs and teachers are known only now
        found += _owned(study)
    found += [*_runs(study), *_methods(study), *_overrides(study), *_taps(study), *_evaluation(study)]
    found += _statistics(study)
    return list({str(fault): fault for fault in found}.values())


def _dataset(study: Study, name: str, dataset: Dataset) -> Iterator[Fault]:
    where = f"datasets.{name}"
    maps: dict[str, Mapping[Any, str]] = {
        "label_map": dataset.label_map,
        "structures": dataset.structures,
        "withheld_label_map": dataset.withheld_label_map,
    }
    allowed = [*study.organs, IGNORE, BACKGROUND]
    for key, mapping in maps.items():
        for value, organ in mapping.items():
            if organ not in allowed:
                near = closest(organ, study.organs, cutoff=0.7)
                write: dict[str, Any] = {"organs": [*study.organs, organ]}
                if near is not None:
                    write = {"datasets": {name: {key: {**mapping, value: near}}}}
                elif dataset.role == "external":  # nothing would train the organ
                    write = {"datasets": {name: {key: {**mapping, value: BACKGROUND}}}}
                yield Fault(f"{where}.{key}.{value}", organ, f"{', '.join(allowed)} (the study's organs)", write)
    mapped = [organ for organ in (*dataset.label_map.values(), *dataset.structures.values()) if organ in study.organs]
    for organ in dataset.organs or []:
        if organ not in mapped:
            yield Fault(
                f"{where}.organs",
                organ,
                f"organs of its label_map or structures: {', '.join(dict.fromkeys(mapped)) or '(none)'}",
                {"datasets": {name: {"organs": list(dict.fromkeys(mapped))}}},
            )
    if dataset.withheld and not dataset.withheld_label_map:
        example = dict(enumerate(study.organs, start=1))
        write = {"datasets": {name: {"withheld_label_map": example}}}
        yield Fault(f"{where}.withheld_label_map", {}, "value in the withheld files → organ of the study", write)
    phantom = dataset.phantom
    if phantom is not None and dataset.role == "train" and study.runs.folds == 1 and not phantom.n_train:
        write = {"datasets": {name: {"phantom": {"n_train": 8}}}}
        yield Fault(f"{where}.phantom.n_train", 0, "integer ≥ 1 for a dataset whose role is train", write)
    yield from _accepted(name, dataset)
    yield from _source(name, dataset)


def _accepted(name: str, dataset: Dataset) -> Iterator[Fault]:
    for case, codes in dataset.accept.items():
        for code in codes:
            if code not in ACCEPTABLE:
                near = None if code in CODES else closest(code, ACCEPTABLE)
                better = [c for c in codes if c in ACCEPTABLE and c != near] + ([near] if near else [])
                problem = "cannot be accepted, for no stage could read the case:" if code in CODES else "unknown code"
                write = {"datasets": {name: {"accept": {case: better}}}}
                yield Fault(f"datasets.{name}.accept.{case}", code, ", ".join(ACCEPTABLE), write, problem)


def _source(name: str, dataset: Dataset) -> Iterator[Fault]:
    """Adapter, its options, and a built-in split; a dataset made in code needs none of them."""
    where = f"datasets.{name}"
    if dataset.adapter not in adapter_names():
        write: dict[str, Any] = {"datasets": {name: {"adapter": closest(dataset.adapter, adapter_names()) or "msd"}}}
        yield Fault(f"{where}.adapter", dataset.adapter, ", ".join(adapter_names()), write)
    elif dataset.phantom is None:
        known = adapter_facts(dataset.adapter).options
        for option in dataset.options:
            if option not in known:
                near = closest(option, known)
                options: dict[str, str] = {near: dataset.options[option]} if near else {}
                yield Fault(
                    f"{where}.options.{option}",
                    dataset.options[option],
                    "; ".join(f"{o}: {text}" for o, text in known.items()) or f"(adapter {dataset.adapter} has none)",
                    {"datasets": {name: {"options": options}}},
                    "unknown option, found",
                )
    builtin = dataset.split.name or name
    if dataset.phantom is None and dataset.split.kind == "builtin" and builtin not in BUILTIN_PREFIXES:
        labelled = next((organ for organ in dataset.labelled_organs if organ in BUILTIN_PREFIXES), "liver")
        near = closest(builtin, BUILTIN_PREFIXES) or labelled
        write = {"datasets": {name: {"split": {"kind": "builtin", "name": near}}}}
        yield Fault(f"{where}.split.name", builtin, ", ".join(BUILTIN_PREFIXES), write)


def _teachers(study: Study) -> Iterator[Fault]:
    training = [name for name, dataset in study.datasets.items() if dataset.role == "train"]
    if not training:
        name = next(iter(study.datasets))
        yield Fault("datasets", "no dataset with role train", "at least one", {"datasets": {name: {"role": "train"}}})
        return
    for name, teacher in study.teachers.items():
        yield from _keys_of_kind(name, teacher)
        if teacher.given:
            yield from _given(study, name, teacher, training)
            continue
        source = teacher.dataset or name
        if source not in study.datasets:
            near = closest(source, training) or training[0]
            write = {"teachers": {name: {"dataset": near}}}
            yield Fault(f"teachers.{name}.dataset", source, ", ".join(training), write)
        elif study.datasets[source].role != "train":
            write = {"teachers": {name: {"dataset": training[0]}}}
            allowed = f"{', '.join(training)} (datasets with role train; {source} is only tested on)"
            yield Fault(f"teachers.{name}.dataset", source, allowed, write)


def _keys_of_kind(name: str, teacher: Teacher) -> Iterator[Fault]:
    """Refuse keys that would have no effect."""
    allowed = {"kind", *OF_KIND[teacher.kind], *(OF_GIVEN if teacher.given else ())}
    for key, field in type(teacher).model_fields.items():
        value = getattr(teacher, key)
        default = field.get_default(call_default_factory=True)
        if key not in allowed and value != default:
            keys = ", ".join(sorted(allowed - {"kind"})) or "(none)"
            text = f"not set; a teacher of kind {teacher.kind} has the keys {keys}"
            yield Fault(f"teachers.{name}.{key}", value, text, {"teachers": {name: {key: default}}})


def _given(study: Study, name: str, teacher: Teacher, training: list[str]) -> Iterator[Fault]:
    """A teacher that exists already."""
    where = f"teachers.{name}"
    if teacher.path is None:
        write: dict[str, Any] = {"teachers": {name: {"kind": teacher.kind, "path": f"models/{name}"}}}
        yield Fault(f"{where}.path", None, "the model, or the folder of the segmentations", write)
    if not teacher.classes:
        label = 1 if teacher.kind == "labels" and not teacher.per_class else study.organs[0]
        write = {"teachers": {name: {"classes": {label: study.organs[0]}}}}
        yield Fault(f"{where}.classes", {}, f"its classes → {', '.join(study.organs)} (the study's organs)", write)
    for label, organ in teacher.classes.items():
        if organ not in study.organs:
            near = closest(organ, study.organs) or study.organs[0]
            write = {"teachers": {name: {"classes": {**teacher.classes, label: near}}}}
            yield Fault(f"{where}.classes.{label}", organ, f"{', '.join(study.organs)} (the study's organs)", write)
    if teacher.kind == "labels":
        yield from _segmentations(study, name, teacher)
    if teacher.datasets == []:
        allowed = f"at least one of {', '.join(training)}, or no such key: all; a teacher that is asked nothing is none"
        yield Fault(f"{where}.datasets", [], allowed, {"teachers": {name: {"datasets": training[:1]}}})
    for dataset in teacher.datasets or []:
        if dataset not in training:
            better = [d for d in teacher.datasets or [] if d in training] or training[:1]
            allowed = f"datasets with role train: {', '.join(training)}"
            yield Fault(f"{where}.datasets", dataset, allowed, {"teachers": {name: {"datasets": better}}})


FILE_PARTS = ("dataset", "case", "class")


def _segmentations(study: Study, name: str, teacher: Teacher) -> Iterator[Fault]:
    """Where the files of a teacher of kind labels lie, and what its classes are."""
    where, parts = f"teachers.{name}", ", ".join(f"{{{part}}}" for part in FILE_PARTS)
    try:
        used = {field[1:] for field in Formatter().parse(teacher.files) if field[1] is not None}
        problem = used - {(part, "", None) for part in FILE_PARTS} or ("case", "", None) not in used
    except ValueError:  # unbalanced braces
        problem = True
    if problem:
        better = "{case}/{class}.nii.gz" if teacher.per_class else "{case}.nii.gz"
        write: dict[str, Any] = {"teachers": {name: {"files": better}}}
        allowed = f"a path that holds {{case}}; filled in are {parts}, other braces are written {{{{ and }}}}"
        yield Fault(f"{where}.files", teacher.files, allowed, write)
    elif not teacher.per_class and (bad := [label for label in teacher.classes if not _is_value(label)]):
        organs = [organ for organ in teacher.classes.values() if organ in study.organs] or study.organs[:1]
        write = {"teachers": {name: {"classes": dict(enumerate(organs, start=1))}}}
        allowed = (
            "values in the label maps, integers ≥ 1, → organ; or, where each class has its file, its name, and {class} "
            f"in `files` (now {teacher.files})"
        )
        yield Fault(f"{where}.classes", bad[0], allowed, write, "found the class")


def _is_value(label: int | str) -> bool:
    return re.fullmatch("[1-9][0-9]*", str(label)) is not None


def _owned(study: Study) -> Iterator[Fault]:
    labelled = {
        organ for dataset in study.datasets.values() if dataset.role == "train" for organ in dataset.labelled_organs
    }
    labelled |= {organ for teacher in study.teachers.values() for organ in teacher.classes.values()}
    for organ in study.organs:
        if organ not in labelled:
            only_tested = [name for name, d in study.datasets.items() if d.labelled_organs == [organ]]
            write = {only_tested[0]: {"role": "train"}} if only_tested else _example_dataset(organ)
            known = ", ".join(o for o in study.organs if o in labelled)
            allowed = f"organs that a dataset with role train labels, or a teacher knows: {known or '(none)'}"
            yield Fault("organs", organ, allowed, {"datasets": write}, "no training dataset labels, no teacher knows")
    for name in study.trained_teachers:
        if not study.teacher_organs(name):
            others: dict[str, Any] = {other: {} for other in study.teachers if study.teacher_organs(other)}
            allowed = "teachers whose dataset labels an organ of the study; name those alone"
            yield Fault(f"teachers.{name}", study.teacher_dataset(name), allowed, {"teachers": others or {name: {}}})


def _runs(study: Study) -> Iterator[Fault]:
    seeds = study.runs.seeds
    if min(seeds) < 0 or len(set(seeds)) < len(seeds):
        better = sorted({abs(seed) for seed in seeds})
        yield Fault("runs.seeds", seeds, "distinct integers ≥ 0", {"runs": {"seeds": better}})


def _methods(study: Study) -> Iterator[Fault]:
    for name in study.methods:
        kind = study.method_kind(name)
        if name == TEACHERS:
            write: dict[str, Any] = {"methods": {"my_row": {"kind": kind if kind in method_kinds() else "mskd"}}}
            yield Fault("methods", name, "any other name; models/teachers/ holds the teachers", write)
        if kind not in method_kinds():
            near = closest(kind, method_kinds()) or "mskd"
            row = {"kind": near} if study.methods[name].kind else {}
            write = {"methods": {name if row else near: row}}
            where = f"methods.{name}.kind" if row else f"methods.{name}"
            yield Fault(where, kind, f"{', '.join(method_kinds())} (or `kind` with one of them)", write)
            continue
        needs = method_facts(kind).needs
        if "withheld_labels" in needs:
            yield from _withheld(study, name)
        if "teachers" in needs:
            yield from _networks(study, name)
        if "targets" in needs and "train" not in study.cache.splits:
            write = {"cache": {"splits": ["train", *study.cache.splits]}}
            yield Fault("cache.splits", study.cache.splits, f"a list with train, which {name} learns from", write)


def _networks(study: Study, method: str) -> Iterator[Fault]:
    """A row that is put together from the networks of the teachers needs teachers that are networks of this study."""
    others = [name for name, teacher in study.teachers.items() if teacher.given]
    rows: dict[str, Any] = {row: {} for row in study.methods if row != method}
    if others:
        allowed = f"a row that needs no networks of the teachers: {', '.join(others)} exist outside of the study"
        yield Fault(f"methods.{method}", study.method_kind(method), allowed, {"methods": rows or {"mskd": {}}})


def _withheld(study: Study, method: str) -> Iterator[Fault]:
    for name, dataset in study.datasets.items():
        known = set(dataset.withheld_label_map.values()) if dataset.withheld else set()
        if dataset.role == "train" and (missing := [organ for organ in study.organs if organ not in known]):
            example = {**dataset.withheld_label_map}
            for organ in missing:
                example[max(example, default=0) + 1] = organ
            yield Fault(
                f"datasets.{name}.withheld_label_map",
                dataset.withheld_label_map,
                f"a map that names every organ, with `withheld: true`, because methods.{method} learns from all "
                "labels; or leave that method out",
                {"datasets": {name: {"withheld": True, "withheld_label_map": example}}},
            )


def _overrides(study: Study) -> Iterator[Fault]:
    """Sections with the changes of one teacher or method."""
    yield from _size(study, ("training", "patch_size"), study.training.patch_size)
    if study.inference.window is not None:
        yield from _size(study, ("inference", "window"), study.inference.window)
    for kind, names in (("teachers", study.teachers), ("methods", study.methods)):
        for name in names:
            own = study.teachers[name].training if kind == "teachers" else study.methods[name].training
            try:
                section = study.teacher_training(name) if kind == "teachers" else study.method_training(name)
            except FaultsError as faults:
                yield from faults.faults
                continue
            if "patch_size" in own:
                yield from _size(study, (kind, name, "training", "patch_size"), section.patch_size)
    for name in study.methods:
        yield from _distillation(study, name)


def _distillation(study: Study, method: str) -> Iterator[Fault]:
    own = study.methods[method].distillation
    try:
        settings = study.method_distillation(method)
    except FaultsError as faults:
        yield from faults.faults
        return
    row, kind = ("methods", method, "distillation"), study.method_kind(method)
    low, high = study.cache.temperatures
    if settings.combine == "validation_dice" and "val" not in study.cache.splits:
        write: dict[str, Any] = {"cache": {"splits": [*study.cache.splits, "val"]}}
        allowed = f"a list with val: {method} weights teachers by their Dice on the labelled validation cases"
        yield Fault("cache.splits", study.cache.splits, allowed, write)
    if not low <= settings.temperature <= high:
        by_method = kind in method_kinds() and "temperature" in method_facts(kind).distillation
        where = ".".join(row if "temperature" in own or by_method else ("distillation",))
        write = {"cache": {"temperatures": [min(low, settings.temperature), max(high, settings.temperature)]}}
        allowed = f"{low:g} to {high:g}, the range of cache.temperatures, for which the cache bounds its error"
        yield Fault(f"{where}.temperature", settings.temperature, allowed, write)
    if kind not in method_kinds() or "features" not in method_facts(kind).needs:
        return
    place = (*(row if "feature_taps" in own else ("distillation",)), "feature_taps")
    for tap in settings.feature_taps or []:
        if tap not in study.cache.taps:
            near = closest(tap, study.cache.taps, cutoff=0)
            allowed = f"{', '.join(study.cache.taps) or '(none)'} (the taps that the cache holds)"
            yield Fault(".".join(place), tap, allowed, nested(place, [near] if near else []))


def _size(study: Study, place: tuple[str, ...], size: tuple[int, int, int]) -> Iterator[Fault]:
    stride = study.network.coarsest_stride
    if any(n < s or n % s for n, s in zip(size, stride, strict=True)):
        better = [max(s, round(n / s) * s) for n, s in zip(size, stride, strict=True)]
        allowed = f"multiples of the network's coarsest stride {list(stride)}"
        yield Fault(".".join(place), size, allowed, nested(place, better))


def _taps(study: Study) -> Iterator[Fault]:
    for tap in study.cache.taps:
        if tap not in study.network.taps:
            near = closest(tap, study.network.taps) or study.network.taps[-1]
            better = [t for t in study.cache.taps if t in study.network.taps and t != near]
            allowed = f"{', '.join(study.network.taps)} (the number is the level, 0 the finest)"
            yield Fault("cache.taps", tap, allowed, {"cache": {"taps": [*better, near]}})


def _evaluation(study: Study) -> Iterator[Fault]:
    organs = ", ".join(study.organs)
    for organ in study.evaluation.largest_component:
        if organ not in study.organs:
            kept = [o for o in study.evaluation.largest_component if o in study.organs]
            near = closest(organ, study.organs)
            kept += [near] if near and near not in kept else []
            yield Fault("evaluation.largest_component", organ, organs, {"evaluation": {"largest_component": kept}})
    tolerance = study.evaluation.nsd_tolerance_mm
    if isinstance(tolerance, dict) and set(tolerance) != set(study.organs):
        better = {organ: tolerance.get(organ, 2.0) for organ in study.organs}
        allowed = f"a tolerance for each organ: {organs}"
        yield Fault("evaluation.nsd_tolerance_mm", tolerance, allowed, {"evaluation": {"nsd_tolerance_mm": better}})


def _statistics(study: Study) -> Iterator[Fault]:
    reference = study.statistics.reference
    # a study without the default row has no tests; jobs read it with every default written out
    default = type(study.statistics).model_fields["reference"].default
    if reference not in study.methods and reference != default:
        near = closest(reference, study.methods) or next(iter(study.methods))
        yield Fault("statistics.reference", reference, ", ".join(study.methods), {"statistics": {"reference": near}})


def _example_dataset(organ: str) -> dict[str, Any]:
    return {organ: {"adapter": "msd", "path": f"/data/{organ}", "label_map": {1: organ}}}
