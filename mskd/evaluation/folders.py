"""`mskd evaluate` on two folders of NIfTI files: pair them, check them, score them, write the tables."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mskd.errors import ConfigError, DataError
from mskd.evaluation.formats import write_tables
from mskd.evaluation.frames import concatenate, scan_diagonal_mm, score_frame, write_metrics
from mskd.evaluation.metrics import Hd95Definition, OrganScore, score_case
from mskd.evaluation.statistics import Procedure, add_statistics, statistics_notes
from mskd.evaluation.tables import comparison_table

SUFFIXES = (".nii.gz", ".nii")
# Two affines agree when no corner of the scan moves by more than this.
AFFINE_TOLERANCE_MM = 0.01
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
    labels: Mapping[str, int],
    output: Path,
    *,
    nsd_tolerance_mm: Mapping[str, float] | float = 2.0,
    hd95_definition: Hd95Definition = "max_directed",
    ignore_value: int | None = 255,
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
        labels: value of each organ in the files.
        output: folder for the results.
        nsd_tolerance_mm: tolerance of the surface Dice, one or per organ.
        hd95_definition: `max_directed` or `pooled`.
        ignore_value: reference value that counts on neither side.
        study: name in `metrics.csv`.
        method: name in `metrics.csv` and of the table's row.
        dataset: name in `metrics.csv` and the table; default: that of the reference folder.
        workers: threads for the distances.

    Returns:
        The rows of `metrics.csv`.

    Raises:
        ConfigError: the label map or the tolerances cannot be used.
        DataError: an empty or missing folder, predictions that are missing (all are named), a file that
            cannot be read, or a pair that differs in shape or affine.
    """
    _check_labels(labels, nsd_tolerance_mm)
    dataset, frames = dataset or reference.resolve().name, []
    for case, reference_file, prediction_file in _pairs(reference, prediction):
        truth, guess = read_pair(case, reference_file, prediction_file)
        scores = score_case(
            guess.labels,
            truth.labels,
            truth.spacing_mm,
            labels,
            labels,
            nsd_tolerance_mm=nsd_tolerance_mm,
            hd95_definition=hd95_definition,
            ignore_value=ignore_value,
            workers=workers,
        )
        frames.append(_rows(scores, truth, study=study, method=method, dataset=dataset, case=case))
    metrics = concatenate(frames)
    write_metrics(metrics, output / "metrics.csv")
    notes = table_notes(hd95_definition, nsd_tolerance_mm, labels)
    notes += statistics_notes(metrics, Procedure(), Procedure.reference)
    table = add_statistics(comparison_table(metrics, organs=list(labels)), metrics, Procedure())
    write_tables(table, output, notes=notes)
    return metrics


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
    hd95_definition: Hd95Definition, nsd_tolerance_mm: Mapping[str, float] | float, labels: Mapping[str, int]
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
        "Label map: " + ", ".join(f"{organ} = {value}" for organ, value in labels.items()) + ".",
    ]


def read_labels(file: Path, case: str) -> LabelScan:
    """Read a label file; labels stored as floating point must hold whole numbers.

    Raises:
        DataError: the file cannot be read, is not three-dimensional, or holds fractions.
    """
    try:
        load: Any = nib.load  # untyped in nibabel
        image = load(file)
        values = np.asanyarray(image.dataobj)
    except (OSError, EOFError, ValueError, nib.filebasedimages.ImageFileError) as error:
        raise DataError(
            case=case,
            file=file,
            expected="a NIfTI file",
            found=str(error),
            fix="copy or write the file again",
        ) from error
    if values.ndim == 4 and values.shape[3] == 1:
        values = values[..., 0]
    if values.ndim != 3:
        raise DataError(
            case=case,
            file=file,
            expected="a label volume with three axes",
            found=f"shape {values.shape}",
            fix="write one label volume per case (take the arg max of probabilities)",
        )
    if values.dtype.kind not in "iu":
        whole = np.rint(values)
        if not np.array_equal(whole, values):
            raise DataError(
                case=case,
                file=file,
                expected="whole numbers (labels)",
                found=f"{values.dtype} with fractions, {np.nanmin(values):g} … {np.nanmax(values):g}",
                fix="write labels, not probabilities; resample labels with nearest neighbour",
            )
        values = whole.astype(np.int32)
    affine = np.asarray(image.affine, dtype=np.float64)
    x_mm, y_mm, z_mm = (float(size) for size in np.linalg.norm(affine[:3, :3], axis=0))
    return LabelScan(values, (x_mm, y_mm, z_mm), affine)


def read_pair(case: str, reference_file: Path, prediction_file: Path) -> tuple[LabelScan, LabelScan]:
    """Read a reference and its prediction, which must lie on one grid.

    Raises:
        DataError: see `read_labels` and `check_same_grid`.
    """
    reference, prediction = read_labels(reference_file, case), read_labels(prediction_file, case)
    check_same_grid(case, reference, prediction, prediction_file)
    return reference, prediction


def check_same_grid(case: str, reference: LabelScan, prediction: LabelScan, prediction_file: Path) -> None:
    """Refuse a pair whose arrays or whose places in space differ.

    Raises:
        DataError: shapes differ, or a corner of the scan moves by more than 0.01 mm.
    """
    shape = reference.labels.shape
    if prediction.labels.shape != shape:
        raise DataError(
            case=case,
            file=prediction_file,
            expected=f"shape {shape}, as the reference",
            found=f"shape {prediction.labels.shape}",
            fix="resample the prediction to the grid of the raw scan (nearest neighbour)",
        )
    corners = np.array([[x, y, z, 1] for x in (0, shape[0]) for y in (0, shape[1]) for z in (0, shape[2])])
    shift_mm = float(np.abs(corners @ (reference.affine - prediction.affine).T).max())
    if not shift_mm <= AFFINE_TOLERANCE_MM:
        raise DataError(
            case=case,
            file=prediction_file,
            expected=f"the reference's affine {_short(reference.affine)}",
            found=f"{_short(prediction.affine)}: corners are up to {shift_mm:.3g} mm apart",
            fix="write the prediction with the affine of the raw scan, or reorient it to the reference",
        )


def _short(affine: NDArray[np.float64]) -> str:
    return str(np.round(affine[:3], 4).tolist())


def _check_labels(labels: Mapping[str, int], nsd_tolerance_mm: Mapping[str, float] | float) -> None:
    example = '--labels \'{"liver": 1, "spleen": 2}\''
    if not labels:
        raise ConfigError(f"--labels names no organ; write for example {example}")
    wrong = {organ: value for organ, value in labels.items() if not isinstance(value, int) or value < 1}
    if wrong:
        raise ConfigError(f"--labels: values must be whole numbers from 1 on, found {wrong}; for example {example}")
    twice = sorted(organ for organ, value in labels.items() if list(labels.values()).count(value) > 1)
    if twice:
        raise ConfigError(f"--labels: {twice} share a value; give each organ its own, for example {example}")
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


def _pairs(reference: Path, prediction: Path) -> Iterator[tuple[str, Path, Path]]:
    """Return (case, reference file, prediction file) in the order of the names.

    Raises:
        DataError: a folder is missing or empty, a case occurs twice, or predictions are missing (all
            are named).
    """
    references, predictions = _label_files(reference), _label_files(prediction)
    missing = [case for case in references if case not in predictions]
    if missing:
        shown = ", ".join(missing[:_NAMES_SHOWN])
        rest = f" and {len(missing) - _NAMES_SHOWN} more" if len(missing) > _NAMES_SHOWN else ""
        raise DataError(
            case=shown + rest,
            file=prediction,
            expected=f"a prediction for each of the {len(references)} references",
            found=f"none for {len(missing)}; names that are there: {', '.join(list(predictions)[:3])} …",
            fix="predict the missing cases, name the files as the references, or take the references away",
        )
    return ((case, file, predictions[case]) for case, file in references.items())


def _label_files(folder: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    for file in found:
        suffix = next((suffix for suffix in SUFFIXES if file.name.endswith(suffix)), None)
        if suffix is None or file.name.startswith("."):
            continue
        case = file.name.removesuffix(suffix)
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
            found="no such folder" if not folder.is_dir() else f"{len(found)} other entries",
            fix="correct the path; the files must lie in the folder itself",
        )
    return files
