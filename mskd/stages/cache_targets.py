"""Stage: run a teacher once over the cases of a block and store what it says."""

from __future__ import annotations

import torch

from mskd.cases import by_block
from mskd.config.study import Study
from mskd.console import progress
from mskd.device import set_up
from mskd.layout import Layout
from mskd.leaves import cache_leaves, stage_code
from mskd.manifest import Manifest, read_manifest
from mskd.prepared import PreparedCase
from mskd.provenance import content_key
from mskd.stages.inputs import cases_of, prepared_manifest
from mskd.targets import stored_content, write_targets
from mskd.teachers.base import Teacher
from mskd.teachers.registry import load_teacher

STAGE = "cache_targets"


def cache_targets(
    study: Study, teacher: str, run: str, dataset: str, block: str, device: torch.device
) -> None:
    """Cache a teacher's targets for the cases of a block that students learn from; what stands is kept."""
    layout = Layout(study.root)
    cases = by_block(cases_of(study, [dataset], run, study.cache.splits)).get(block, [])
    prepared = prepared_manifest(study, cases).entries
    weights = read_manifest(layout.manifest("train_teacher", teacher, run)).entries[teacher]["weights"]
    code = stage_code(STAGE)
    set_up(device, study.inference.threads)
    loaded: Teacher | None = None
    entries = {}
    with progress(f"cache {teacher} {run} {dataset}/{block}", len(cases)) as advance:
        for case in cases:
            path = layout.targets(teacher, run, dataset, block, case.name)
            image = prepared[case.id]["image"]
            key = content_key(leaves=cache_leaves(study), code=code, weights=weights, image=image)
            content = stored_content(path, key)
            if content is None:
                loaded = loaded or load_teacher(study, teacher, run, device)
                source = PreparedCase(layout.prepared(dataset, block, case.name), case.id)
                content = write_targets(
                    path,
                    loaded.targets(source),
                    key=key,
                    dtype=study.cache.dtype,
                    chunk=study.cache.chunk,
                    attributes={
                        "case": case.id,
                        "teacher": teacher,
                        "run": run,
                        "organs": loaded.organs,
                        "weights_sha256": weights,
                        "affine": source.geometry.affine.tolist(),
                        "code": code,
                    },
                )
            entries[case.id] = {"key": key, "content": content}
            advance(1, case.name)
    Manifest(STAGE, entries).write(layout.manifest(STAGE, teacher, run, dataset, block))
