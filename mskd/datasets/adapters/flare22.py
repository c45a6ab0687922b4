"""FLARE22: 50 labelled CTs, 13 organs (and 2,000 unlabelled ones); licence: see the challenge.

The labelled cases come from MSD Pancreas: do not test on them what was trained there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mskd.datasets.case import RawCase
from mskd.datasets.collection import UNLABELLED, CaseCollection
from mskd.datasets.folders import images_by_stem, locate

TITLE = "FLARE22, labelled part"
LAYOUT = """\
images/FLARE22_Tr_0001_0000.nii.gz
labels/FLARE22_Tr_0001.nii.gz"""
LICENCE = "see the challenge's terms"
NON_COMMERCIAL = True
EXAMPLE = """\
path: /data/FLARE22Train
label_map: {1: liver, 2: kidney, 3: spleen, 4: pancreas, 13: kidney}"""
CASE_NAMES = r"FLARE22_Tr_[0-9]{4}"
LABELS = {
    1: "liver",
    2: "right_kidney",
    3: "spleen",
    4: "pancreas",
    5: "aorta",
    6: "inferior_vena_cava",
    7: "right_adrenal",
    8: "left_adrenal",
    9: "gallbladder",
    10: "oesophagus",
    11: "stomach",
    12: "duodenum",
    13: "left_kidney",
}
OPTIONS = {"unlabelled": UNLABELLED}

_CHANNEL = "_0000"


def find_cases(root: Path, options: Mapping[str, str]) -> list[RawCase]:
    """List the labelled cases of FLARE22; see `mskd.datasets.listing.Adapter`."""
    cases = CaseCollection(root, options)
    image_folder, label_folder = locate(root, [("images", "labels")])
    cases.add_pairs(
        {name.removesuffix(_CHANNEL): file for name, file in images_by_stem(image_folder).items()},
        images_by_stem(label_folder),
        expected_label=lambda name: label_folder / f"{name}.nii.gz",
        expected_image=lambda name: image_folder / f"{name}{_CHANNEL}.nii.gz",
    )
    return cases.finish()
