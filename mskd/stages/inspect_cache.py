"""What a study's cache holds, and whether it is whole: behind `mskd cache info` and `mskd cache verify`."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from mskd.cache.overview import overview, preview
from mskd.cache.store import LOGITS, TargetStore
from mskd.cache.verification import Expected, Fault, check_stores, leftovers, remove_faulty
from mskd.config.cache import is_url
from mskd.config.study import GIVEN, Study
from mskd.console import log, progress
from mskd.errors import ConfigError, MissingArtefactError
from mskd.layout import Layout, target_place
from mskd.manifest import Manifest, read_manifest
from mskd.prepared import PreparedCase
from mskd.stages.cache_targets import STAGE, target_keys
from mskd.stages.inputs import asked_cases


def expected_stores(study: Study) -> list[Expected]:
    """Return every store that the study's manifests name; blocks that are not cached yet have none."""
    layout, found = Layout(study.root), []
    for teacher in study.teachers:
        for run in study.teacher_runs(teacher):
            for (dataset, block), cases in asked_cases(study, teacher, run).items():
                path = layout.manifest(STAGE, teacher, run, dataset, block)
                if not path.is_file():
                    continue
                manifest = _readable(path)
                kept = [case for case in cases if case.id not in manifest.skipped]
                keys = target_keys(study, teacher, run, kept)
                for case in kept:
                    entry = manifest.entries.get(case.id, {"key": "", "content": ""})
                    found.append(
                        Expected(
                            teacher=teacher,
                            run=run,
                            case=case.id,
                            place=target_place(study.cache_root, teacher, run, dataset, block, case.name),
                            manifest=path,
                            key=keys[case.id],
                            stated_key=str(entry["key"]),
                            content=str(entry["content"]),
                        )
                    )
    return found


def all_runs(study: Study) -> list[str]:
    """Return the runs, and the part runs of a study that cross-fits."""
    parts = [part for run in study.run_names for part in study.part_runs(run)]
    return study.run_names + (parts if study.cross_fits else [])


def verify_cache(study: Study, *, repair: bool) -> list[Fault]:
    """Read every byte of the cache and return what is wrong; with `repair`, remove it.

    Raises:
        ConfigError: If nothing is cached yet.
    """
    stores = expected_stores(study)
    if not stores:
        raise ConfigError(f"nothing is cached below {study.cache_root}; run the workflow first")
    with progress("verify", len(stores)) as advance:
        faults = check_stores(stores, progress=lambda case: advance(1, case))
    for fault in faults:
        where = f"{fault.store.teacher} {fault.store.run} {fault.store.case}"
        log(f"{fault.kind}: {where}: {fault.store.place}\n  found: {fault.found}")
    for path in [] if is_url(study.cache_root) else leftovers(Path(study.cache_root)):
        log(f"left over by a job that was killed, counts for nothing: {path}")
    if repair:
        for place in remove_faulty(faults):
            log(f"removed {place}")
    return faults


def cache_info(study: Study) -> pd.DataFrame:
    """Return what is cached: see `mskd.cache.overview.overview`."""
    channels = {
        teacher: {
            LOGITS: 1 + len(study.teacher_organs(teacher)),
            **{tap: study.network.features[study.network.tap_level(tap)] for tap in study.cache.taps},
        }
        for teacher in study.teachers
    }
    return overview(expected_stores(study), channels)


def preview_case(study: Study, case_id: str, path: Path) -> None:
    """Draw what the teachers of the first run say of a case.

    Raises:
        ConfigError: If the case is not cached.
    """
    layout = Layout(study.root)
    run = study.run_names[0]
    stores = [store for store in expected_stores(study) if store.case == case_id and store.run in (run, GIVEN)]
    if not stores:
        some = ", ".join(sorted({store.case for store in expected_stores(study)})[:5])
        raise ConfigError(f"case {case_id!r} is not cached; cached are for example {some}")
    dataset, name = case_id.split("/", 1)
    prepared = PreparedCase(layout.prepared(dataset, stores[0].place.split("/")[-2], name), case_id)
    preview(prepared, {store.teacher: TargetStore(store.place, case_id, store.content) for store in stores}, path)


def _readable(path: Path) -> Manifest:
    try:
        return read_manifest(path)
    except MissingArtefactError as error:
        log(f"damaged manifest, its block counts as missing: {error}")
        return Manifest(STAGE, {})
