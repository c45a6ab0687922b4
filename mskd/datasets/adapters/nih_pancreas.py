"""NIH Pancreas-CT: 80 labelled CTs, the pancreas; CC BY 3.0, from The Cancer Imaging Archive.

The scans are DICOM series, one per case, below `PANCREAS_0001`, …; the labels are NIfTI files apart, in
`TCIA_pancreas_labels-02-05-2017` or any folder named `TCIA_pancreas_labels*`, `.nii.gz` or `.nii`. Both lie in the
dataset's path, the scans also in `Pancreas-CT`, `DOI` or another folder below it. The affines of the labels have
another origin than the scans: labels are turned to the axes of their scan by the order and direction of their own, and
must then have its shape and spacing.

PANCREAS_0025 and PANCREAS_0070 are duplicates of other cases and not part of later releases. They are left out with
their labels wherever they are found, so that no scan is in two splits. Reading DICOM needs `pip install 'mskd[dicom]'`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from mskd.datasets.case import RawCase
from mskd.datasets.collection import UNLABELLED, WHOLE_DATASET, CaseCollection
from mskd.datasets.folders import describe, files_below, images_by_stem, subfolders, unique
from mskd.errors import DataError

TITLE = "NIH Pancreas-CT (TCIA)"
LAYOUT = """\
Pancreas-CT/PANCREAS_0001/<study>/<series>/1-001.dcm
TCIA_pancreas_labels-02-05-2017/label0001.nii.gz"""
LICENCE = "CC BY 3.0"
NON_COMMERCIAL = False
EXAMPLE = """\
path: /data/NIH-Pancreas-CT
label_map: {1: pancreas}"""
CASE_NAMES = r"PANCREAS_[0-9]{4}"
LABELS = {1: "pancreas"}
OPTIONS = {
    "labels": "folder of the labels where it has another name or place; relative to the dataset's path",
    "unlabelled": UNLABELLED,
}

WITHDRAWN = frozenset({"0025", "0070"})
"""Numbers of the cases that TCIA withdrew as duplicates."""

_LABELS = "TCIA_pancreas_labels"


def find_cases(root: Path, options: Mapping[str, str]) -> list[RawCase]:
    """List the labelled cases of NIH Pancreas-CT; see `mskd.datasets.listing.Adapter`."""
    cases = CaseCollection(root, options)
    label_folder = root / options["labels"] if options.get("labels") else _label_folder(root)
    labels = {
        name.removeprefix("label"): file
        for name, file in images_by_stem(label_folder).items()
        if re.fullmatch(r"label[0-9]{4}", name)
    }
    images: dict[str, Path] = {}
    for number, folder in _case_folders(root).items():
        series = sorted({file.parent for file in files_below(folder) if file.suffix.lower() == ".dcm"})
        if len(series) == 1:
            images[number] = series[0]
        elif number not in WITHDRAWN:
            cases.fault(
                case=folder.name,
                file=folder,
                expected="one folder with the .dcm files of the case",
                found=", ".join(str(path.relative_to(folder)) for path in series) or describe(folder),
                fix="fetch the case again, or remove the folder that does not belong to it",
            )
            labels.pop(number, None)
    cases.add_pairs(
        {number: folder for number, folder in images.items() if number not in WITHDRAWN},
        {number: file for number, file in labels.items() if number not in WITHDRAWN},
        expected_label=lambda number: label_folder / f"label{number}.nii.gz",
        expected_image=lambda number: f"PANCREAS_{number}/<study>/<series>/*.dcm",
        rename=lambda number: f"PANCREAS_{number}",
        grid="orientation",
    )
    return cases.finish("folders PANCREAS_0001, … with DICOM files, and label0001.nii.gz, …")


def _label_folder(root: Path) -> Path:
    """Return the folder of the labels, in the root or one folder below it (archives unpack to a folder in a folder)."""
    for places in ([root], subfolders(root)):
        found = [f for place in places for f in subfolders(place) if f.name.startswith(_LABELS)]
        if len(found) == 1:
            inner = [f for f in subfolders(found[0]) if f.name.startswith(_LABELS)]
            return inner[0] if len(inner) == 1 else found[0]
        if found:
            break
    raise DataError(
        case=WHOLE_DATASET,
        file=root,
        expected=f"one folder {_LABELS}-02-05-2017 with label0001.nii.gz, …",
        found=", ".join(str(f.relative_to(root)) for f in found) or describe(root),
        fix="unpack the labels of the download there, or name their folder in the dataset's option 'labels'",
    )


def _case_folders(root: Path) -> dict[str, Path]:
    """Return the case folders by number, of the first depth that has any."""
    places = [root]
    for _ in range(3):  # root, root/Pancreas-CT, root/manifest-…/Pancreas-CT
        below = [folder for place in places for folder in subfolders(place)]
        found = [(match[1], folder) for folder in below if (match := re.fullmatch(r"PANCREAS_([0-9]{4})", folder.name))]
        if found:
            return unique(found)
        places = below
    return {}
