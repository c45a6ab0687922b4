"""Coarse phantoms in the layouts of other tools."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np

from mskd.config.phantom import PhantomDataset
from mskd.phantom.layouts import PhantomCase, write_case

BTCV = {"spleen": 1, "kidney": 2, "liver": 6, "pancreas": 11}  # the left kidney; the right one is 3
SPACING_MM = (7.0, 6.0, 8.0)  # none like another, so that no axis can stand for another


def write_scans(
    root: Path, organ: str, n_cases: int, *, seed: int = 5, spacing_mm: tuple[float, ...] = SPACING_MM
) -> list[PhantomCase]:
    """Write scans of an organ's dataset in the MSD layout, axes as LPS, every organ withheld."""
    spec = PhantomDataset.model_validate(
        {
            "layout": "msd",
            "task": f"Task01_{organ.capitalize()}",
            "organs": [organ],
            "seed": seed,
            "scanner": {"spacing_mm": spacing_mm, "slice_thickness_mm": 5.0, "orientation": "LPS"},
        }
    )
    return [write_case(root, spec, index) for index in range(n_cases)]


def nnunet_dataset(folder: Path, cases: list[PhantomCase], organ: str) -> None:
    """Lay cases out as nnU-Net's raw data: imagesTr/NAME_0000.nii.gz, labelsTr/NAME.nii.gz, dataset.json."""
    for kind in ("imagesTr", "labelsTr"):
        (folder / kind).mkdir(parents=True)
    for case in cases:
        shutil.copy(case.image, folder / "imagesTr" / f"{case.name}_0000.nii.gz")
        shutil.copy(case.label, folder / "labelsTr" / f"{case.name}.nii.gz")
    description = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, organ: 1},
        "numTraining": len(cases),
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description))


def label_map(case: PhantomCase, target: Path, organ: str) -> None:
    """Write what another tool would say of a scan: every organ of the body in one label map, the asked one as 7."""
    found = nib.load(case.withheld)
    values = np.asarray(found.dataobj)
    wanted = {BTCV[organ], 3} if organ == "kidney" else {BTCV[organ]}
    target.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.where(np.isin(values, list(wanted)), 7, 0).astype(np.uint8), found.affine), target)
