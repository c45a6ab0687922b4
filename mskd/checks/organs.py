"""What volumes organs of adults have.

Wide on purpose: from the smallest organs after surgery or wasting to enlarged ones with tumours or cysts, so that what
lies outside is nearly always a wrong label value, a wrong voxel size, or a segmentation that was cut off. Normal means
for comparison (CT volumetry): liver 1500 mL, spleen 200 mL, one kidney 160 mL, pancreas 75 mL, gallbladder 30 mL.
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
}


def plausible_ml(organ: str) -> tuple[float, float] | None:
    """Return the least and greatest plausible volume of an organ by its name in a study, None if it is not known.

    Example:
        >>> plausible_ml("left_kidney"), plausible_ml("kidneys"), plausible_ml("liver_tumour")
        ((20, 2500), (20, 5000), None)
    """
    words = re.split(r"[^a-z]+", organ.lower())
    sided = bool(_SIDES & set(words))
    name = "_".join(word for word in words if word and word not in _SIDES)
    for known in (name, name.removesuffix("s")):
        known = _OTHER_NAMES.get(known, known)
        if known in ORGANS:
            entry = ORGANS[known]
            return entry.low_ml, entry.high_ml * (2 if entry.paired and not sided else 1)
    return None
