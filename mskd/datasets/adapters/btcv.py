"""BTCV, "Beyond the Cranial Vault" abdomen: 30 labelled CTs, 13 organs; licence upon registration (Synapse).

The download unpacks to `RawData/Training/img` and `label`; the path may point to any of the folders above
`img`. `RawData/Testing` has no published labels and is not listed. `imagesTr` with `labelsTr`, as many
tutorials arrange it, is read too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mskd.datasets.case import RawCase
from mskd.datasets.collection import UNLABELLED, CaseCollection
from mskd.datasets.folders import images_by_stem, locate

TITLE = "BTCV abdomen"
LAYOUT = """\
RawData/Training/img/img0001.nii.gz
RawData/Training/label/label0001.nii.gz"""
LICENCE = "by registration; see the terms at Synapse"
NON_COMMERCIAL = True
EXAMPLE = """\
path: /data/BTCV
label_map: {1: spleen, 2: kidney, 3: kidney, 6: liver, 11: pancreas}"""
CASE_NAMES = r"img[0-9]{4}"
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
    10: "portal_and_splenic_vein",
    11: "pancreas",
    12: "right_adrenal",
    13: "left_adrenal",
}
OPTIONS = {"unlabelled": UNLABELLED}

_LAYOUTS = [
    ("RawData/Training/img", "RawData/Training/label"),
    ("Training/img", "Training/label"),
    ("img", "label"),
    ("imagesTr", "labelsTr"),
]


def find_cases(root: Path, options: Mapping[str, str]) -> list[RawCase]:
    """List the labelled cases of BTCV; see `mskd.datasets.listing.Adapter`."""
    cases = CaseCollection(root, options)
    image_folder, label_folder = locate(root, _LAYOUTS)
    cases.add_pairs(
        {name.removeprefix("img"): file for name, file in images_by_stem(image_folder).items()},
        {name.removeprefix("label"): file for name, file in images_by_stem(label_folder).items()},
        expected_label=lambda key: label_folder / f"label{key}.nii.gz",
        expected_image=lambda key: image_folder / f"img{key}.nii.gz",
        rename=lambda key: f"img{key}",
    )
    return cases.finish()
