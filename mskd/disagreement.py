"""Where a reference and a teacher that has not seen it contradict each other, and what that looks like.

A teacher of held-out cases is unsure where it is wrong, mostly; so only voxels of which it is confident count, and of
those the largest connected piece: errors of drawing come in pieces, noise of borders does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Mask = npt.NDArray[np.bool_]
CONFIDENT = log(0.9 / 0.1)  # margin of a probability of 0.9
SIDE_SHARE = 0.3  # least share of both, reference and teacher, that lies where the other has nothing
MIRROR_SHARE = 0.15  # most that two sides' distances from the middle differ, as a share of the body's width
NEIGHBOUR_SHARE = 0.3  # least share of a piece that another organ's teacher claims
SAME_SCAN = 0.995  # correlation of two coarse scans
COARSE = 12  # blocks along each axis


@dataclass(frozen=True)
class Disagreement:
    """The largest piece on which a teacher contradicts a reference.

    Attributes:
        kind: missing organ, missing part, wrong side, leaked neighbour, too much, or none.
        score: Voxels of the piece (both pieces for a wrong side) / voxels of the larger of reference and teacher.
        dice: Of reference and teacher.
        voxels: Of the piece.
        position: Voxel (x, y, z) in the middle of the piece; zeros if there is none.
    """

    kind: str
    score: float
    dice: float
    voxels: int
    position: tuple[int, int, int]


def find_disagreement(
    reference: Mask,
    margin: npt.NDArray[np.floating],
    body: Mask,
    others: Mapping[str, Mask] | None = None,
    *,
    judged: Mask | None = None,
) -> Disagreement:
    """Return the largest confident contradiction in one organ of one case.

    Args:
        reference: The organ in the reference, (X, Y, Z), axes RAS.
        margin: What the teacher says of it, log-odds.
        body: The body, whose middle tells the sides.
        others: What teachers of other organs claim.
        judged: Voxels of which the reference says anything; default: all.
    """
    if judged is not None:
        margin = np.where(judged, margin, 0)  # neither claimed nor denied
    claimed = margin > 0
    size = max(int(reference.sum()), int(claimed.sum()), 1)
    together = int(reference.sum()) + int(claimed.sum())
    dice = 2 * int((reference & claimed).sum()) / together if together else 1.0
    missing, extra = ~reference & (margin > CONFIDENT), reference & (margin < -CONFIDENT)
    lacking, lacking_at = largest_piece(missing)
    leaking, leaking_at = largest_piece(extra)
    if not lacking and not leaking:
        return Disagreement("none", 0.0, dice, 0, (0, 0, 0))
    if not reference.any():
        return Disagreement("missing organ", lacking / size, dice, lacking, lacking_at)
    if min(lacking, leaking) > SIDE_SHARE * size and _mirrored(leaking_at[0], lacking_at[0], body):
        return Disagreement("wrong side", (lacking + leaking) / size, dice, lacking + leaking, leaking_at)
    if lacking >= leaking:
        return Disagreement("missing part", lacking / size, dice, lacking, lacking_at)
    piece = extra
    of_others = max((int((piece & mask).sum()) for mask in (others or {}).values()), default=0)
    kind = "leaked neighbour" if of_others > NEIGHBOUR_SHARE * int(piece.sum()) else "too much"
    return Disagreement(kind, leaking / size, dice, leaking, leaking_at)


def largest_piece(mask: Mask) -> tuple[int, tuple[int, int, int]]:
    """Return the voxels of the largest connected piece and a voxel in its middle; 0 where there is none."""
    pieces, count = ndimage.label(mask)
    if not count:
        return 0, (0, 0, 0)
    sizes = np.bincount(pieces.ravel())[1:]
    chosen = int(np.argmax(sizes))
    at = np.argwhere(pieces == chosen + 1)
    middle = at[np.argmin(np.abs(at - at.mean(axis=0)).sum(axis=1))]
    return int(sizes[chosen]), (int(middle[0]), int(middle[1]), int(middle[2]))


def unsure_share(margins: npt.NDArray[np.floating]) -> float:
    """Return how much of what teachers claim they, or others, are not sure of: (K, X, Y, Z) → share.

    Counted are claimed voxels below confidence, and those that several organs' teachers claim.
    """
    claimed = margins > 0
    any_claim = claimed.any(axis=0)
    if not any_claim.any():
        return 0.0
    doubtful = (claimed & (margins < CONFIDENT)).any(axis=0) | (claimed.sum(axis=0) > 1)
    return float(doubtful.sum() / any_claim.sum())


def coarse_scan(image_hu: npt.NDArray[np.integer], body: Mask) -> npt.NDArray[np.float32]:
    """Return block means of the body's box, standardised: alike for copies that were saved, scaled or shifted in HU."""
    box = ndimage.find_objects(body.astype(np.uint8))
    cut = image_hu[box[0]] if box and box[0] is not None else image_hu
    means: npt.NDArray[np.floating] = cut.astype(np.float32)
    for axis in range(3):
        edges = np.unique(np.linspace(0, means.shape[axis], COARSE + 1).astype(int)[:-1])
        lengths = np.diff([*edges, means.shape[axis]]).reshape([-1 if a == axis else 1 for a in range(3)])
        means = np.add.reduceat(means, edges, axis=axis) / lengths
    full = np.zeros((COARSE,) * 3, np.float32)
    full[tuple(slice(0, n) for n in means.shape)] = means
    spread = float(full.std())
    return (full - full.mean()) / spread if spread > 0 else np.zeros_like(full)


def same_scans(coarse: Mapping[str, npt.NDArray[np.float32]]) -> list[tuple[str, str, float]]:
    """Return pairs of cases whose coarse scans correlate so much that they are one scan, the closest first."""
    names = list(coarse)
    if len(names) < 2:
        return []
    rows = np.stack([coarse[name].ravel() for name in names])
    correlation = rows @ rows.T / rows.shape[1]
    pairs = [
        (names[i], names[j], float(correlation[i, j])) for i, j in np.argwhere(np.triu(correlation, 1) > SAME_SCAN)
    ]
    return sorted(pairs, key=lambda pair: -pair[2])


def robust_z(values: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Return distances from the median in robust standard deviations (1.4826 MAD, at least 1 % of a unit)."""
    centre = np.median(values)
    spread = max(1.4826 * float(np.median(np.abs(values - centre))), 0.01)
    return np.asarray((values - centre) / spread, np.float64)


def _mirrored(x_one: int, x_other: int, body: Mask) -> bool:
    """Return whether two places lie on two sides of the body's middle, about equally far from it."""
    at = np.flatnonzero(body.any(axis=(1, 2)))
    left, right = (int(at[0]), int(at[-1])) if len(at) else (0, body.shape[0] - 1)
    middle, width = (left + right) / 2, max(right - left, 1)
    one, other = x_one - middle, x_other - middle
    return one * other < 0 and abs(one + other) < MIRROR_SHARE * width
