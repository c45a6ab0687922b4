"""TotalSegmentator v2: 1,228 CTs, 117 structures, one binary file each; CC BY 4.0, no registration.

`meta.csv` (separator `;`) gives the official split. Masks may overlap; files are listed in alphabetical
order, or in that of the option `structures`, and a later one wins. A part of the download is accepted,
although the table names all cases.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mskd.datasets.case import RawCase, Split
from mskd.datasets.collection import UNLABELLED, CaseCollection
from mskd.datasets.structure_files import STRUCTURES, add_structure_folders
from mskd.datasets.tables import read_table, split_value

TITLE = "TotalSegmentator v2"
LAYOUT = """\
meta.csv
s0000/ct.nii.gz
s0000/segmentations/liver.nii.gz"""
LICENCE = "CC BY 4.0"
NON_COMMERCIAL = False
EXAMPLE = """\
path: /data/Totalsegmentator_dataset_v201
options: {structures: "liver,spleen,pancreas,kidney_left,kidney_right"}
structures: {liver: liver, spleen: spleen, pancreas: pancreas, kidney_left: kidney, kidney_right: kidney}
split: {kind: native}"""
CASE_NAMES = ""
LABELS: dict[int, str] = {}
OPTIONS = {"structures": STRUCTURES, "unlabelled": UNLABELLED}


def find_cases(root: Path, options: Mapping[str, str]) -> list[RawCase]:
    """List the cases of TotalSegmentator; see `mskd.datasets.listing.Adapter`."""
    cases = CaseCollection(root, options)
    meta = root / "meta.csv"
    splits: dict[str, Split] = {}
    if meta.is_file():
        for row in read_table(meta, required=("image_id", "split")):
            split = split_value(row["split"], case=row["image_id"], file=meta)
            if split:
                splits[row["image_id"]] = split
    add_structure_folders(cases, options, splits)
    return cases.finish("folders s0000, s0001, … with ct.nii.gz and segmentations/")
