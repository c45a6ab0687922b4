"""What stages read of the stages before them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from mskd.cases import Case, by_block, fold_of_run, held_out, is_part, list_cases
from mskd.config.study import GIVEN, Study
from mskd.console import log
from mskd.errors import MskdError
from mskd.layout import Layout
from mskd.manifest import Manifest, merge, read_manifest

OF_TEACHER = "teachers/"  # entries of what compare_teachers found: `teachers/<teacher>/<organ>`


def training_datasets(study: Study) -> list[str]:
    """Return the datasets whose cases students and teachers learn from."""
    return [name for name, dataset in study.datasets.items() if dataset.role == "train"]


def prepared_manifest(study: Study, cases: Iterable[Case]) -> Manifest:
    """Return what `prepare` made of these cases' blocks."""
    layout = Layout(study.root)
    blocks = sorted({(case.dataset, case.block) for case in cases})
    return merge([read_manifest(layout.manifest("prepare", *block)) for block in blocks])


def prepared_cases(study: Study, cases: list[Case]) -> tuple[list[Case], Manifest]:
    """Return the cases that `prepare` did not have to leave out, and what it made of them."""
    manifest = prepared_manifest(study, cases)
    skipped = {case.id: manifest.skipped[case.id] for case in cases if case.id in manifest.skipped}
    return made_cases(cases, manifest), replace(manifest, skipped=skipped)


def made_cases(cases: list[Case], manifest: Manifest) -> list[Case]:
    """Return the cases that an earlier stage made something of.

    Those that it left out are missing, and those that came to the data folder since: the next run of the workflow takes
    them, which is said here.
    """
    late = [case.id for case in cases if case.id not in manifest.entries and case.id not in manifest.skipped]
    if late:
        log(
            f"{len(late)} cases came to the data after {manifest.stage}, the next run takes them: {', '.join(late[:5])}"
        )
    return [case for case in cases if case.id in manifest.entries]


def require_cases(cases: list[Case], manifest: Manifest, dataset: str) -> None:
    """Refuse to train on nothing.

    Raises:
        MskdError: If every training case of a dataset was left out.
    """
    if not cases:
        left_out = "\n".join(f"{case}: {reason}" for case, reason in manifest.skipped.items())
        raise MskdError(f"datasets.{dataset}: every training case was left out (on_bad_case: skip):\n{left_out}")


def cases_of(study: Study, datasets: Iterable[str], run: str, splits: Iterable[str]) -> list[Case]:
    """Return the cases of datasets that fall into some splits in a run."""
    wanted = set(splits)
    fold = fold_of_run(run)
    return [case for name in datasets for case in list_cases(study, name, fold) if case.split in wanted]


def teacher_weights(study: Study, teacher: str, run: str) -> str:
    """Return the digest of what a teacher answers with: its weights, or all files of one that exists already."""
    manifest = Layout(study.root).manifest(study.teacher_stage(teacher), teacher, study.teacher_run(teacher, run))
    return str(read_manifest(manifest).entries[teacher]["weights"])


def cached_contents(study: Study, teacher: str, run: str, cases: list[Case]) -> dict[str, str]:
    """Return the digest of a teacher's cached targets by case id."""
    layout, of_run = Layout(study.root), study.teacher_run(teacher, run)
    blocks = sorted({(case.dataset, case.block) for case in cases})
    cached = merge([read_manifest(layout.manifest("cache_targets", teacher, of_run, *block)) for block in blocks])
    return {case.id: cached.entries[case.id]["content"] for case in cases}


def voice_weights(study: Study, run: str) -> list[float]:
    """Return the weight of every teacher's every organ, in the order of the margins: its Dice on validation cases.

    A teacher whose organ no validation case labels weighs as much as the mean of that organ's other teachers, 1 if
    there are none.
    """
    entries = read_manifest(Layout(study.root).manifest("compare_teachers", run)).entries
    pairs = [(teacher, organ) for teacher in study.teachers for organ in study.teacher_organs(teacher)]
    known = {
        pair: float(entries[OF_TEACHER + "/".join(pair)]["validation_dice"])
        for pair in pairs
        if OF_TEACHER + "/".join(pair) in entries
    }
    weights = []
    for teacher, organ in pairs:
        others = [dice for (_, of), dice in known.items() if of == organ]
        weights.append(known.get((teacher, organ), sum(others) / len(others) if others else 1.0))
    return weights


def learned_cases(study: Study, teacher: str, run: str) -> list[Case]:
    """Return the cases that a teacher learns from in a run: all training cases of its dataset, or all but a part."""
    cases = cases_of(study, [study.teacher_dataset(teacher)], run, ["train"])
    left_out = held_out(study, run, cases)
    return [case for case in cases if case not in left_out]


def asked_cases(study: Study, teacher: str, run: str) -> dict[tuple[str, str], list[Case]]:
    """Return the cases that a teacher is asked about, by (dataset, block): of a part run only those it left out.

    One that exists already is asked about the cases of every fold.
    """
    covered = [name for name in training_datasets(study) if study.teacher_covers(teacher, name)]
    datasets = [study.teacher_dataset(teacher)] if is_part(run) else covered
    found: dict[tuple[str, str], list[Case]] = {}
    for dataset in datasets:
        if is_part(run):
            asked = held_out(study, run, cases_of(study, [dataset], run, ["train"]))
        else:
            runs = study.run_names if run == GIVEN else [run]
            of_runs = [case for each in runs for case in cases_of(study, [dataset], each, study.cache.splits)]
            asked = list({case.id: case for case in of_runs}.values())
        found |= {(dataset, block): of_block for block, of_block in by_block(asked).items()}
    return found
