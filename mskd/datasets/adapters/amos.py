"""AMOS22, the CT part: 300 labelled CTs, 15 organs; CC BY 4.0.

The download (`amos22/`) has `imagesTr`, `labelsTr`, `imagesVa`, `labelsVa` and a `dataset.json` with the
lists `training` and `validation`; ids above 500 are MRI and are left out. `imagesTs` has no published labels
and is not listed. The layout itself says which cases are for training and which for validation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from mskd.datasets.case import RawCase, Split
from mskd.datasets.collection import UNLABELLED, CaseCollection, choice
from mskd.datasets.folders import images_by_stem, locate, read_json, unique
from mskd.datasets.json_lists import CASES_FROM, listed_pairs, report_unlisted

TITLE = "AMOS22 (CT part)"
LAYOUT = """\
dataset.json
imagesTr/amos_0001.nii.gz   labelsTr/amos_0001.nii.gz
imagesVa/amos_0008.nii.gz   labelsVa/amos_0008.nii.gz"""
LICENCE = "CC BY 4.0"
NON_COMMERCIAL = False
EXAMPLE = """\
path: /data/amos22
label_map: {1: spleen, 2: kidney, 3: kidney, 6: liver, 10: pancreas}
split: {kind: native}"""
CASE_NAMES = r"amos_[0-9]{4}"
LABELS = {
    1: "spleen",
    2: "right_kidney",
    3: "left_kidney",
    4: "gallbladder",
    5: "oesophagus",
    6: "liver",
    7: "stomach",
    8: "aorta",
    9: "inferior_vena_cava",
    10: "pancreas",
    11: "right_adrenal",
    12: "left_adrenal",
    13: "duodenum",
    14: "bladder",
    15: "prostate_or_uterus",
}
OPTIONS = {"cases_from": CASES_FROM, "unlabelled": UNLABELLED}

LAST_CT = 500
"""Largest id that is a CT; those above are MRI."""

_PARTS: tuple[tuple[str, str, Split], ...] = (("Tr", "training", "train"), ("Va", "validation", "val"))


def find_cases(root: Path, options: Mapping[str, str]) -> list[RawCase]:
    """List the labelled CTs of AMOS22; see `mskd.datasets.listing.Adapter`."""
    source = choice(options, "cases_from", ("auto", "json", "folder"), "auto")
    cases = CaseCollection(root, options)
    base = locate(root, [("imagesTr", "labelsTr"), ("imagesVa", "labelsVa")])[0].parent
    has_json = (base / "dataset.json").is_file() or source == "json"
    content = read_json(base / "dataset.json") if has_json and source != "folder" else {}
    for part, key, split in _PARTS:
        image_folder, listed = base / f"images{part}", listed_pairs(base, content, key)
        if listed is None:
            _add_folders(cases, image_folder, base / f"labels{part}", split)
            continue
        for name, (image, label) in listed.items():
            ct = _ct_name(cases, name, image)
            if ct:
                cases.add_listed(ct, image, label, base / "dataset.json", split)
        if source == "auto":
            report_unlisted(cases, image_folder, listed, base / "dataset.json")
    return cases.finish("at least one CT (amos_0001 to amos_0500) with its label")


def _add_folders(cases: CaseCollection, image_folder: Path, label_folder: Path, split: Split) -> None:
    """Add the CTs of one pair of folders, if they exist."""
    if not (image_folder.is_dir() or label_folder.is_dir()):
        return
    cases.add_pairs(
        _cts(cases, images_by_stem(image_folder)),
        _cts(cases, images_by_stem(label_folder)),
        expected_label=lambda name: label_folder / f"{name}.nii.gz",
        expected_image=lambda name: image_folder / f"{name}.nii.gz",
        native_split=split,
    )


def _cts(cases: CaseCollection, files: Mapping[str, Path]) -> dict[str, Path]:
    """Return the files of CTs by case name."""
    named = ((_ct_name(cases, name, file), file) for name, file in files.items())
    return unique((name, file) for name, file in named if name)


def _ct_name(cases: CaseCollection, name: str, file: Path) -> str | None:
    """Return the name of a CT, without nnU-Net's channel suffix; None for an MRI and for an unknown kind."""
    match = re.fullmatch(r"(.*?([0-9]{1,6}))(_0000)?", name)
    if match is None:
        cases.fault(
            case=name,
            file=file,
            expected="a name with the number of the case, such as amos_0001",
            found="no number, so CT and MRI cannot be told apart",
            fix="restore the original name, or use adapter 'msd' if all images are CT",
        )
        return None
    return match[1] if int(match[2]) <= LAST_CT else None
