"""Findings from segmentations that teach (teachers of kind labels): are they there, and on the grid of their scan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from mskd.cases import Case
from mskd.checks.finding import Finding, finding_of
from mskd.config.study import Study
from mskd.errors import DataError
from mskd.reference import require_affine
from mskd.scans import read_scan_grid, require_shape
from mskd.teachers.registry import wanted_files


def segmentation_findings(study: Study, cases: Sequence[Case]) -> list[Finding]:
    """Return what is wrong with the segmentations of cases that teachers are asked about; no voxel is read."""
    return [
        finding
        for teacher, section in study.teachers.items()
        if section.given
        for case, path in wanted_files(section, [c for c in cases if study.teacher_covers(teacher, c.dataset)])
        for finding in _findings(teacher, case, path)
    ]


def _findings(teacher: str, case: Case, path: Path) -> Iterator[Finding]:
    if not path.is_file():
        expected = f"a segmentation of this case for teachers.{teacher}, as its `files` says"
        fix = "make it, correct `files`, or name in the teacher's `datasets` those that have them"
        yield Finding("teacher.missing", case.dataset, case.name, str(path), expected, "no such file", fix)
        return
    try:
        shape, affine = read_scan_grid(case.image, case.id)
    except DataError:  # said by the checks of the scan
        return
    try:
        found_shape, found = read_scan_grid(path, case.id)
        require_shape(found_shape, path, case.id, shape)
        require_affine(found, path, case.id, affine, shape)
    except DataError as error:
        yield finding_of(error, case.dataset, case=case.name, code="file.damaged")
