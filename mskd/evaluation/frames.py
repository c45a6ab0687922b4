"""The columns of `metrics.csv`: one row per case and organ; written, read, joined and checked here alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from mskd.errors import DataError
from mskd.storage import write_text

if TYPE_CHECKING:
    from mskd.evaluation.metrics import OrganScore

TEXT_COLUMNS = ("study", "method", "dataset", "role", "case", "organ", "status")
INTEGER_COLUMNS = ("fold", "seed")
# Digits after the point: fixed, so that equal scores give equal bytes.
NUMBER_DECIMALS = {"dice": 6, "hd95_mm": 4, "nsd": 6, "scan_diagonal_mm": 2}
COLUMNS = (
    *("study", "method", "fold", "seed", "dataset", "role", "case", "organ"),
    *("dice", "hd95_mm", "nsd", "status", "scan_diagonal_mm"),
)
ROW_KEY = ("study", "method", "fold", "seed", "dataset", "role", "case", "organ")
ROLES = ("test", "external", "resubstitution")
STATUSES = ("scored", "missed", "spurious", "absent")
# The organ name that the tables give to the mean over organs.
MEAN_ORGAN = "mean"
# Which numbers a row of each status carries; the others are empty.
_FILLED = {"scored": ("dice", "hd95_mm", "nsd"), "missed": ("dice", "nsd"), "spurious": (), "absent": ()}


def score_frame(
    scores: Iterable[OrganScore],
    *,
    study: str,
    method: str,
    fold: int,
    seed: int,
    dataset: str,
    role: str,
    case: str,
    scan_diagonal_mm: float,
) -> pd.DataFrame:
    """Return the rows of one case.

    Args:
        scores: of the case, one per organ.
        study: name of the study.
        method: id of the method.
        fold: fold of the run.
        seed: seed of the run.
        dataset: that the case belongs to.
        role: test, external or resubstitution.
        case: id of the case.
        scan_diagonal_mm: length of the scan's diagonal, the HD95 that a missed organ is given in the
            penalised mean.
    """
    rows = [
        {
            "study": study,
            "method": method,
            "fold": fold,
            "seed": seed,
            "dataset": dataset,
            "role": role,
            "case": case,
            "organ": score.organ,
            "dice": score.dice,
            "hd95_mm": score.hd95_mm,
            "nsd": score.nsd,
            "status": score.status,
            "scan_diagonal_mm": scan_diagonal_mm,
        }
        for score in scores
    ]
    return _typed(pd.DataFrame(rows, columns=list(COLUMNS)))


def scan_diagonal_mm(shape: Sequence[int], spacing_mm: Sequence[float]) -> float:
    """Return the length in mm of the diagonal of a scan of `shape` voxels."""
    return float(sum((n * size) ** 2 for n, size in zip(shape, spacing_mm, strict=True)) ** 0.5)


def concatenate(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Join frames in the order given; none gives an empty frame with the columns of `metrics.csv`."""
    # An empty frame carries no values but would widen the types of the others.
    filled = [frame for frame in frames if len(frame)]
    if not filled:
        return _typed(pd.DataFrame(columns=list(COLUMNS)))
    return pd.concat(filled, ignore_index=True)


def write_metrics(frame: pd.DataFrame, path: Path) -> None:
    """Write the rows to `path`: checked, in one step, equal rows as equal bytes.

    Raises:
        DataError: the rows break the contract of `validate_metrics`.
    """
    validate_metrics(frame, path)
    text = frame.loc[:, list(COLUMNS)].copy()
    for column, decimals in NUMBER_DECIMALS.items():
        values = text[column]
        text[column] = ["" if pd.isna(value) else f"{value:.{decimals}f}" for value in values]
    write_text(path, text.to_csv(index=False, lineterminator="\n"))


def read_metrics(path: Path) -> pd.DataFrame:
    """Read and check a `metrics.csv`.

    Raises:
        DataError: the file is missing, is no table, or breaks the contract of `validate_metrics`.
    """
    if not path.is_file():
        raise DataError(
            case="all",
            file=path,
            expected="a metrics.csv",
            found="no such file",
            fix="run `mskd evaluate` for this run, or correct the path",
        )
    try:
        # An organ or a case may be called "NA" or "null": only the columns of numbers know empty values.
        text = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise DataError(
            case="all",
            file=path,
            expected="comma-separated values in UTF-8",
            found=str(error),
            fix="delete the file and evaluate again",
        ) from error
    _check_columns(text, path)
    try:
        frame = _typed(text)
    except (ValueError, TypeError) as error:
        raise DataError(
            case="all",
            file=path,
            expected=f"whole numbers in {', '.join(INTEGER_COLUMNS)}; numbers or nothing in "
            f"{', '.join(NUMBER_DECIMALS)}",
            found=str(error),
            fix="delete the file and evaluate again",
        ) from error
    validate_metrics(frame, path)
    return frame


def read_all_metrics(paths: Iterable[Path]) -> pd.DataFrame:
    """Read several `metrics.csv` files and join them in the order given; a row may occur once in all."""
    files = list(paths)
    frame = concatenate([read_metrics(path) for path in files])
    _check_unique(frame, ", ".join(str(path) for path in files[:3]) + (" …" if len(files) > 3 else ""))
    return frame


def validate_metrics(frame: pd.DataFrame, source: object) -> None:
    """Check the columns, the allowed values, which numbers each status carries, and that rows are unique.

    Args:
        frame: rows of `metrics.csv`.
        source: file or place that the error names.

    Raises:
        DataError: names the first row that breaks the contract.
    """
    _check_columns(frame, source)
    for column, allowed in (("role", ROLES), ("status", STATUSES)):
        wrong = frame[~frame[column].isin(allowed)]
        if len(wrong):
            _refuse(wrong, source, f"{column} one of {', '.join(allowed)}", repr(wrong.iloc[0][column]))
    reserved = frame[frame["organ"] == MEAN_ORGAN]
    if len(reserved):
        _refuse(reserved, source, "organ names other than the one of the mean row", repr(MEAN_ORGAN))
    for column in ("dice", "nsd"):
        wrong = frame[(frame[column] < 0) | (frame[column] > 1)]
        if len(wrong):
            _refuse(wrong, source, f"{column} within 0 … 1", str(wrong.iloc[0][column]))
    for column in ("hd95_mm", "scan_diagonal_mm"):
        wrong = frame[frame[column] < 0]
        if len(wrong):
            _refuse(wrong, source, f"{column} of 0 or more", str(wrong.iloc[0][column]))
    for status, filled in _FILLED.items():
        rows = frame[frame["status"] == status]
        for column in ("dice", "hd95_mm", "nsd"):
            wrong = rows[rows[column].isna() == (column in filled)]
            if len(wrong):
                wanted = "a number" if column in filled else "nothing"
                _refuse(
                    wrong,
                    source,
                    f"{wanted} in {column} where status is {status}",
                    str(wrong.iloc[0][column]),
                )
    _check_unique(frame, source)


def _check_columns(frame: pd.DataFrame, source: object) -> None:
    missing = [column for column in COLUMNS if column not in frame.columns]
    if missing:
        raise DataError(
            case="all",
            file=source,
            expected=f"the columns {', '.join(COLUMNS)}",
            found=f"no {', '.join(missing)}",
            fix="evaluate again with this version of mskd, or add the columns",
        )


def _check_unique(frame: pd.DataFrame, source: object) -> None:
    twice = frame[frame.duplicated(list(ROW_KEY))]
    if len(twice):
        row = twice.iloc[0]
        found = ", ".join(f"{column}={row[column]}" for column in ROW_KEY)
        _refuse(twice, source, "one row per run, case and organ", f"two rows with {found}")


def _refuse(rows: pd.DataFrame, source: object, expected: str, found: str) -> None:
    raise DataError(
        case=str(rows.iloc[0]["case"]),
        file=source,
        expected=expected,
        found=f"{found} ({len(rows)} such row(s))",
        fix="evaluate the run again; if the file was edited by hand, correct the row",
    )


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the columns of the contract, in order, with their types; empty numbers become NaN."""
    typed = frame.loc[:, list(COLUMNS)].copy()
    for column in TEXT_COLUMNS:
        typed[column] = typed[column].astype(object)
    for column in INTEGER_COLUMNS:
        typed[column] = typed[column].astype("int64")
    for column in NUMBER_DECIMALS:
        typed[column] = pd.to_numeric(typed[column].replace("", None)).astype("float64")
    return typed
