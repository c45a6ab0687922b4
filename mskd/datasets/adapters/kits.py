"""KiTS19, KiTS21 and KiTS23: 210, 300 and 489 labelled CTs with kidneys and tumours; CC BY-NC-SA 4.0.

One folder per case, in the root, or in `data/` (the KiTS19 and KiTS21 repositories) or `dataset/` (KiTS23).
The label is `segmentation.nii.gz`; KiTS21 calls its majority vote `aggregated_MAJ_seg.nii.gz`. The images
may lie apart (option `images`), as `case_00000/imaging.nii.gz`, `case_00000.nii.gz` or `master_00000.nii.gz`,
the name on the KiTS19 server. The 90 test cases of KiTS19 (case_00210 on) have no label and are not listed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from mskd.datasets.case import LabelFile, RawCase
from mskd.datasets.collection import UNLABELLED, CaseCollection
from mskd.datasets.folders import describe, subfolders

TITLE = "KiTS19, KiTS21, KiTS23"
LAYOUT = """\
case_00000/imaging.nii.gz
case_00000/segmentation.nii.gz"""
LICENCE = "CC BY-NC-SA 4.0"
NON_COMMERCIAL = True
EXAMPLE = """\
path: /data/kits19/data
label_map: {1: kidney, 2: kidney}   # 2 is the tumour; KiTS21 and KiTS23 also have 3, the cyst
split: {kind: builtin, name: kidney}   # KiTS19; for later editions take kind: hash"""
CASE_NAMES = r"case_[0-9]{5}"
LABELS = {1: "kidney", 2: "tumour", 3: "cyst"}
OPTIONS = {
    "images": "folder of the images where they lie apart from the labels; relative to the dataset's path",
    "label_file": "name of the label file in each case folder, if not segmentation.nii.gz or aggregated_MAJ_seg.nii.gz",
    "unlabelled": UNLABELLED,
}

FIRST_KITS19_TEST = 210
"""Number of the first test case of KiTS19; later editions label these cases."""

_IMAGES = ("imaging.nii.gz", "imaging.nii")
_LABELS = ("segmentation.nii.gz", "segmentation.nii", "aggregated_MAJ_seg.nii.gz")


def find_cases(root: Path, options: Mapping[str, str]) -> list[RawCase]:
    """List the labelled cases of a KiTS edition; see `mskd.datasets.listing.Adapter`."""
    cases = CaseCollection(root, options)
    label_names = (options["label_file"],) if options.get("label_file") else _LABELS
    image_root = root / options["images"] if options.get("images") else None
    if image_root:
        describe(image_root)  # raises where the folder is missing
    folders = _case_folders(root)
    found = {
        name: (_first(_image_candidates(folder, image_root)), _first(folder / label for label in label_names))
        for name, folder in folders.items()
    }
    later_edition = any(label for name, (_, label) in found.items() if _is_late(name))
    for name, (image, label) in found.items():
        folder = folders[name]
        if image and label:
            cases.add(name, image, (LabelFile(label),))
        elif image and (later_edition or not _is_late(name) or cases.unlabelled == "keep"):
            cases.add_unlabelled(name, image, folder / label_names[0])
        elif label:
            cases.label_alone(name, label, (image_root or folder.parent) / name / _IMAGES[0])
        elif not image:
            cases.fault(
                case=name,
                file=folder,
                expected=f"{_IMAGES[0]} and {label_names[0]}",
                found=describe(folder),
                fix="download the images (the repository holds labels only), or remove the folder",
            )
    return cases.finish("folders case_00000, case_00001, … here, in data/ or in dataset/")


def _case_folders(root: Path) -> dict[str, Path]:
    """Return the case folders of the first place that has any."""
    for place in (root, root / "data", root / "dataset"):
        if place == root or place.is_dir():
            found = {f.name: f for f in subfolders(place) if re.fullmatch(r"case_[0-9]+", f.name)}
            if found:
                return found
    return {}


def _image_candidates(folder: Path, image_root: Path | None) -> list[Path]:
    """Return where the image of a case may lie, the likeliest first."""
    if image_root is None:
        return [folder / name for name in _IMAGES]
    number = folder.name.removeprefix("case_")
    inside = [image_root / folder.name / name for name in _IMAGES]
    return [*inside, image_root / f"{folder.name}.nii.gz", image_root / f"master_{number}.nii.gz"]


def _first(candidates: Iterable[Path]) -> Path | None:
    return next((path for path in candidates if path.is_file()), None)


def _is_late(name: str) -> bool:
    return int(name.removeprefix("case_")) >= FIRST_KITS19_TEST
