"""Medical Segmentation Decathlon, and any data laid out like it.

Tasks used with CT organs: Task03 Liver (the LiTS training set), Task07 Pancreas, Task09 Spleen; all
CC BY-SA 4.0. `imagesTs` has no published labels and is not listed. Cases come from the list `training` of
`dataset.json`; without the file, or without the list, from the folders.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mskd.datasets.case import RawCase
from mskd.datasets.collection import UNLABELLED, CaseCollection, choice
from mskd.datasets.folders import images_by_stem, locate, read_json
from mskd.datasets.json_lists import CASES_FROM, listed_pairs, report_unlisted

TITLE = "Medical Segmentation Decathlon layout"
LAYOUT = """\
dataset.json
imagesTr/liver_1.nii.gz
labelsTr/liver_1.nii.gz"""
LICENCE = "CC BY-SA 4.0"
NON_COMMERCIAL = False
EXAMPLE = """\
path: /data/Task09_Spleen           # Task03: 1 liver, 2 tumour; Task07: 1 pancreas, 2 tumour
label_map: {1: spleen}
split: {kind: builtin, name: spleen}"""
CASE_NAMES = ""
LABELS: dict[int, str] = {}
OPTIONS = {"cases_from": CASES_FROM, "unlabelled": UNLABELLED}


def find_cases(root: Path, options: Mapping[str, str]) -> list[RawCase]:
    """List the labelled cases of a Decathlon task; see `mskd.datasets.listing.Adapter`."""
    source = choice(options, "cases_from", ("auto", "json", "folder"), "auto")
    cases = CaseCollection(root, options)
    image_folder, label_folder = locate(root, [("imagesTr", "labelsTr")])
    base = image_folder.parent
    has_json = (base / "dataset.json").is_file() or source == "json"
    content = read_json(base / "dataset.json") if has_json and source != "folder" else {}
    listed = listed_pairs(base, content, "training")
    if listed is None:
        cases.add_pairs(
            images_by_stem(image_folder),
            images_by_stem(label_folder),
            expected_label=lambda name: label_folder / f"{name}.nii.gz",
            expected_image=lambda name: image_folder / f"{name}.nii.gz",
        )
        return cases.finish()
    for name, (image, label) in listed.items():
        cases.add_listed(name, image, label, base / "dataset.json")
    if source == "auto":
        report_unlisted(cases, image_folder, listed, base / "dataset.json")
    return cases.finish()
