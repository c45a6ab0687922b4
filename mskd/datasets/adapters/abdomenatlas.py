"""AbdomenAtlas 1.0 Mini: 5,195 CTs, 9 structures, one binary file each; CC BY-NC-SA 4.0, registration.

It reuses LiTS, KiTS, MSD and NIH volumes: do not test on it what was trained there. `combined_labels.nii.gz`
beside the CT is not read. Files are listed in alphabetical order, or in that of the option `structures`;
where masks overlap, a later one wins.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mskd.datasets.case import RawCase
from mskd.datasets.collection import UNLABELLED, CaseCollection
from mskd.datasets.structure_files import STRUCTURES, add_structure_folders

TITLE = "AbdomenAtlas 1.0 Mini"
LAYOUT = """\
BDMAP_00000001/ct.nii.gz
BDMAP_00000001/segmentations/liver.nii.gz"""
LICENCE = "CC BY-NC-SA 4.0"
NON_COMMERCIAL = True
EXAMPLE = """\
path: /data/AbdomenAtlas1.0Mini
options: {structures: "liver,spleen,pancreas,kidney_left,kidney_right"}
structures: {liver: liver, spleen: spleen, pancreas: pancreas, kidney_left: kidney, kidney_right: kidney}"""
CASE_NAMES = r"BDMAP_[0-9]{8}"
LABELS: dict[int, str] = {}
OPTIONS = {"structures": STRUCTURES, "unlabelled": UNLABELLED}


def find_cases(root: Path, options: Mapping[str, str]) -> list[RawCase]:
    """List the cases of AbdomenAtlas; see `mskd.datasets.listing.Adapter`."""
    cases = CaseCollection(root, options)
    add_structure_folders(cases, options)
    return cases.finish("folders BDMAP_00000001, … with ct.nii.gz and segmentations/")
