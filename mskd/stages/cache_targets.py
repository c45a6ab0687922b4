"""Stage: run a teacher once over the cases of a block and store what it says."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from mskd import processes
from mskd.cache.encoding import encode_targets
from mskd.cache.projection import Projection
from mskd.cache.settings import CacheSettings, cache_settings
from mskd.cache.store import stored_content, use_pipeline, write_store
from mskd.cases import Case, has_logits_alone
from mskd.config.study import Study
from mskd.config.teachers import OF_KIND
from mskd.console import log, progress
from mskd.device import set_up
from mskd.errors import MissingArtefactError
from mskd.layout import Layout, target_place
from mskd.leaves import cache_leaves, stage_code
from mskd.manifest import Manifest, read_manifest
from mskd.prepared import PreparedCase
from mskd.provenance import content_key, file_digest
from mskd.stages.fit_projection import read_projections
from mskd.stages.inputs import asked_cases, prepared_cases, prepared_manifest, teacher_weights
from mskd.teachers.base import Teacher, TeacherTargets
from mskd.teachers.registry import case_files, load_teacher

STAGE = "cache_targets"


def cache_targets(study: Study, teacher: str, run: str, dataset: str, block: str, device: torch.device) -> None:
    """Cache a teacher's targets for the cases of a block that students learn from; what stands is kept.

    Several processes share the cases; the first writes the manifest, once all are done.
    """
    layout = Layout(study.root)
    settings = cache_settings(study.cache, logits_alone=has_logits_alone(run))
    cases, manifest = prepared_cases(study, asked_cases(study, teacher, run).get((dataset, block), []))
    keys = target_keys(study, teacher, run, cases)
    projections = read_projections(layout.projection(teacher, run)) if _projects(settings) else {}
    set_up(device, study.inference.threads)
    use_pipeline(study.cache.pipeline, study.inference.threads)
    loaded: Teacher | None = None
    contents: dict[str, str | Future[str]] = {}
    clock, voxels = _Clock(), 0
    mine = processes.share(cases)
    # one case is encoded and written while the teacher looks at the next; two are in memory at most
    title = f"cache {teacher} {run} {dataset}/{block}"
    with progress(title, len(mine)) as advance, ThreadPoolExecutor(1) as writer:
        writing: Future[str] | None = None
        for case in mine:
            place = target_place(study.cache_root, teacher, run, dataset, block, case.name)
            content = stored_content(place, keys[case.id])
            if content is None:
                with clock.at("loading"):
                    loaded = loaded or _loaded(study, teacher, run, device)
                    source = PreparedCase(layout.prepared(dataset, block, case.name), case.id)
                with clock.at("inference"):
                    said = loaded.targets(source, case)
                with clock.at("waiting for encoding and writing"):
                    if writing is not None:
                        writing.result()
                voxels += int(np.prod(source.shape))
                writing = writer.submit(
                    _write, study, settings, loaded, source, said, projections, place, keys[case.id], (teacher, run)
                )
            contents[case.id] = content or writing  # type: ignore[assignment]
            advance(1, case.name, stood=content is not None)
        with clock.at("waiting for encoding and writing"):
            made = [found if isinstance(found, str) else found.result() for found in contents.values()]
    if voxels:
        log(clock.summary(voxels))
    everything = zip(cases, processes.gather(made), strict=True)
    entries = {case.id: {"key": keys[case.id], "content": content} for case, content in everything}
    if processes.is_first():
        Manifest(STAGE, entries, manifest.skipped).write(layout.manifest(STAGE, teacher, run, dataset, block))


def _loaded(study: Study, teacher: str, run: str, device: torch.device) -> Teacher:
    """Load a teacher; one of another tool must be the one that `adopt_teacher` looked at."""
    loaded, section = load_teacher(study, teacher, run, device), study.teachers[teacher]
    expected = teacher_weights(study, teacher, run)
    if "python" in OF_KIND[section.kind] and loaded.digest != expected:
        raise MissingArtefactError(
            case="(all)",
            file=section.path,
            expected=f"the files of teacher {teacher} that adopt-teacher looked at",
            found="others; they changed since",
            fix="run the workflow again (snakemake), or `mskd adopt-teacher` by hand",
        )
    return loaded


class _Clock:
    """Where the time of this stage goes."""

    def __init__(self) -> None:
        self.spent_s: dict[str, float] = {}

    @contextmanager
    def at(self, what: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.spent_s[what] = self.spent_s.get(what, 0.0) + time.perf_counter() - start

    def summary(self, voxels: int) -> str:
        total_s = sum(self.spent_s.values())
        shares = ", ".join(f"{what} {100 * seconds / total_s:.0f} %" for what, seconds in self.spent_s.items())
        most = max(self.spent_s, key=lambda what: self.spent_s[what])
        return f"{voxels / total_s / 1e6:.2f} million voxels per second, bound by {most} ({shares})"


def target_keys(study: Study, teacher: str, run: str, cases: list[Case]) -> dict[str, str]:
    """Return the content keys of a teacher's targets by case id, from today's manifests and configuration."""
    layout = Layout(study.root)
    prepared = prepared_manifest(study, cases).entries
    parts: dict[str, Any] = {"leaves": cache_leaves(study, teacher, run)}
    parts["code"] = stage_code(STAGE, teacher=study.teachers[teacher].kind)
    parts["weights"] = teacher_weights(study, teacher, run)
    if _projects(cache_settings(study.cache, logits_alone=has_logits_alone(run))):
        fitted = read_manifest(layout.manifest("fit_projection", teacher, run))
        parts["projection"] = fitted.entries[teacher]["content"]
    section, owned = study.teachers[teacher], set(study.teacher_organs(teacher))
    keys = {}
    for case in cases:
        entry = prepared[case.id]
        # labels decide which chunks are kept, where the case has labels of the teacher's organs
        labels = entry["labels"] if owned & set(study.datasets[case.dataset].labelled_organs) else None
        own = {}
        if section.given:  # it looks at the scan as it was before it was prepared, or at files of its own
            own["scan"] = entry["scan"]
            own["files"] = [file_digest(path) for path in case_files(section, [case])]
        keys[case.id] = content_key(image=entry["image"], labels=labels, **parts, **own)
    return keys


def _projects(settings: CacheSettings) -> bool:
    return settings.feature_channels > 0 and bool(settings.taps)


def _write(
    study: Study,
    settings: CacheSettings,
    teacher: Teacher,
    source: PreparedCase,
    said: TeacherTargets,
    projections: dict[str, Projection],
    place: str,
    key: str,
    origin: tuple[str, str],
) -> str:
    """Encode and write one case; return the digest of its content."""
    dataset = source.case.split("/")[0]
    values = [
        study.label_values[organ]
        for organ in teacher.organs
        if organ in study.datasets[dataset].labelled_organs and organ in study.label_values
    ]
    arrays = encode_targets(
        said,
        settings,
        truth=np.isin(source.read("labels"), values) if values else None,
        body=source.read("body").astype(bool),
        spacing_mm=study.preprocessing.spacing_mm,
        projections=projections,
        seed=source.case,
    )
    attributes = {
        "case": source.case,
        "teacher": origin[0],
        "run": origin[1],
        "organs": teacher.organs,
        "teacher_digest": teacher.digest,
        "spacing_mm": list(study.preprocessing.spacing_mm),
        "settings": settings.to_json(),
        "code": stage_code(STAGE, teacher=study.teachers[origin[0]].kind),
    }
    if versions := getattr(teacher, "versions", {}):
        attributes["tool"] = versions
    affine = source.geometry.affine
    return write_store(place, arrays, key=key, level=settings.level, affine=affine, attributes=attributes)
