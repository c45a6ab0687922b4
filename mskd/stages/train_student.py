"""Stage: train (or assemble) the multi-organ network of a method, from cached targets alone."""

from __future__ import annotations

from importlib import import_module
from typing import Any, cast

import torch

from mskd import processes
from mskd.cache.store import TargetStore, use_pipeline
from mskd.cases import Case, seed_of_run
from mskd.config.study import Study
from mskd.console import log
from mskd.device import set_up, stable_seed
from mskd.layout import Layout, target_place
from mskd.leaves import resumed_leaves, stage_code, student_leaves
from mskd.manifest import Manifest, read_manifest
from mskd.methods.base import Built, MethodContext
from mskd.methods.registry import MethodFacts, method_facts
from mskd.model_card import training_data
from mskd.models import load_model, save_model, stored_weights, update_card
from mskd.networks.unet import UNet
from mskd.provenance import content_key
from mskd.stages.inputs import (
    asked_cases,
    cached_contents,
    cases_of,
    prepared_cases,
    prepared_manifest,
    require_cases,
    teacher_weights,
    training_datasets,
    voice_weights,
)
from mskd.stages.training_inputs import patches, training_cases, validator
from mskd.training.loop import Trainee, train

STAGE = "train_student"
TARGETS, CROSS_FITTED = "targets/", "cross_fitted/"


def train_student(study: Study, method: str, run: str, device: torch.device) -> None:
    """Train the network of a method, unless its model stands under the same key.

    Several processes may train it together; one that is put together from teachers is the first process's work.
    """
    layout = Layout(study.root)
    facts = method_facts(study.method_kind(method))
    learn, check = (cases_of(study, training_datasets(study), run, [split]) for split in ("train", "val"))
    if facts.trains:
        (learn, manifest), (check, _) = prepared_cases(study, learn), prepared_cases(study, check)
        for dataset in training_datasets(study):
            require_cases([case for case in learn if case.dataset == dataset], manifest, dataset)
    inputs = _inputs(study, method, run, learn, check)
    code = stage_code(STAGE, facts.kind)
    leaves, identity = student_leaves(study, method), {"code": code, "run": run, "inputs": inputs}
    key = content_key(leaves=leaves, **identity)
    going_on = content_key(leaves=resumed_leaves(leaves, study.method_training(method)), **identity)
    folder = layout.student(method, run)
    kept, data = study.evaluation.largest_component, _data(study, facts, [*learn, *check])
    weights = processes.as_first(stored_weights(folder, key))
    if weights is None and facts.trains:
        network, scores = _train(study, method, facts, run, learn, check, inputs, going_on, device)
    if not processes.is_first():
        return
    if weights is not None:
        update_card(folder, largest_component=kept, data=data)
    else:
        provenance: dict[str, Any] = {
            "study": study.study,
            "method": method,
            "kind": facts.kind,
            "run": run,
            "seed": seed_of_run(run),
        }
        if facts.trains:
            provenance |= {
                "validation": scores,
                "training": study.method_training(method).model_dump(mode="json"),
            }
        else:
            network = _assemble(study, method, facts, run)
        weights = save_model(
            folder,
            network,
            labels=study.label_values,
            preprocessing=study.preprocessing,
            window=study.window,
            overlap=study.inference.overlap,
            stride=study.network.coarsest_stride,
            key=key,
            provenance={**provenance, "inputs": inputs, "data": data, "code": code},
            largest_component=kept,
        )
    Manifest(STAGE, {method: {"key": key, "weights": weights}}).write(layout.manifest(STAGE, method, run))


def _data(study: Study, facts: MethodFacts, cases: list[Case]) -> list[dict[str, Any]]:
    """Return the record of the data: all training datasets, or those of the teachers that are put together."""
    taught = {study.teacher_dataset(teacher) for teacher in study.trained_teachers}
    learned = cases if facts.trains else [case for case in cases if case.dataset in taught]
    return training_data(study, learned, study.organs, withheld="withheld_labels" in facts.needs)


def _inputs(study: Study, method: str, run: str, learn: list[Case], check: list[Case]) -> dict[str, Any]:
    """Return the digests of everything that the method reads."""
    facts = method_facts(study.method_kind(method))
    inputs: dict[str, Any] = {}
    if facts.trains:
        prepared = prepared_manifest(study, [*learn, *check]).entries
        labels = "withheld" if "withheld_labels" in facts.needs else "labels"
        inputs["train"] = {c.id: [prepared[c.id]["image"], prepared[c.id].get(labels)] for c in learn}
        inputs["val"] = {c.id: [prepared[c.id]["image"], prepared[c.id]["labels"]] for c in check}
    if "teachers" in facts.needs:
        inputs["teachers"] = {name: teacher_weights(study, name, run) for name in study.teachers}
    if "targets" in facts.needs:
        for teacher in study.teachers:
            asked = [case for case in learn if study.teacher_covers(teacher, case.dataset)]
            inputs[TARGETS + teacher] = cached_contents(study, teacher, run, asked)
    if study.method_weighs(method):
        inputs["voice_weights"] = voice_weights(study, run)
    if study.method_cross_fits(method):
        for teacher, of_cases in _cross_fitted(study, run).items():
            inputs[CROSS_FITTED + teacher] = {case: content for case, (_, content) in of_cases.items()}
    return inputs


def _cross_fitted(study: Study, run: str) -> dict[str, dict[str, tuple[str, str]]]:
    """Return teacher → id of each of its training cases → place and content of its cross-fitted margins."""
    layout = Layout(study.root)
    found: dict[str, dict[str, tuple[str, str]]] = {}
    for teacher in study.trained_teachers:
        for part in study.part_runs(run):
            for (dataset, block), cases in asked_cases(study, teacher, part).items():
                cached = read_manifest(layout.manifest("cache_targets", teacher, part, dataset, block))
                for case in cases:
                    if case.id not in cached.skipped:
                        place = target_place(study.cache_root, teacher, part, dataset, block, case.name)
                        found.setdefault(teacher, {})[case.id] = (place, cached.entries[case.id]["content"])
    return found


def _train(
    study: Study,
    method: str,
    facts: MethodFacts,
    run: str,
    learn: list[Case],
    check: list[Case],
    inputs: dict[str, Any],
    resume_key: str,
    device: torch.device,
) -> tuple[UNet, dict[str, float]]:
    training = study.method_training(method)
    set_up(device, training.threads)
    use_pipeline(study.cache.pipeline, training.threads)
    # one seed for all methods of a run: they start from the same weights and see the same patches
    seed = stable_seed("student", run)
    torch.manual_seed(seed)
    targets = {name: study.teacher_run(name, run) for name in study.teachers} if "targets" in facts.needs else None
    contents = {name.removeprefix(TARGETS): of for name, of in inputs.items() if name.startswith(TARGETS)}
    cases = training_cases(study, learn, training, targets, contents)
    for teacher, of_cases in (_cross_fitted(study, run) if study.method_cross_fits(method) else {}).items():
        for case in cases:
            if case.case in of_cases:
                case.cross_fitted[teacher] = of_cases[case.case]
    context = _context(study, method, cases[0].stores if targets else {}, inputs.get("voice_weights"))
    if note := feature_note(study, method):
        log(note)
    built: Built = import_module(facts.module).build(context)
    trainee = Trainee(
        title=f"{method} {run}",
        network=built.network,
        auxiliary=built.auxiliary,
        loss=built.loss,
        validate=validator(study, built.network, check, training, study.label_values, device),
    )
    sampler = patches(study, cases, training, seed=seed, needs=built.needs)
    scores = train(
        trainee,
        sampler,
        training,
        folder=Layout(study.root).student(method, run),
        device=device,
        resume_key=resume_key,
    )
    log(f"{method} {run}: {scores}")
    return cast(UNet, built.network), scores


def feature_note(study: Study, method: str) -> str:
    """Return what a row's log says of teachers without features, "" where there is nothing to say."""
    wanted = "features" in method_facts(study.method_kind(method)).needs and study.cache.taps
    silent = [name for name, section in study.teachers.items() if section.given]
    if not wanted or not silent or not study.method_distillation(method).feature_weight:
        return ""
    rest = "the feature term goes without" if study.trained_teachers else "so there is no feature term"
    return f"{method}: no features of {', '.join(silent)}: {rest}"


def _assemble(study: Study, method: str, facts: MethodFacts, run: str) -> UNet:
    layout = Layout(study.root)
    teachers = {name: load_model(layout.teacher(name, run)).network for name in study.teachers}
    return cast(UNet, import_module(facts.module).assemble(_context(study, method, {}), teachers))


def _context(
    study: Study, method: str, stores: dict[str, TargetStore], voice_weights: list[float] | None = None
) -> MethodContext:
    featured = next((store for store in stores.values() if store.strides), None)
    return MethodContext(
        organs=study.organs,
        network=study.network,
        training=study.method_training(method),
        distillation=study.method_distillation(method),
        owned={
            teacher: [study.label_values[organ] - 1 for organ in study.teacher_organs(teacher)]
            for teacher in study.teachers
        },
        tap_channels={
            teacher: {tap: store.arrays[tap].shape[0] for tap in store.strides} for teacher, store in stores.items()
        },
        tap_strides=featured.strides if featured else {},
        components=frozenset(
            (teacher, tap) for teacher, store in stores.items() for tap in store.strides if store.projected(tap)
        ),
        organ_sets=study.labelled_sets,
        voice_weights=voice_weights,
    )
