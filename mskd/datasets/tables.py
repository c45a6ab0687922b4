"""Reads CSV and TSV tables as people and spreadsheets write them."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from mskd.datasets.case import SPLITS, Split
from mskd.datasets.collection import WHOLE_DATASET
from mskd.errors import DataError


def read_table(file: Path, required: Sequence[str]) -> list[dict[str, str]]:
    """Return the rows of a table by column name; cells are stripped, empty lines skipped.

    The separator is a tab in `.tsv` files; otherwise the header's most frequent of tab, semicolon and comma.

    Args:
        file: A CSV or TSV file in UTF-8, with a header.
        required: Columns that must be there.

    Raises:
        DataError: The file cannot be read, lacks a column, or has a row of another width.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
        first = next((line for line in text.splitlines() if line.strip()), "")
        separator = "\t" if file.suffix.lower() == ".tsv" else max("\t;,", key=first.count)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        lines = [(number, [cell.strip() for cell in cells]) for number, cells in enumerate(reader, 1)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _fault(file, "a CSV or TSV table in UTF-8", str(error)) from error
    lines = [(number, cells) for number, cells in lines if any(cells)]
    header = lines[0][1] if lines else []
    missing = [name for name in required if name not in header]
    if missing:
        raise _fault(file, f"columns {', '.join(required)}", f"columns {', '.join(header) or '(none)'}")
    if len(set(header)) < len(header):
        raise _fault(file, "each column name once", f"columns {', '.join(header)}")
    for number, cells in lines[1:]:
        if len(cells) != len(header):
            raise _fault(file, f"{len(header)} cells in row {number}", f"{len(cells)} cells")
    return [dict(zip(header, cells, strict=True)) for _, cells in lines[1:]]


def split_value(text: str, *, case: str, file: Path) -> Split | None:
    """Return the split that a cell names, None for an empty cell.

    Raises:
        DataError: The cell names no split.
    """
    for split in SPLITS:
        if text == split:
            return split
    if text:
        raise DataError(
            case=case,
            file=file,
            expected="split train, val or test",
            found=repr(text),
            fix="correct the cell",
            code="split.row",
        )
    return None


def _fault(file: Path, expected: str, found: str) -> DataError:
    return DataError(
        case=WHOLE_DATASET, file=file, expected=expected, found=found, fix="correct the table, or its path"
    )
