"""Finds the teacher of a kind: the module of that name, loaded when it is needed."""

from __future__ import annotations

from importlib import import_module
from typing import cast

import torch

from mskd.config.study import Study
from mskd.teachers.base import Teacher


def load_teacher(study: Study, teacher: str, run: str, device: torch.device) -> Teacher:
    """Load a teacher of a run, ready to answer."""
    module = import_module(f"mskd.teachers.{study.teachers[teacher].kind}")
    return cast(Teacher, module.load(study, teacher, run, device))
