"""Stage: look at a teacher that exists already, before anything is asked of it: its files, its classes, its tool."""

from __future__ import annotations

import torch

from mskd.config.study import GIVEN, Study
from mskd.console import log
from mskd.errors import ConfigError
from mskd.layout import Layout
from mskd.leaves import adopt_leaves, stage_code
from mskd.manifest import Manifest
from mskd.provenance import content_key, file_digest
from mskd.stages.inputs import asked_cases
from mskd.teachers.registry import load_teacher, look_at_cases, model_files

STAGE = "adopt_teacher"


def adopt_teacher(study: Study, teacher: str, device: torch.device) -> None:
    """Load a teacher once, run one window where it takes windows, and write down what its answers depend on.

    Raises:
        MskdError: If its files, its classes, its tool or its interpreter cannot be used.
    """
    section = study.teachers[teacher]
    if not section.given:
        raise ConfigError(f"teachers.{teacher} is trained by this study: mskd train-teacher")
    weights = content_key(files=[file_digest(path) for path in model_files(section)])
    loaded = load_teacher(study, teacher, GIVEN, device)
    look_at_cases(section, (case for of_block in asked_cases(study, teacher, GIVEN).values() for case in of_block))
    if try_out := getattr(loaded, "try_out", None):
        try_out()
    log(f"teacher {teacher} ({section.kind}, {section.path}) says {', '.join(loaded.organs)}; it gives no features")
    key = content_key(
        leaves=adopt_leaves(study, teacher), code=stage_code(STAGE, teacher=section.kind), weights=weights
    )
    entry = {"key": key, "weights": weights, "versions": getattr(loaded, "versions", {})}
    manifest = Manifest(STAGE, {teacher: entry})
    manifest.write(Layout(study.root).manifest(STAGE, teacher, GIVEN))
