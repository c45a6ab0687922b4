"""The scans that a person points at: a file, a folder, a list, DICOM series, an archive."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

from mskd.archives import is_archive, unpacked
from mskd.datasets.case import check_case_name
from mskd.datasets.folders import NIFTI, entries, files, stem
from mskd.datasets.tables import read_table
from mskd.dicom import Series, find_series
from mskd.errors import DataError

LISTS = (".txt", ".csv", ".tsv")


@dataclass(frozen=True)
class ScanSource:
    """A scan to predict.

    Attributes:
        name: What its results are called.
        scan: NIfTI file, or DICOM series.
    """

    name: str
    scan: Path | Series


@contextmanager
def opened_sources(source: Path) -> Iterator[list[ScanSource]]:
    """Yield the scans of a source; an archive is unpacked until the block ends.

    Args:
        source: A NIfTI file; a folder of them; a folder with one or more DICOM series, however deep; a list (`.txt`:
            one path a line; `.csv`, `.tsv`: a column `image` and, if wanted, `case`), its paths relative to the
            list; a `.zip` or `.tar` of any of these.

    Raises:
        DataError: If there is no scan, or a name cannot be used.
    """
    if source.is_file() and is_archive(source):
        with unpacked(source) as folder:
            yield _distinct(_in_folder(folder), source)
    else:
        yield _distinct(_find(source), source)


def _find(source: Path) -> list[ScanSource]:
    if source.is_dir():
        return _in_folder(source)
    if source.is_file() and source.suffix.lower() in LISTS:
        return _in_list(source)
    if not source.exists():
        raise DataError(
            case="(all)",
            file=source,
            expected="a scan, a folder, a list or an archive",
            found="no such file",
            fix="check the path given to -i",
        )
    return [ScanSource(_name(source), source)]


def _in_folder(folder: Path) -> list[ScanSource]:
    """Return the NIfTI files of a folder; if it has none, those further down, and every DICOM series."""
    here = [ScanSource(_name(file), file) for file in files(folder) if stem(file.name) is not None]
    if here:
        return here
    below = [
        ScanSource(_flat(file.relative_to(folder).with_name(_name(file))), file)
        for file in _files_below(folder)
        if stem(file.name) is not None
    ]
    return below + [ScanSource(_flat(Path(series.name)), series) for series in find_series(folder)]


def _in_list(path: Path) -> list[ScanSource]:
    if path.suffix.lower() == ".txt":
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        rows = [{"image": line} for line in lines if line and not line.startswith("#")]
    else:
        rows = read_table(path, required=("image",))
    found = []
    for row in rows:
        image = path.parent / row["image"]
        of_row = _find(image)
        named = row.get("case", "")
        found += [ScanSource(named, of_row[0].scan)] if named and len(of_row) == 1 else of_row
    return found


def _distinct(sources: list[ScanSource], source: Path) -> list[ScanSource]:
    """Refuse names that cannot be file names; number those that come twice."""
    if not sources:
        raise DataError(
            case="(all)",
            file=source,
            expected=f"scans: {' or '.join(NIFTI)} files, DICOM series, a list or an archive of them",
            found="none",
            fix="check the path given to -i",
        )
    found: dict[str, ScanSource] = {}
    for item in sources:
        check_case_name(item.name, source)
        numbered = (f"{item.name}-{number}" for number in count(2))
        name = next(name for name in chain([item.name], numbered) if name not in found)
        found[name] = ScanSource(name, item.scan)
    return list(found.values())


def _files_below(folder: Path) -> Iterator[Path]:
    for entry in entries(folder):
        if entry.is_dir() and not entry.is_symlink():
            yield from _files_below(entry)
        elif entry.is_file():
            yield entry


def _name(file: Path) -> str:
    return stem(file.name) or file.name


def _flat(path: Path) -> str:
    return "_".join(path.parts)
