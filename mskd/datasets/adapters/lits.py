"""LiTS: 131 labelled CTs, liver and tumour; licence upon registration.

Pairs `volume-N.nii` and `segmentation-N.nii`, compressed or not, in the root or up to two folders below it
("Training Batch 1", or images and labels apart, as mirrors unpack it). `test-volume-N.nii` has no label and
is not listed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from mskd.datasets.case import RawCase
from mskd.datasets.collection import UNLABELLED, CaseCollection
from mskd.datasets.folders import files, subfolders, unique

TITLE = "LiTS, Liver Tumor Segmentation"
LAYOUT = """\
volume-0.nii            (or Training Batch 1/volume-0.nii)
segmentation-0.nii"""
LICENCE = "by registration; see the challenge's terms"
NON_COMMERCIAL = True
EXAMPLE = """\
path: /data/LiTS
label_map: {1: liver, 2: liver}     # 2 is the tumour
split: {kind: builtin, name: liver}"""
CASE_NAMES = r"volume-[0-9]+"
LABELS = {1: "liver", 2: "tumour"}
OPTIONS = {"unlabelled": UNLABELLED}

_DEPTH = 2
WITHHELD = "withheld"  # full label maps of studies that know them, named like the volumes


def find_cases(root: Path, options: Mapping[str, str]) -> list[RawCase]:
    """List the labelled cases of LiTS; see `mskd.datasets.listing.Adapter`."""
    cases = CaseCollection(root, options)
    found: dict[str, list[tuple[str, Path]]] = {"volume": [], "segmentation": []}
    for file in _walk(root, _DEPTH):
        match = re.fullmatch(r"(volume|segmentation)-([0-9]+)\.nii(\.gz)?", file.name)
        if match:
            found[match[1]].append((match[2], file))
    cases.add_pairs(
        unique(found["volume"]),
        unique(found["segmentation"]),
        expected_label=lambda number: f"segmentation-{number}.nii or .nii.gz",
        expected_image=lambda number: f"volume-{number}.nii or .nii.gz",
        rename=lambda number: f"volume-{number}",
    )
    return cases.finish("volume-0.nii and segmentation-0.nii here or in folders below")


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    """Yield the files down to a depth; links to folders are followed, the depth bounds any cycle."""
    yield from files(folder)
    if depth:
        for child in subfolders(folder):
            if child.name == WITHHELD:
                continue
            yield from _walk(child, depth - 1)
