"""`mskd evaluate` on two folders of NIfTI files: pair them, check them, score them, write the tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mskd.console import progress
from mskd.errors import ConfigError, DataError
from mskd.evaluation.formats import write_tables
from mskd.evaluation.frames import MEAN_ORGAN, concatenate, scan_diagonal_mm, score_frame, write_metrics
from mskd.evaluation.metrics import Hd95Definition, OrganScore, score_case
from mskd.evaluation.statistics import Procedure, add_statistics, statistics_notes
from mskd.evaluation.tables import comparison_table
from mskd.geometry import reorient
from mskd.reference import require_affine
from mskd.scans import IGNORE_VALUE, read_label_values

SUFFIXES = (".nii.gz", ".nii")
LabelMap = Mapping[str, int | Sequence[int]]
"""Organ → its value in the files, or several."""
_EXAMPLE = '--labels \'{"liver": 1, "kidney": [2, 3]}\''
_HIGHEST = 65_535  # scipy makes a list of so many boxes; label files hold no more
_NAMES_SHOWN = 20


@dataclass(frozen=True)
class LabelScan:
    """A label file: integer labels (X, Y, Z) as stored, the size of a voxel in mm, and the 4 × 4 affine."""

    labels: NDArray[np.integer[Any]]
    spacing_mm: tuple[float, float, float]
    affine: NDArray[np.float64]


def evaluate_folders(
    reference: Path,
    prediction: Path,
    labels: LabelMap,
    output: Path,
    *,
    nsd_tolerance_mm: Mapping[str, float] | float = 2.0,
    hd95_definition: Hd95Definition = "max_directed",
    ignore_value: int | None = None,
    study: str = "evaluate",
    method: str = "prediction",
    dataset: str | None = None,
    workers: int = 1,
) -> pd.DataFrame:
    """Score a folder of predictions against a folder of references; files pair by name.

    Writes `metrics.csv` and `comparison.csv`, `.md`, `.tex`, `.html` into `output`. Predictions without a
    reference are left out. All organs of `labels` count as labelled in every reference.

    Args:
        reference: folder of .nii or .nii.gz label files.
        prediction: folder of label files with the same names (either suffix).
        labels: value of each organ in the files, or several values.
        output: folder for the results.
        nsd_tolerance_mm: tolerance of the surface Dice, one or per organ.
        hd95_definition: `max_directed` or `pooled`.
        ignore_value: reference value that counts on neither side, 0 for none; default: 255, unless an organ has it.
        study: name in `metrics.csv`.
        method: name in `metrics.csv` and of the table's row.
        dataset: name in `metrics.csv` and the table; default: that of the reference folder.
        workers: threads for the distances.

    Returns:
        The rows of `metrics.csv`.

    Raises:
        ConfigError: the label map, the tolerances or the ignored value cannot be used.
        DataError: an empty or missing folder, predictions that are missing (all are named), a file that
            cannot be read, a pair that differs in shape or affine, or references that hold none of the label map's
            values but others.
    """
    _check_labels(labels, nsd_tolerance_mm)
    ignored = _ignored(labels, ignore_value)
    values = {organ: _values(value)[0] for organ, value in labels.items()}
    pairs, left_out = _pairs(reference, prediction)
    dataset, frames, n_ignored, unknown = dataset or reference.resolve().name, [], 0, set[int]()
    with progress("evaluate", len(pairs)) as advance:
        for case, reference_file, prediction_file in pairs:
            truth, guess = (_merged(side, labels) for side in read_pair(case, reference_file, prediction_file))
            scores = score_case(
                guess.labels,
                truth.labels,
                truth.spacing_mm,
                values,
                values,
                nsd_tolerance_mm=nsd_tolerance_mm,
                hd95_definition=hd95_definition,
                ignore_value=ignored,
                workers=workers,
            )
            frames.append(_rows(scores, truth, study=study, method=method, dataset=dataset, case=case))
            n_ignored += ignored is not None and bool((truth.labels == ignored).any())
            if all(score.dice is None for score in scores):
                unknown |= set(np.unique(truth.labels).tolist()) - {0, ignored}
            advance(1, case)
    metrics = concatenate(frames)
    without = [organ for organ, rows in metrics.groupby("organ", sort=False) if rows["dice"].isna().all()]
    if len(without) == len(labels) and unknown:
        raise DataError(
            case="all",
            file=reference,
            expected="the values of --labels, " + _map_text(labels),
            found="other values alone: " + ", ".join(map(str, sorted(unknown)[:_NAMES_SHOWN])),
            fix=f"write the value that each organ has in the files, for example {_EXAMPLE}",
        )
    write_metrics(metrics, output / "metrics.csv")
    notes = table_notes(hd95_definition, nsd_tolerance_mm, labels)
    if without:
        notes.append(f"In no reference, so without scores: {', '.join(map(str, without))}.")
    if n_ignored:
        notes.append(f"Voxels of value {ignored} in a reference count on neither side (cases with some: {n_ignored}).")
    if left_out:
        notes.append(f"Predictions without a reference are left out: {_listed(left_out)}.")
    notes += statistics_notes(metrics, Procedure(), Procedure.reference)
    table = add_statistics(comparison_table(metrics, organs=list(labels)), metrics, Procedure())
    write_tables(table, output, notes=notes)
    return metrics


def _values(value: int | Sequence[int]) -> Sequence[int]:
    return (value,) if isinstance(value, int) else value


def _map_text(labels: LabelMap) -> str:
    return ", ".join(f"{organ} = {' + '.join(map(str, _values(value)))}" for organ, value in labels.items())


def _listed(names: Sequence[str]) -> str:
    rest = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + rest


def _ignored(labels: LabelMap, wanted: int | None) -> int | None:
    """Return the reference value that counts on neither side; None: no such value."""
    of_organs = {value for some in labels.values() for value in _values(some)}
    if wanted is None:
        return None if IGNORE_VALUE in of_organs else IGNORE_VALUE
    if wanted in of_organs:
        raise ConfigError(f"--ignore-value {wanted} is the value of an organ in --labels; 0 ignores nothing")
    return wanted or None


def _merged(scan: LabelScan, labels: LabelMap) -> LabelScan:
    """Return labels in which each organ has one value, its first."""
    further = {_values(value)[0]: list(_values(value)[1:]) for value in labels.values() if len(_values(value)) > 1}
    if not further:
        return scan
    merged = scan.labels.astype(np.promote_types(scan.labels.dtype, np.uint16))  # which holds every organ's value
    for first, rest in further.items():
        np.copyto(merged, np.asarray(first, merged.dtype), where=np.isin(scan.labels, rest))
    return replace(scan, labels=merged)


def _rows(
    scores: list[OrganScore], reference: LabelScan, *, study: str, method: str, dataset: str, case: str
) -> pd.DataFrame:
    """Return the rows of one case; a folder knows no folds, seeds or roles."""
    return score_frame(
        scores,
        study=study,
        method=method,
        fold=0,
        seed=0,
        dataset=dataset,
        role="test",
        case=case,
        scan_diagonal_mm=scan_diagonal_mm(reference.labels.shape, reference.spacing_mm),
    )


def table_notes(
    hd95_definition: Hd95Definition, nsd_tolerance_mm: Mapping[str, float] | float, labels: LabelMap
) -> list[str]:
    """Return the sentences that every table of scores carries: its definitions and its label map."""
    definition = {
        "max_directed": "the larger of the two directed 95th percentiles of boundary-voxel distances",
        "pooled": "the 95th percentile of the boundary-voxel distances of both directions pooled",
    }[hd95_definition]
    if isinstance(nsd_tolerance_mm, int | float):
        tolerance = f"{nsd_tolerance_mm:g} mm"
    else:
        tolerance = ", ".join(f"{organ} {value:g} mm" for organ, value in nsd_tolerance_mm.items())
    return [
        f"HD95: {definition}; over found organs, and with the scan's diagonal for missed ones (penalised).",
        f"NSD: share of boundary voxels within the tolerance ({tolerance}).",
        "Mean ± standard deviation over cases; the mean row averages the organs' means.",
        f"Label map: {_map_text(labels)}.",
    ]


def read_labels(file: Path, case: str) -> LabelScan:
    """Read a label file; labels stored as floating point must hold whole numbers.

    Raises:
        DataError: see `mskd.scans.read_label_values`.
    """
    values, affine = read_label_values(file, case)
    x_mm, y_mm, z_mm = (float(size) for size in np.linalg.norm(affine[:3, :3], axis=0))
    return LabelScan(values, (x_mm, y_mm, z_mm), affine)


def read_pair(case: str, reference_file: Path, prediction_file: Path) -> tuple[LabelScan, LabelScan]:
    """Read a reference and its prediction, which must lie on one grid; its axes may run otherwise.

    Raises:
        DataError: a file cannot be read, or the two differ in shape or in their place in space.
    """
    reference, prediction = read_labels(reference_file, case), read_labels(prediction_file, case)
    labels, affine = reorient(prediction.labels, prediction.affine, reference.affine)
    shape = reference.labels.shape
    if labels.shape != shape:
        raise DataError(
            case=case,
            file=prediction_file,
            expected=f"shape {shape}, as the reference",
            found=f"shape {labels.shape}"
            + ("" if labels.shape == prediction.labels.shape else ", its axes put in the reference's order"),
            fix="resample the prediction to the grid of the raw scan (nearest neighbour)",
        )
    require_affine(affine, prediction_file, case, reference.affine, shape, of="the reference")
    # X fastest, as files are read: other orders are scored ten times slower
    return reference, LabelScan(np.asfortranarray(labels), reference.spacing_mm, affine)


def _is_value(value: object) -> bool:
    """Return whether an organ can have this in a label map."""
    some = value if isinstance(value, list | tuple) else [value]
    return bool(some) and all(type(one) is int and 1 <= one <= _HIGHEST for one in some)


def _check_labels(labels: LabelMap, nsd_tolerance_mm: Mapping[str, float] | float) -> None:
    if not labels:
        raise ConfigError(f"--labels names no organ; write for example {_EXAMPLE}")
    wrong = {organ: value for organ, value in labels.items() if not _is_value(value)}
    if wrong and all(isinstance(value, str) and organ.isdecimal() for organ, value in labels.items()):
        raise ConfigError(f"--labels: found value → organ, {wrong}; write organ → value, for example {_EXAMPLE}")
    if wrong:
        raise ConfigError(
            f"--labels: values must be whole numbers from 1 to {_HIGHEST}, one or a list, found {wrong}; "
            f"for example {_EXAMPLE}"
        )
    values = [value for some in labels.values() for value in _values(some)]
    twice = sorted(organ for organ, some in labels.items() if any(values.count(value) > 1 for value in _values(some)))
    if twice:
        raise ConfigError(
            f"--labels: {twice} share a value or hold one twice; give each organ its own, for example {_EXAMPLE}"
        )
    if named := sorted(organ for organ in labels if organ.strip() in ("", MEAN_ORGAN)):
        raise ConfigError(f"--labels: {named}: an organ needs a name, and {MEAN_ORGAN!r} is the row of all organs")
    if isinstance(nsd_tolerance_mm, int | float):
        tolerances: Mapping[str, float] = dict.fromkeys(labels, float(nsd_tolerance_mm))
    else:
        tolerances = nsd_tolerance_mm
    without = sorted(set(labels) - set(tolerances))
    if without:
        raise ConfigError(f"the NSD tolerance lacks {without}; give one number, or one per organ")
    bad = {organ: value for organ, value in tolerances.items() if not (math.isfinite(value) and value >= 0)}
    if bad:
        raise ConfigError(f"the NSD tolerance must be 0 mm or more, found {bad}")


def _pairs(reference: Path, prediction: Path) -> tuple[list[tuple[str, Path, Path]], list[str]]:
    """Return (case, reference file, prediction file) in the order of the names, and predictions that have no reference.

    Raises:
        DataError: a folder is missing or empty, a case occurs twice, or predictions are missing (all
            are named).
    """
    references, predictions = _label_files(reference), _label_files(prediction)
    missing = [case for case in references if case not in predictions]
    if missing:
        raise DataError(
            case=_listed(missing),
            file=prediction,
            expected=f"a prediction for each of the {len(references)} references",
            found=f"none for {len(missing)}; names that are there: {', '.join(list(predictions)[:3])} …",
            fix="predict the missing cases, name the files as the references, or take the references away",
        )
    left_out = [case for case in predictions if case not in references]
    return [(case, file, predictions[case]) for case, file in references.items()], left_out


def _label_files(folder: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    for file in found:
        suffix = next((suffix for suffix in SUFFIXES if file.name.endswith(suffix)), None)
        if suffix is None or file.name.startswith("."):
            continue
        case = file.name.removesuffix(suffix)
        if any("\ud800" <= letter <= "\udfff" for letter in case):  # how Python holds bytes that are no UTF-8
            raise DataError(
                case=ascii(case),
                file=ascii(str(file)),
                expected="a file name in UTF-8",
                found=ascii(file.name),
                fix="rename the file, in both folders",
            )
        if case in files:
            raise DataError(
                case=case,
                file=file,
                expected="one file per case",
                found=f"{files[case].name} beside it",
                fix="delete one of the two",
            )
        files[case] = file
    if not files:
        raise DataError(
            case="all",
            file=folder,
            expected="a folder with .nii or .nii.gz files",
            found="no such folder"
            if not folder.is_dir()
            else f"{len(found)} other entries" + (f": {found[0].name!r} …" if found else ""),
            fix="correct the path; the files must lie in the folder itself",
        )
    return files
