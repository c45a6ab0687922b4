"""Finds the teacher of a kind: the module of that name, loaded when it is needed. Imports nothing heavy.

A kind that exists already has three functions beside `load`: `model_files(section)`, what its answers depend on;
`class_names(section)`, what it calls its classes (None where only its files tell). One that reads more of a case than
the scan has `case_files(section, case)`, what it reads, `wanted_files`, the same where files may be missing, and
`look_at_cases(section, cases)`, which finds out whether they hold its classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, cast

from mskd.config.teachers import Teacher as TeacherSection

if TYPE_CHECKING:
    import torch

    from mskd.cases import Case
    from mskd.config.study import Study
    from mskd.teachers.base import Teacher

RUNNERS = Path(__file__).parent / "runners"


def load_teacher(study: Study, teacher: str, run: str, device: torch.device) -> Teacher:
    """Load a teacher of a run, ready to answer."""
    return cast("Teacher", _module(study.teachers[teacher].kind).load(study, teacher, run, device))


def model_files(section: TeacherSection) -> list[Path]:
    """Return the files of a teacher that exists already, in a fixed order.

    Raises:
        MskdError: If they are not there.
    """
    return cast("list[Path]", _module(section.kind).model_files(section))


def class_names(section: TeacherSection) -> list[str] | None:
    """Return what a teacher that exists already calls its classes; None where only its files tell.

    Raises:
        MskdError: If its own description cannot be read.
    """
    return cast("list[str] | None", _module(section.kind).class_names(section))


def case_files(section: TeacherSection, cases: Iterable[Case]) -> list[Path]:
    """Return what a teacher reads of cases beside their scans.

    Raises:
        MskdError: If a file is missing.
    """
    module = _module(section.kind)
    return (
        [path for case in cases for path in module.case_files(section, case)] if hasattr(module, "case_files") else []
    )


def wanted_files(section: TeacherSection, cases: Iterable[Case]) -> list[tuple[Case, Path]]:
    """Return what a teacher would read of cases beside their scans, whether it is there or not."""
    module = _module(section.kind)
    wanted = getattr(module, "wanted_files", None)
    return [(case, path) for case in cases for path in wanted(section, case)] if wanted is not None else []


def look_at_cases(section: TeacherSection, cases: Iterable[Case]) -> None:
    """Look at what a teacher reads of cases beside their scans, where that tells whether its classes are right.

    Raises:
        MskdError: If they are not.
    """
    module = _module(section.kind)
    if hasattr(module, "look_at_cases"):
        module.look_at_cases(section, cases)


def teacher_modules(kind: str) -> list[str]:
    """Return the modules whose code decides what a kind of teacher says."""
    runner = f"mskd.teachers.runners.{kind}"
    return [f"mskd.teachers.{kind}", *([runner] if (RUNNERS / f"{kind}.py").is_file() else [])]


def _module(kind: str) -> ModuleType:
    return import_module(f"mskd.teachers.{kind}")
