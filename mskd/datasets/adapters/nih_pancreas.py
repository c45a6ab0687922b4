"""NIH Pancreas-CT (TCIA): 82 CTs in the portal-venous phase, pancreas; CC BY 3.0.

Images are DICOM series (`pip install 'mskd[dicom]'`), one below each patient's folder; labels are NIfTI files apart.
The labels' headers name their axes rightly but not their place: they are turned onto the axes of the series and lie on
its voxels. Two of the 82 are copies of others (PANCREAS_0025 and PANCREAS_0070); releases without them are complete,
and `mskd check-data` names copies where they are there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from mskd.datasets.case import LabelFile, RawCase
from mskd.datasets.collection import UNLABELLED, CaseCollection
from mskd.datasets.folders import files, images_by_stem, subfolders

TITLE = "NIH Pancreas-CT"
LAYOUT = """\
Pancreas-CT/PANCREAS_0001/<study>/<series>/1-001.dcm
TCIA_pancreas_labels-02-05-2017/label0001.nii.gz"""
LICENCE = "CC BY 3.0"
NON_COMMERCIAL = False
EXAMPLE = """\
path: /data/NIH_Pancreas
label_map: {1: pancreas}
split: {kind: hash, val_fraction: 0.1, test_fraction: 0.2, seed: 0}"""
OPTIONS = {"unlabelled": UNLABELLED}

_DEPTH = 3  # folders between a patient's and the slices, at most


def find_cases(root: Path, options: Mapping[str, str]) -> list[RawCase]:
    """List the cases of NIH Pancreas-CT; see `mskd.datasets.listing.Adapter`."""
    cases = CaseCollection(root, options)
    labels = {}
    for folder in [root, *subfolders(root)]:
        for stem, file in images_by_stem(folder).items():
            if match := re.fullmatch(r"label([0-9]{4})", stem):
                labels[match[1]] = file
    patients = {}
    for folder in [root, *subfolders(root)]:
        for patient in subfolders(folder):
            if match := re.fullmatch(r"PANCREAS_([0-9]{4})", patient.name):
                patients[match[1]] = patient
    for number, patient in sorted(patients.items()):
        name, label = f"PANCREAS_{number}", labels.pop(number, None)
        series = _series(patient, _DEPTH)
        if len(series) != 1:
            cases.fault(
                case=name,
                file=patient,
                expected="one folder of slices (*.dcm)",
                found=f"{len(series)}: {', '.join(folder.name for folder in series[:3])}" if series else "none",
                fix="fetch the patient again, or remove the folder that is too many",
            )
        elif label is None:
            cases.add_unlabelled(name, series[0], f"label{number}.nii.gz")
        else:
            cases.add(name, series[0], (LabelFile(label, reorient=True),))
    for number, label in sorted(labels.items()):
        cases.label_alone(f"PANCREAS_{number}", label, f"folder PANCREAS_{number}")
    return cases.finish("folders PANCREAS_0001, … with a DICOM series, and label0001.nii.gz, …")


def _series(folder: Path, depth: int) -> list[Path]:
    """Return the folders that hold slices, at or below a folder."""
    if any(file.suffix.lower() == ".dcm" for file in files(folder)):
        return [folder]
    return [found for below in subfolders(folder) for found in _series(below, depth - 1)] if depth else []
