"""Segmentations that exist already, such as another tool's output: soft targets from the distance to the surface.

margin = signed distance to the surface (mm, inside positive) / width_mm, so that width_mm inside the surface the
probability σ(margin) is 0.73, and on it 0.5. No features. In a file for each class whatever is above 0 is the class.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mskd.config.teachers import Teacher
from mskd.console import log
from mskd.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

    from mskd.cases import Case
    from mskd.config.study import Study
    from mskd.geometry import Affine
    from mskd.prepared import PreparedCase
    from mskd.teachers.base import TeacherTargets

SHOWN = 20  # values that a message names
MOST_LOOKED_AT = 50  # cases


class ClassFile(NamedTuple):
    """A segmentation of a case.

    Attributes:
        path: The file.
        values: Value → organ; None as value: whatever is above 0.
    """

    path: Path
    values: dict[int | None, str]


def model_files(section: Teacher) -> list[Path]:
    """Return nothing: its answers depend on the files of each case alone."""
    del section
    return []


def class_names(section: Teacher) -> None:
    """Return None: only the files of the cases tell."""
    del section


def case_files(section: Teacher, case: Case) -> list[Path]:
    """Return the segmentations of a case, one label map or a file per class.

    Raises:
        DataError: If one is missing.
    """
    paths = wanted_files(section, case)
    for path in paths:
        _require_file(path, case.id)
    return paths


def wanted_files(section: Teacher, case: Case) -> list[Path]:
    """Return the segmentations that a case should have, whether they are there or not."""
    return [path for path, _ in class_files(section, case)]


def class_files(section: Teacher, case: Case) -> list[ClassFile]:
    """Return the files of a case, and which of their values is which organ."""
    assert section.path is not None
    parts = {"dataset": case.dataset, "case": case.name}
    if not section.per_class:
        whole: dict[int | None, str] = {int(value): organ for value, organ in section.classes.items()}
        return [ClassFile(section.path / section.files.format(**parts), whole)]
    return [
        ClassFile(section.path / section.files.format(**parts, **{"class": name}), {None: organ})
        for name, organ in section.classes.items()
    ]


def look_at_cases(section: Teacher, cases: Iterable[Case]) -> None:
    """Open segmentations until each class was seen in one of them; those that are missing are passed over.

    After `MOST_LOOKED_AT` cases one class is enough: the others may be rare.

    Raises:
        ConfigError: If no class occurs in any case: other values were meant, or other files.
        DataError: If a file cannot be read.
    """
    missing, values, looked = set(section.class_texts), set[int](), 0
    for case in cases:
        if not missing or (looked >= MOST_LOOKED_AT and len(missing) < len(section.classes)):
            break
        if not all(path.is_file() for path in wanted_files(section, case)):
            continue
        looked += 1
        for name, file in [(name, file) for name, file in _by_class(section, case) if name in ("", *missing)]:
            found = {value for value in values_in(read_numbers(file.path, case.id)) if value > 0}
            values |= found
            missing -= {name} if found and section.per_class else {str(value) for value in found}
    if not looked or not missing:
        return
    held = ", ".join(map(str, sorted(values)[:SHOWN])) or "nothing but 0"
    if len(missing) == len(section.classes):
        raise ConfigError(
            f"none of the classes {', '.join(section.class_texts)} occurs in any of {looked} cases, so that the "
            f"teacher would say with confidence that there is no organ\n  found in its files: {held}\n"
            f"  way out:  correct `classes` or `files` of the teacher (path {section.path})"
        )
    log(f"warning: {', '.join(sorted(missing))} of the classes occur in none of {looked} cases; found: {held}")


def read_numbers(path: Path, case: str) -> npt.NDArray[Any]:
    """Return the whole numbers of a segmentation, (X, Y, Z) in the file's own axes.

    Raises:
        DataError: If it cannot be read, or holds fractional values.
    """
    from mskd.scans import read_stored, whole_numbers

    array, slope, intercept, _ = read_stored(path, case)
    return whole_numbers(array if (slope, intercept) == (1, 0) else array * slope + intercept, path, case)


def values_in(array: npt.NDArray[Any]) -> list[int]:
    """Return the different values of an array, in order; plane by plane, for the memory."""
    return sorted({int(value) for plane in array.T for value in np.unique(plane)})


def load(study: Study, teacher: str, run: str, device: torch.device) -> LabelTeacher:
    """Return the teacher; files are opened when it is asked."""
    from mskd.provenance import content_key

    del run, device
    return LabelTeacher(study.teachers[teacher], study.teacher_organs(teacher), content_key(kind="labels"))


@dataclass
class LabelTeacher:
    """Segmentations as a teacher.

    Attributes:
        section: Where they lie and what they mean.
        organs: Organs that it owns.
        digest: Constant; each case's key holds the digests of its files.
    """

    section: Teacher
    organs: list[str]
    digest: str

    def targets(self, case: PreparedCase, raw: Case) -> TeacherTargets:
        """Return margins on the study grid; one organ after the other is looked at.

        Raises:
            DataError: If a file is missing, cannot be read, or does not lie on the scan's grid.
        """
        from mskd.teachers.base import TeacherTargets
        from mskd.teachers.foreign import ForeignScores, study_margins

        geometry = case.geometry
        affine = np.asarray(geometry.raw_affine)
        spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
        reach_mm = FAR_WIDTHS * self.section.width_mm
        files = class_files(self.section, raw)
        whole = None if self.section.per_class else _on_scan(files[0].path, raw.id, geometry.raw_shape, affine)
        margins = np.empty((len(self.organs), *geometry.shape), np.float32)
        seen = False
        for index, organ in enumerate(self.organs):
            mask = np.zeros(geometry.raw_shape, bool)
            for path, values in files:
                for value in [value for value, of in values.items() if of == organ]:
                    array = _on_scan(path, raw.id, geometry.raw_shape, affine) if whole is None else whole
                    mask |= array > 0 if value is None else array == value
            seen = seen or bool(mask.any())
            scores = signed_distance_mm(mask, spacing_mm, reach_mm)
            scores /= self.section.width_mm
            margins[index] = study_margins(ForeignScores(scores[None], np.eye(4), "sigmoid"), geometry, [[0]])[0]
        if not seen:
            held = "" if whole is None else f"; {files[0].path} holds {values_in(whole)[:SHOWN]}"
            names = ", ".join(self.section.class_texts)
            log(f"warning: {raw.id}: no voxel of {names}{held}; taken as a scan without these organs")
        return TeacherTargets(margins, {}, {})


FAR_WIDTHS = 10.0  # distances beyond so many widths are all the same: σ(10) is 1 to four digits


def signed_distance_mm(mask: npt.NDArray[Any], spacing_mm: npt.NDArray[Any], reach_mm: float) -> npt.NDArray[Any]:
    """Return the distance of voxel centres to the surface of a mask, positive inside, at most `reach_mm` either way.

    The surface lies between voxels: along an axis half its spacing away from the centres on both sides.

    Args:
        mask: Bool (X, Y, Z).
        spacing_mm: Of the three axes.
        reach_mm: Distances are cut there; only a box of that margin around the mask is looked at.

    Returns:
        Float32 (X, Y, Z).
    """
    from scipy import ndimage

    distance = np.full(mask.shape, -reach_mm, np.float32)
    boxes = ndimage.find_objects(mask.view(np.uint8))
    if not boxes or boxes[0] is None:
        return distance
    pad = [int(np.ceil(reach_mm / s)) + 1 for s in spacing_mm]
    near, around = (
        tuple(slice(max(0, s.start - p), min(n, s.stop + p)) for s, p, n in zip(boxes[0], by, mask.shape, strict=True))
        for by in ([1, 1, 1], pad)
    )
    distance[around] = -_distance_to_mask_mm(mask[around], spacing_mm, reach_mm)
    inside = _distance_to_mask_mm(~mask[near], spacing_mm, reach_mm)
    np.copyto(distance[near], inside, where=mask[near])
    return distance


def _distance_to_mask_mm(mask: npt.NDArray[Any], spacing_mm: npt.NDArray[Any], reach_mm: float) -> npt.NDArray[Any]:
    """Return the distance of voxel centres to the surface of a mask that they do not belong to, at most `reach_mm`.

    It is that between centres less half a voxel, after voxels were cut along the coarser axes into pieces about as long
    as the finest spacing; of centres of thick slices the nearest one need not belong to the nearest surface. The
    square of the distance to the nearest piece is a sum over the axes, so these are gone through one after the other.
    """
    finest_mm = float(min(spacing_mm))
    reach_mm += finest_mm / 2
    square = np.where(mask, np.float32(0), np.float32(reach_mm**2))
    for axis, step_mm in enumerate(spacing_mm):
        before = np.moveaxis(square.copy(), axis, 0)
        lines = np.moveaxis(square, axis, 0)
        for away in range(1, len(lines)):
            part = np.float32((away * step_mm - (step_mm - finest_mm) / 2) ** 2)
            if part >= reach_mm**2:
                break
            np.minimum(lines[away:], before[:-away] + part, out=lines[away:])
            np.minimum(lines[:-away], before[away:] + part, out=lines[:-away])
    distance = np.sqrt(square, out=square)
    distance -= finest_mm / 2
    return distance


def _by_class(section: Teacher, case: Case) -> list[tuple[str, ClassFile]]:
    """Return the files of a case, each with the class that it is of (of a label map "")."""
    names = section.class_texts if section.per_class else [""]
    return list(zip(names, class_files(section, case), strict=True))


def _on_scan(path: Path, case: str, shape: tuple[int, ...], affine: Affine) -> npt.NDArray[Any]:
    """Return a segmentation that lies on its scan's grid."""
    from mskd.reference import require_affine
    from mskd.scans import read_scan_grid, require_shape

    _require_file(path, case)
    found_shape, found = read_scan_grid(path, case)
    require_shape(found_shape, path, case, shape)
    require_affine(found, path, case, affine, shape)
    return read_numbers(path, case)


def _require_file(path: Path, case: str) -> None:
    if not path.is_file():
        raise DataError(
            case=case,
            file=path,
            expected="a segmentation of this case, as `files` of the teacher says",
            found="no such file",
            fix="correct `files`, make the segmentation, or name in `datasets` those that have them",
            code="teacher.missing",
        )
