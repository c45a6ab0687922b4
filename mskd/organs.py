"""Organs by name: how datasets call them, and what volumes those of adults have.

Volumes are wide on purpose: from the smallest organs after surgery or wasting to enlarged ones with tumours or cysts,
so that what lies outside is nearly always a wrong label value, a wrong voxel size, or a segmentation that was cut off.
Normal means for comparison (CT volumetry): liver 1500 mL, spleen 200 mL, one kidney 160 mL, pancreas 75 mL,
gallbladder 30 mL.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_SIDES = {"left", "right", "l", "r"}


@dataclass(frozen=True)
class Organ:
    """Plausible volumes of an organ.

    Attributes:
        low_ml: Least plausible volume.
        high_ml: Greatest plausible volume, of one where there are two.
        paired: Whether there are two; a name without a side means both.
    """

    low_ml: float
    high_ml: float
    paired: bool = False


ORGANS: dict[str, Organ] = {
    "liver": Organ(400, 5000),
    "spleen": Organ(20, 3000),
    "kidney": Organ(20, 2500, paired=True),
    "pancreas": Organ(20, 600),
    "gallbladder": Organ(1, 400),
    "adrenal": Organ(0.5, 250, paired=True),
    "stomach": Organ(30, 3000),
    "duodenum": Organ(10, 500),
    "bladder": Organ(5, 2000),
    "prostate": Organ(5, 400),
    "heart": Organ(200, 2500),
}
"""By name; only organs that lie inside one field of view, so that touching its edge means something."""

_OTHER_NAMES = {
    "adrenal_gland": "adrenal",
    "suprarenal": "adrenal",
    "suprarenal_gland": "adrenal",
    "urinary_bladder": "bladder",
    "gall_bladder": "gallbladder",
    "esophagus": "oesophagus",
    "postcava": "inferior_vena_cava",
    "ivc": "inferior_vena_cava",
}
_LESION = re.compile(r"tumou?rs?|cancers?|lesions?|cysts?|mass(es)?|metastas[ei]s|carcinomas?|hcc|nodules?")


@dataclass(frozen=True)
class LabelName:
    """What a label's name says.

    Attributes:
        organ: The organ, without its side, as this project calls it; "" where the name tells of a lesion alone.
        sided: Whether it is the left or the right one of two.
        lesion: Whether it is a tumour, a cyst or the like, and not the organ.
    """

    organ: str
    sided: bool
    lesion: bool


def read_label_name(name: str) -> LabelName:
    """Return what the name of a label says.

    Example:
        >>> read_label_name("Left Kidney")
        LabelName(organ='kidney', sided=True, lesion=False)
        >>> read_label_name("pancreatic_tumour").lesion, read_label_name("esophagus").organ
        (True, 'oesophagus')
    """
    words = [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]
    plain = [word for word in words if word not in _SIDES and not _LESION.fullmatch(word)]
    organ = "_".join(plain)
    for known in (organ, organ.removesuffix("s")):
        known = _OTHER_NAMES.get(known, known)
        if known in ORGANS or known in _OTHER_NAMES.values():
            organ = known
            break
    return LabelName(organ, bool(_SIDES & set(words)), any(_LESION.fullmatch(word) for word in words))


def plausible_ml(organ: str) -> tuple[float, float] | None:
    """Return the least and greatest plausible volume of an organ by its name in a study, None if it is not known.

    Example:
        >>> plausible_ml("left_kidney"), plausible_ml("kidneys"), plausible_ml("liver_tumour")
        ((20, 2500), (20, 5000), None)
    """
    read = read_label_name(organ)
    if read.lesion or read.organ not in ORGANS:
        return None
    entry = ORGANS[read.organ]
    return entry.low_ml, entry.high_ml * (2 if entry.paired and not read.sided else 1)
