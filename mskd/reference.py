"""Reference labels of a case on its raw grid, in study values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mskd.cases import Case
from mskd.datasets.case import LabelGrid
from mskd.errors import DataError
from mskd.geometry import Affine, reorient
from mskd.scans import read_labels, read_scan_grid

SHIFT_TOLERANCE, DRIFT_TOLERANCE = 0.1, 0.5
"""Most by which labels may lie off their scan, in voxels: at the first voxel, and at the corner where they lie off most
(rounded spacings and directions add up along the scan)."""
STEP_TOLERANCE = 0.01
"""Most by which a step along an axis may differ, in spacings, where labels lie on their scan by orientation alone."""


def read_case_labels(
    case: Case,
    label_map: Mapping[int, int],
    structures: Mapping[str, int],
    shape: tuple[int, ...],
    affine: Affine,
) -> npt.NDArray[np.uint8] | None:
    """Return a case's labels in study values, or None if it has no label file.

    Args:
        case: The case.
        label_map: File value → study value.
        structures: Structure → study value, for layouts with a file per structure; the later file wins.
        shape: Shape of the raw scan.
        affine: Affine of the raw scan.

    Raises:
        DataError: If a file cannot be read or does not lie on the scan's grid.
    """
    if not case.labels:
        return None
    labels = np.zeros(shape, np.uint8)
    for file in case.labels:
        if file.organ is None:
            labels = _read(file.path, case.id, label_map, shape, affine, file.grid)
        elif file.organ in structures:
            mask = _read(file.path, case.id, {1: 1}, shape, affine, file.grid)
            labels[mask > 0] = structures[file.organ]
    return labels


def read_withheld_labels(
    case: Case, label_map: Mapping[int, int], shape: tuple[int, ...], affine: Affine
) -> npt.NDArray[np.uint8]:
    """Return all labels that the study knows of a case, in study values.

    Raises:
        DataError: If there is no such file, or it does not lie on the scan's grid.
    """
    if case.withheld is None:
        raise DataError(
            case=case.id,
            file="-",
            expected="withheld labels",
            found="a dataset without them",
            fix="write `withheld: true` for datasets that have `withheld/<case>.nii.gz`",
        )
    return _read(case.withheld, case.id, label_map, shape, affine)


def read_reference(
    case: Case, leaves: Mapping[str, Any], values: Mapping[str, int], shape: tuple[int, ...], affine: Affine
) -> tuple[npt.NDArray[np.uint8] | None, list[str]]:
    """Return what predictions of a case are compared with, and the organs that it labels; None without labels.

    Args:
        case: The case.
        leaves: Of evaluating its dataset (`mskd.leaves.evaluate_leaves`).
        values: Organ → study value.
        shape: Shape of the raw scan.
        affine: Affine of the raw scan.

    Raises:
        DataError: If a file cannot be read or does not lie on the scan's grid.
    """
    labels = read_case_labels(case, leaves["label_map"], leaves["structures"], shape, affine)
    withheld = leaves["withheld"]
    if labels is None or withheld is None or case.withheld is None:
        return labels, list(leaves["labelled"])
    labelled = [organ for organ, value in values.items() if value in withheld.values()]
    return read_withheld_labels(case, withheld, shape, affine), labelled


def _read(
    path: Path,
    case: str,
    values: Mapping[int, int],
    shape: tuple[int, ...],
    affine: Affine,
    grid: LabelGrid = "scan",
) -> npt.NDArray[np.uint8]:
    found_shape, found = read_scan_grid(path, case)
    if grid == "orientation":
        labels = read_labels(path, case, values, found_shape)
        return onto_scan(labels, found, path, case, shape, affine)
    require_affine(found, path, case, affine, shape)
    return read_labels(path, case, values, shape)


def require_affine(
    found: Affine, path: Path, case: str, affine: Affine, shape: tuple[int, ...], *, of: str = "its scan"
) -> None:
    """Raise DataError if a label file of the same shape places its voxels elsewhere than its scan (`of`)."""
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.asarray(shape) - 1)
    moved = (np.linalg.inv(affine) @ found - np.eye(4))[:3]
    off = np.abs(corners @ moved[:, :3].T + moved[:, 3]).max(axis=1)  # voxels, the first corner is the first voxel
    if off[0] > SHIFT_TOLERANCE or off.max() > DRIFT_TOLERANCE:
        raise DataError(
            case=case,
            file=path,
            expected=f"the affine of {of}, {np.round(affine, 3).tolist()}",
            found=f"{np.round(found, 3).tolist()}, up to {off.max():.3g} voxels off",
            fix="resample the labels onto the scan, or repair the header that is wrong",
            code="label.affine",
        )


def onto_scan(
    labels: npt.NDArray[Any], found: Affine, path: Path, case: str, shape: tuple[int, ...], affine: Affine
) -> npt.NDArray[Any]:
    """Return labels whose origin is not that of their scan, turned to its axes.

    Raises:
        DataError: If they do not fit the scan even so.
    """
    turned, turned_affine = reorient(labels, found, affine)
    size, wanted = turned.shape, tuple(shape)
    step, wanted_step = turned_affine[:3, :3], affine[:3, :3]
    spacing_mm = np.linalg.norm(wanted_step, axis=0)
    if size != wanted or (np.linalg.norm(step - wanted_step, axis=0) > STEP_TOLERANCE * spacing_mm).any():
        raise DataError(
            case=case,
            file=path,
            expected=f"the shape of its scan, {wanted}, and its steps along the axes, "
            f"{np.round(wanted_step, 3).tolist()} mm, once axes are put in the scan's order and direction",
            found=f"shape {size} and steps {np.round(step, 3).tolist()} mm",
            fix="check that scan and labels belong together, or resample the labels onto the scan",
            code="label.affine",
        )
    return turned
