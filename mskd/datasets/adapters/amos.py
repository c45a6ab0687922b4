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
from mskd.datasets.folders import images_by_stem, locate, read_json
from mskd.datasets.json_lists import CASES_FROM, listed_pairs, unlisted

TITLE = "AMOS22 (CT part)"
LAYOUT = """\
dataset.json
imagesTr/amos_0001.nii.gz   labelsTr/amos_0001.nii.gz
imagesVa/amos_0008.nii.gz   labelsVa/amos_0008.nii.gz"""
LICENCE = "CC BY 4.0"
NON_COMMERCIAL = False
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
        _add_part(cases, base, part, split, listed_pairs(base, content, key), strict=source == "auto")
    return cases.finish("at least one CT (amos_0001 to amos_0500) with its label")


def _add_part(
    cases: CaseCollection,
    base: Path,
    part: str,
    split: Split,
    listed: tuple[dict[str, Path], dict[str, Path]] | None,
    *,
    strict: bool,
) -> None:
    """Add the CTs of one pair of folders."""
    image_folder, label_folder = base / f"images{part}", base / f"labels{part}"
    if listed is None and not (image_folder.is_dir() or label_folder.is_dir()):
        return
    images, labels = listed or (images_by_stem(image_folder), images_by_stem(label_folder))
    cases.add_pairs(
        _ct_only(cases, images),
        _ct_only(cases, labels),
        expected_label=lambda name: label_folder / f"{name}.nii.gz",
        expected_image=lambda name: image_folder / f"{name}.nii.gz",
        native_split=split,
    )
    for name, file in _ct_only(cases, unlisted(image_folder, listed[0]) if listed and strict else {}).items():
        cases.fault(
            case=name,
            file=file,
            expected=f"an entry in {base / 'dataset.json'}",
            found="none",
            fix="add the entry, or set the option 'cases_from' to 'folder' (take all files) "
            "or 'json' (take the listed ones only)",
        )


def _ct_only(cases: CaseCollection, files: Mapping[str, Path]) -> dict[str, Path]:
    """Return the files of CTs by case name; nnU-Net's channel suffix is dropped."""
    kept: dict[str, Path] = {}
    for name, file in files.items():
        match = re.fullmatch(r"(.*?([0-9]{1,6}))(_0000)?", name)
        if match is None:
            cases.fault(
                case=name,
                file=file,
                expected="a name with the number of the case, such as amos_0001",
                found="no number, so CT and MRI cannot be told apart",
                fix="restore the original name, or use adapter 'msd' if all images are CT",
            )
        elif int(match[2]) <= LAST_CT:
            kept[match[1]] = file
    return kept
