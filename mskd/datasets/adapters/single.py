"""One image with its label, named by options: a first try with a single scan.

Paths are relative to the dataset's path. The licence is that of the data.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mskd.datasets.case import LabelFile, RawCase
from mskd.datasets.collection import CaseCollection, required
from mskd.datasets.folders import entries, stem

TITLE = "A single image with its label"
LAYOUT = """\
ct.nii.gz        (option image)
labels.nii.gz    (option label)"""
LICENCE = ""
NON_COMMERCIAL = False
EXAMPLE = """\
path: /data/one_scan
options: {image: ct.nii.gz, label: labels.nii.gz}
label_map: {1: liver}
split: {kind: all, into: train}
blocks: 1"""
CASE_NAMES = ""
LABELS: dict[int, str] = {}
OPTIONS = {
    "image": "the image file, or a folder with a DICOM series; relative to the dataset's path",
    "label": "the label map; none without it",
    "name": "name of the case; the image's name without suffix by default",
}


def find_cases(root: Path, options: Mapping[str, str]) -> list[RawCase]:
    """List the one case that the options name; see `mskd.datasets.listing.Adapter`."""
    cases = CaseCollection(root, options)
    entries(root)  # raises where the folder is missing
    image = root / required(options, "image", "ct.nii.gz")
    label = root / options["label"] if options.get("label") else None
    name = options.get("name") or stem(image.name) or image.name
    missing = [path for path in (image, label) if path and not (path.is_file() or (path == image and path.is_dir()))]
    for path in missing:
        cases.fault(
            case=name,
            file=path,
            expected="the file that the dataset's options name",
            found="no such file",
            fix="correct the options 'image' and 'label'; they are relative to the dataset's path",
        )
    if not missing:
        cases.add(name, image, (LabelFile(label),) if label else ())
    return cases.finish()
