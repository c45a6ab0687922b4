"""Segmentations that exist already, such as another tool's output: soft targets from the distance to the surface.

margin = signed distance to the surface (mm, inside positive) / width_mm, so that width_mm inside the surface the
probability σ(margin) is 0.73, and on it 0.5. No features.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mskd.config.teachers import Teacher
from mskd.errors import DataError

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

    from mskd.cases import Case
    from mskd.config.study import Study
    from mskd.prepared import PreparedCase
    from mskd.teachers.base import TeacherTargets


def model_files(section: Teacher) -> list[Path]:
    """Return nothing: its answers depend on the files of each case alone."""
    del section
    return []


def class_names(section: Teacher) -> None:
    """Return None: only the files of the cases tell."""
    del section


def case_files(section: Teacher, case: Case) -> list[Path]:
    """Return the segmentations of a case: one label map, or a file per class.

    Raises:
        DataError: If one is missing.
    """
    return [path for path, _ in _named_files(section, case)]


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
        """Return margins on the study grid.

        Raises:
            DataError: If a file cannot be read or does not lie on the scan's grid.
        """
        import numpy as np

        from mskd.reference import require_affine
        from mskd.scans import read_labels, read_scan_grid
        from mskd.teachers.base import TeacherTargets
        from mskd.teachers.foreign import ForeignScores, study_margins

        geometry = case.geometry
        shape, affine = geometry.raw_shape, np.asarray(geometry.raw_affine)
        spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
        masks: dict[str, npt.NDArray[np.bool_]] = {}
        for path, values in _named_files(self.section, raw):
            require_affine(read_scan_grid(path, raw.id)[1], path, raw.id, affine)
            numbers = {organ: number for number, organ in enumerate(self.organs, start=1)}
            found = read_labels(path, raw.id, {value: numbers[organ] for value, organ in values.items()}, shape)
            for organ in set(values.values()):
                mask = found == numbers[organ]
                masks[organ] = masks[organ] | mask if organ in masks else mask
        reach_mm = FAR_WIDTHS * self.section.width_mm
        margins = []
        for organ in self.organs:
            distance_mm = signed_distance_mm(masks.pop(organ), spacing_mm, reach_mm)
            scores = (distance_mm / self.section.width_mm)[None]
            margins.append(study_margins(ForeignScores(scores, np.eye(4), "sigmoid"), geometry, [[0]])[0])
        return TeacherTargets(np.stack(margins), {}, {})


FAR_WIDTHS = 10.0  # distances beyond so many widths are all the same: σ(10) is 1 to four digits


def signed_distance_mm(mask: npt.NDArray[Any], spacing_mm: npt.NDArray[Any], reach_mm: float) -> npt.NDArray[Any]:
    """Return the distance to the surface of a mask, positive inside, at most `reach_mm` either way.

    The surface lies between voxels: half the smallest spacing is taken off the distance between their centres.

    Args:
        mask: (X, Y, Z).
        spacing_mm: Of the three axes.
        reach_mm: Distances are cut there; only a box of that margin around the mask is looked at.

    Returns:
        Float32 (X, Y, Z).
    """
    import numpy as np
    from scipy import ndimage

    distance = np.full(mask.shape, -reach_mm, np.float32)
    boxes = ndimage.find_objects(mask.astype(np.uint8))
    if not boxes or boxes[0] is None:
        return distance
    pad = [int(np.ceil(reach_mm / s)) + 1 for s in spacing_mm]
    box = tuple(
        slice(max(0, s.start - p), min(n, s.stop + p)) for s, p, n in zip(boxes[0], pad, mask.shape, strict=True)
    )
    inside = mask[box]
    half = float(np.min(spacing_mm)) / 2
    signed = -ndimage.distance_transform_edt(~inside, sampling=spacing_mm)
    if not inside.all():
        signed += ndimage.distance_transform_edt(inside, sampling=spacing_mm)
        signed -= np.sign(signed) * half
    else:
        signed[...] = reach_mm
    distance[box] = np.clip(signed, -reach_mm, reach_mm)
    return distance


def _named_files(section: Teacher, case: Case) -> list[tuple[Path, dict[int, str]]]:
    """Return the files of a case, and which of their values is which organ."""
    assert section.path is not None
    parts = {"dataset": case.dataset, "case": case.name}
    if "{class}" in section.files:
        named = [
            (section.files.format(**parts, **{"class": name}), {1: organ}) for name, organ in section.classes.items()
        ]
    else:
        named = [(section.files.format(**parts), {int(value): organ for value, organ in section.classes.items()})]
    found = [(section.path / name, values) for name, values in named]
    for path, _ in found:
        if not path.is_file():
            raise DataError(
                case=case.id,
                file=path,
                expected="a segmentation of this case, as `files` of the teacher says",
                found="no such file",
                fix="correct `files`, make the segmentation, or name in `datasets` those that have them",
            )
    return found
