"""Every kind of finding: how bad it is, whether a study may accept it, and what it means. Imports nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Kind:
    """A kind of finding.

    Attributes:
        severity: error: the study cannot or should not run so; warning: may be meant.
        meaning: What it says, for the documentation.
        acceptable: Whether `datasets.<name>.accept` may name it; what no stage can read is not to be accepted.
    """

    severity: Severity
    meaning: str
    acceptable: bool = True


def _fatal(meaning: str) -> Kind:
    return Kind("error", meaning, acceptable=False)


CODES: dict[str, Kind] = {
    "listing.empty": _fatal("the folder holds no case"),
    "listing.layout": _fatal("the folder is not as the adapter's layout says"),
    "listing.missing_files": _fatal("a list names a case whose image and label are not there"),
    "listing.missing_image": _fatal("a label without its image"),
    "listing.missing_label": _fatal("an image without its label"),
    "listing.twice": _fatal("two images for one case name"),
    "name.refused": _fatal("a case name with path separators, control characters or the like"),
    "name.unwise": Kind("warning", "a case name that a shell or another system may trip over"),
    "split.row": _fatal("a row of the split's table without split, with an unknown one, or for a case named before"),
    "split.unplaced": _fatal("a case that the split's table does not name"),
    "split.unknown_case": _fatal("a row of the split's table for a case that does not exist"),
    "split.unusable": _fatal("a split that cannot be made, or that leaves nothing to train on"),
    "file.missing": _fatal("no such file"),
    "file.unreadable": _fatal("a file that may not be read"),
    "file.empty": _fatal("a file of no bytes"),
    "file.damaged": _fatal("truncated, corrupt, or no NIfTI at all"),
    "header.dimensions": _fatal("not three-dimensional: a time series, a single image, several channels"),
    "header.size": _fatal("a header that claims absurdly many voxels"),
    "header.affine": _fatal("an affine that is singular or not finite"),
    "header.data_type": _fatal("colours or complex numbers instead of one number per voxel"),
    "header.single_slice": Kind("error", "a single slice"),
    "header.transforms": Kind("error", "sform, qform and voxel size disagree: programs read the file differently"),
    "header.no_transform": Kind("error", "neither sform nor qform: left and right are unknown"),
    "header.units": Kind("error", "lengths in metres or micrometres, which most programs read as millimetres"),
    "header.spacing": Kind("warning", "voxel size or extent that no CT of a body has"),
    "image.not_finite": _fatal("NaN or infinite intensities"),
    "image.constant": Kind("error", "one value everywhere"),
    "image.normalised": Kind("error", "intensities scaled to 0 … 1 or to z-scores: no HU"),
    "image.windowed": Kind("error", "8-bit grey values: no HU"),
    "image.offset": Kind("error", "1024 was not subtracted: water at about 1024"),
    "image.not_ct": Kind("error", "no negative values, so no air or fat in HU: MR, PET or another scale"),
    "image.uncalibrated": Kind("error", "values that are HU of neither air nor tissue: slope or intercept is wrong"),
    "image.clipped": Kind("warning", "low values cut off, as by an earlier preprocessing"),
    "label.shape": _fatal("image and label differ in shape"),
    "label.orientation": _fatal("image and label differ in the order or direction of their axes"),
    "label.affine": _fatal("image and label do not lie on the same grid"),
    "label.fractional": _fatal("label values that are no whole numbers"),
    "label.no_labels": Kind("error", "so many values that the file is an image rather than labels"),
    "label.unexpected": Kind("warning", "values that label_map does not name; they count as background"),
    "label.never": Kind("warning", "a value of label_map, or a structure, that occurs in no case"),
    "label.organ_never": Kind("error", "an organ that the dataset should annotate and that occurs in no case"),
    "label.empty": Kind("warning", "a label without a single voxel of any organ"),
    "organ.absent": Kind("warning", "an organ that the dataset annotates is absent in this case"),
    "organ.volume": Kind("warning", "an organ of implausible volume for an adult"),
    "organ.truncated": Kind("warning", "an organ that is cut by the edge of the scan"),
    "anatomy.mirrored": Kind(
        "warning", "liver or spleen on the wrong side: the header mirrors the patient, or situs inversus"
    ),
    "teacher.missing": _fatal("a case without the segmentation that a teacher of kind labels should have of it"),
    "duplicate.leak": Kind("error", "one scan twice, learned from and tested on"),
    "duplicate.image": Kind("warning", "one scan twice"),
    "accept.unused": Kind("warning", "an entry of `accept` that fits no finding"),
}
"""By code, in the order of the documentation."""

ACCEPTABLE = tuple(code for code, kind in CODES.items() if kind.acceptable and code != "accept.unused")
"""Codes that `datasets.<name>.accept` may name."""
