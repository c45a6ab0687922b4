"""Any files, named by a CSV or TSV table; nothing needs to be moved or renamed.

The dataset's path is the table. Columns: `case`, `image` (a file, or a folder with a DICOM series), `label`
(a label map; empty: not labelled) and optionally `split` (train, val, test or empty). A column `label:liver`
names a binary file of the structure liver; there may be several, beside or instead of `label`. Other columns
are ignored. Paths are relative to the table. The licence is that of the data.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

from mskd.datasets.case import LABEL_GRIDS, LabelFile, LabelGrid, RawCase
from mskd.datasets.collection import WHOLE_DATASET, CaseCollection, choice
from mskd.datasets.tables import read_table, split_value
from mskd.errors import DataError

TITLE = "Table of files (CSV or TSV)"
LAYOUT = """\
cases.csv:
  case,image,label,split
  a,scans/a.nii.gz,masks/a_liver.nii.gz,train"""
LICENCE = ""
NON_COMMERCIAL = False
EXAMPLE = """\
path: /data/cases.csv
label_map: {1: liver}
split: {kind: native}               # the column split; kind: hash without it"""
CASE_NAMES = ""
LABELS: dict[int, str] = {}
OPTIONS = {
    "label_grid": "scan (default): labels have the affine of their scan; orientation: only the order and the direction "
    "of their axes are right, and they are turned to those of the scan",
}

_BINARY = "label:"


def find_cases(root: Path, options: Mapping[str, str]) -> list[RawCase]:
    """List the cases that a table names; see `mskd.datasets.listing.Adapter`."""
    cases = CaseCollection(root, options)
    rows = read_table(root, required=("case", "image"))
    columns = [name for name in (rows[0] if rows else ()) if name == "label" or name.startswith(_BINARY)]
    if rows and not columns:
        raise DataError(
            case=WHOLE_DATASET,
            file=root,
            expected="a column 'label', or 'label:<structure>' for binary files",
            found=f"columns {', '.join(rows[0])}",
            fix="add the column; leave its cells empty for cases without label",
        )
    grid = cast(LabelGrid, choice(options, "label_grid", LABEL_GRIDS, "scan"))
    for row in rows:
        _add_row(cases, root, row, columns, grid)
    return cases.finish("a table with at least one row below its header")


def _add_row(cases: CaseCollection, table: Path, row: Mapping[str, str], columns: list[str], grid: LabelGrid) -> None:
    """Add the case of one row, or note which of its files is missing."""
    image = table.parent / row["image"]
    labels = [
        LabelFile(table.parent / row[column], column.removeprefix(_BINARY) if column != "label" else None, grid)
        for column in columns
        if row[column]
    ]
    missing = [file.path for file in labels if not file.path.is_file()]
    if not row["image"] or not image.exists():
        missing.append(image)
    for path in missing:
        cases.fault(
            case=row["case"],
            file=path,
            expected=f"the file that {table} names",
            found="no such file" if path != table.parent else "an empty cell",
            fix="correct the table (paths are relative to it), or restore the file",
        )
    if not missing:
        split = split_value(row.get("split", ""), case=row["case"], file=table)
        cases.add(row["case"], image, labels, split)
