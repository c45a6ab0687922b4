"""A study with one teacher that exists already, asked about one scan on the scan's own grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import torch

from mskd.cases import Case
from mskd.config.model import Preprocessing
from mskd.config.study import Study
from mskd.geometry import Geometry
from mskd.phantom.layouts import PhantomCase
from mskd.preparation import prepare_arrays
from mskd.prepared import PreparedCase, write_prepared
from mskd.scans import read_scan
from mskd.teachers.base import Teacher
from mskd.teachers.registry import load_teacher

CPU = torch.device("cpu")


def study_of(folder: Path, organ: str, section: dict[str, Any], spacing_mm: tuple[float, ...]) -> Study:
    """Return a study of one organ whose only teacher is given."""
    return Study.model_validate(
        {
            "results": folder,
            "organs": [organ],
            "datasets": {"d": {"path": str(folder), "label_map": {1: organ}}},
            "teachers": {"given": {"classes": {organ: organ}, **section}},
            "methods": {"mskd": {}},
            "preprocessing": {"spacing_mm": spacing_mm, "crop_to_body": False},
            "cache": {"taps": []},
        }
    )


def load(study: Study) -> Teacher:
    """Load the study's teacher."""
    return load_teacher(study, "given", "given", CPU)


def prepared(folder: Path, study: Study, case: PhantomCase) -> tuple[PreparedCase, Case]:
    """Prepare a scan as the study does."""
    return _prepared(folder, study.preprocessing, case)


def on_raw_grid(margins: npt.NDArray[Any], case: PreparedCase) -> npt.NDArray[Any]:
    """Return margins of a study grid with the scan's own spacing in the order of the scan's axes."""
    geometry: Geometry = case.geometry
    turn = np.linalg.inv(np.asarray(geometry.raw_affine)) @ geometry.affine
    order = [int(np.argmax(np.abs(turn[:3, axis]))) for axis in range(3)]
    np.testing.assert_allclose(np.abs(turn[:3, :3]).max(axis=0), 1, atol=1e-6)  # the same voxels
    flipped = margins[(slice(None), *(slice(None, None, -1 if turn[order[a], a] < 0 else 1) for a in range(3)))]
    return np.transpose(flipped, (0, *(1 + np.argsort(order))))


def _prepared(folder: Path, preprocessing: Preprocessing, case: PhantomCase) -> tuple[PreparedCase, Case]:
    scan, affine = read_scan(case.image, case.name)
    arrays = prepare_arrays(scan, affine, None, None, preprocessing)
    path = folder / "prepared" / f"{case.name}.zarr"
    write_prepared(path, arrays, key="k", attributes={"case": case.name})
    return PreparedCase(path, case.name), Case("d", case.name, "b00", case.image, (), None, "train")


def spacing_mm(path: Path) -> tuple[float, ...]:
    """Return a scan's spacing along right-left, anterior-posterior, superior-inferior."""
    image = nib.load(path)
    return tuple(float(s) for s in nib.as_closest_canonical(image).header.get_zooms()[:3])
