"""Hounsfield units of tissues by contrast phase, and the values that organs have in label files."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mskd.config.phantom import Phase

ORGAN_VALUES: dict[str, int] = {
    "spleen": 1,
    "right_kidney": 2,
    "left_kidney": 3,
    "gallbladder": 4,
    "liver": 6,
    "stomach": 7,
    "aorta": 8,
    "ivc": 9,
    "pancreas": 11,
}
"""Values of the full label map, those of BTCV's thirteen-organ scheme."""

# Mean HU by phase: unenhanced, arterial, portal venous, nephrographic. Typical values from the radiology literature.
_PHASES: tuple[Phase, ...] = ("unenhanced", "arterial", "portal_venous", "nephrographic")
_MEAN_HU: dict[str, tuple[float, float, float, float]] = {
    "liver": (56, 68, 106, 94),
    "spleen": (48, 122, 118, 100),
    "pancreas": (40, 102, 88, 74),
    "kidney_cortex": (33, 195, 182, 168),
    "kidney_medulla": (31, 95, 158, 166),
    "renal_pelvis": (5, 8, 25, 190),
    "gallbladder": (8, 8, 9, 10),
    "stomach": (42, 78, 84, 72),
    "aorta": (42, 310, 152, 122),
    "ivc": (40, 75, 136, 122),
    "portal_vein": (41, 95, 164, 126),
    "hepatic_vein": (41, 62, 150, 122),
    "heart": (42, 210, 145, 122),
    "bowel_wall": (40, 92, 92, 76),
    "muscle": (52, 58, 62, 63),
    "lymph_node": (42, 75, 92, 82),
    "tumour": (35, 58, 62, 60),
    "small_intestine": (28, 55, 60, 50),
    "fat": (-102, -101, -100, -99),
    "lung": (-840, -840, -835, -835),
    "bone": (230, 230, 235, 235),
    "bone_cortex": (520, 520, 520, 520),
    "marrow": (165, 170, 178, 175),
    "cartilage": (95, 95, 100, 100),
    "disc": (78, 78, 82, 82),
    "water": (6, 6, 8, 8),
    "stool": (10, 10, 10, 10),
    "skin": (30, 35, 40, 40),
    "gas": (-920, -920, -920, -920),
    "air": (-1000, -1000, -1000, -1000),
}
# How much a tissue's mean differs between patients; contrast makes blood and what it feeds more variable.
_SPREAD_HU = {
    "liver": 7.0,
    "spleen": 5.0,
    "pancreas": 6.0,
    "aorta": 14.0,
    "kidney_cortex": 9.0,
    "bowel_wall": 8.0,
}


def draw_tissues(rng: np.random.Generator, phase: Phase, jitter: float) -> Mapping[str, float]:
    """Return the HU of every tissue of one patient in one phase.

    Args:
        rng: Random generator; the same number of values is drawn whatever the phase.
        phase: Contrast phase.
        jitter: Strength of the variation between scans (1 for the full spread).
    """
    column = _PHASES.index(phase)
    uptake = 1.0 + 0.06 * jitter * float(np.clip(rng.standard_normal(), -2, 2))
    tissues: dict[str, float] = {}
    for name, means in _MEAN_HU.items():
        enhancement = means[column] - means[0]
        own = float(np.clip(rng.standard_normal(), -2, 2)) * jitter
        tissues[name] = means[0] + uptake * enhancement + own * _SPREAD_HU.get(name, 2.0)
    tissues["kidney_medulla"] += 0.8 * (tissues["kidney_cortex"] - _MEAN_HU["kidney_cortex"][column])
    return tissues
