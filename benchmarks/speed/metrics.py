"""HD95, Dice and surface Dice of five organs: good, bad, missing, with a far false positive, good."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.speed.data import LABELS, VALUES, read, write_scan
from benchmarks.speed.options import Options
from benchmarks.speed.pairing import Answer, Check, Pair
from benchmarks.speed.sides import Work

TOLERANCE_MM = 2.0
PREDICTION = "prediction.npy"
Labels = npt.NDArray[np.uint8]


def set_up(folder: Path, options: Options) -> None:
    """Write the prediction."""
    write_scan(folder, options)
    np.save(folder / PREDICTION, prediction_of(read(folder, LABELS)[0]))


def prediction_of(labels: Labels) -> Labels:
    """Return a prediction: organs 1 and 5 a voxel off, 2 far off, 3 missing, 4 a voxel off with a blob in a corner."""
    prediction = np.zeros_like(labels)
    off = max(3, labels.shape[0] // 40)
    for value, shift in ((1, (1, 1, 0)), (2, (off, -off, 2)), (4, (0, 1, 1)), (5, (-1, 0, 1))):
        prediction[np.roll(labels == value, shift, (0, 1, 2))] = value
    corner = tuple(slice(2, 2 + max(4, n // 50)) for n in labels.shape)
    prediction[corner] = 4
    return prediction


def pairs(options: Options) -> list[Pair]:
    """Return the rows."""
    shape = "128×128×64" if options.quick else "512×512×200"
    work = f"HD95, Dice, surface Dice of 5 organs ({shape}; good, bad, missing, far false positive)"
    return [
        Pair("metrics_monai", work, "ours_monai", "monai", "MONAI", ("monai",), 1 / 5, _check_monai),
        Pair(
            *("metrics_medpy", work, "ours_medpy", "medpy", "MedPy", ("MedPy",), 1 / 30, _check_medpy),
            note="MedPy computes HD95 and Dice; ours computes surface Dice as well.",
        ),
    ]


def _ours(definition: Any) -> Any:
    def side(folder: Path, options: Options) -> Work:
        from mskd.evaluation.metrics import score_case

        truth, guess, spacing = _inputs(folder)

        def run() -> list[Any]:
            return score_case(
                guess, truth, spacing, VALUES, VALUES, nsd_tolerance_mm=TOLERANCE_MM, hd95_definition=definition
            )

        def answer(scores: list[Any]) -> Answer:
            return {
                "dice": [s.dice for s in scores],
                "hd95": [np.nan if s.hd95_mm is None else s.hd95_mm for s in scores],
                "nsd": [s.nsd for s in scores],
            }

        return Work(run, answer)

    return side


def _monai(folder: Path, options: Options) -> Work:
    import torch
    from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice

    truth, guess, spacing = _inputs(folder)

    def run() -> list[npt.NDArray[Any]]:
        one, other = (_one_hot(torch.from_numpy(np.ascontiguousarray(a))) for a in (guess, truth))
        hd95 = compute_hausdorff_distance(one, other, include_background=False, percentile=95, spacing=spacing)
        nsd = compute_surface_dice(one, other, [TOLERANCE_MM] * len(VALUES), include_background=False, spacing=spacing)
        return [np.asarray(v)[0] for v in (compute_dice(one, other, include_background=False), hd95, nsd)]

    def answer(found: list[npt.NDArray[Any]]) -> Answer:
        return {name: list(map(float, v)) for name, v in zip(("dice", "hd95", "nsd"), found, strict=True)}

    return Work(run, answer)


def _medpy(folder: Path, options: Options) -> Work:
    from medpy.metric.binary import dc, hd95

    truth, guess, spacing = _inputs(folder)

    def run() -> dict[str, list[float]]:
        found: dict[str, list[float]] = {"dice": [], "hd95": []}
        for value in VALUES.values():
            one, other = guess == value, truth == value
            found["dice"].append(float(dc(one, other)))
            found["hd95"].append(float(hd95(one, other, spacing)) if one.any() and other.any() else np.nan)
        return found

    return Work(run, dict)


def _one_hot(labels: Any) -> Any:
    """Return (1, 6, X, Y, Z) bool, as MONAI's metrics take it."""
    import torch

    return torch.stack([labels == value for value in range(1 + len(VALUES))])[None]


def _inputs(folder: Path) -> tuple[Labels, Labels, tuple[float, ...]]:
    truth, affine = read(folder, LABELS)
    return truth, np.load(folder / PREDICTION), tuple(float(n) for n in np.linalg.norm(affine[:3, :3], axis=0))


def _check_monai(ours: Answer, theirs: Answer) -> list[Check]:
    return [*_check_medpy(ours, theirs), Check("surface Dice, largest difference", _apart(ours, theirs, "nsd"), 1e-6)]


def _check_medpy(ours: Answer, theirs: Answer) -> list[Check]:
    lost = sum(np.isfinite(a) != np.isfinite(b) for a, b in zip(ours["hd95"], theirs["hd95"], strict=True))
    return [
        Check("HD95, largest difference (mm)", _apart(ours, theirs, "hd95"), 1e-3),
        Check("organs of which one side alone has an HD95", float(lost), 0),
        Check("organs with an HD95", float(np.isfinite(ours["hd95"]).sum()), 4, ">="),
        Check("Dice, largest difference", _apart(ours, theirs, "dice"), 1e-6),
    ]


def _apart(ours: Answer, theirs: Answer, name: str) -> float:
    first, second = (np.asarray(answer[name], float) for answer in (ours, theirs))
    both = np.isfinite(first) & np.isfinite(second)
    return float(np.abs(first - second)[both].max()) if both.any() else float("nan")


SIDES = {"ours_monai": _ours("max_directed"), "ours_medpy": _ours("pooled"), "monai": _monai, "medpy": _medpy}
