"""A case as it lies on disk: its name, its image and its label files."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mskd.errors import DataError

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
LabelGrid = Literal["scan", "orientation"]
LABEL_GRIDS: tuple[LabelGrid, ...] = ("scan", "orientation")

MAX_NAME_BYTES = 150
"""Longest case name; file systems allow 255 bytes, and stores and predictions add suffixes of their own."""

_PLAIN = re.compile(r"[A-Za-z0-9._+-]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class LabelFile:
    """A label file of a case.

    Attributes:
        path: The file.
        organ: None for a label map with several values; otherwise the structure that a binary file shows.
        grid: `scan` where the file's affine is that of its scan. `orientation` where only the order and the
            direction of its axes are right and its origin is not: it is turned to the axes of the scan.
    """

    path: Path
    organ: str | None = None
    grid: LabelGrid = "scan"

    @property
    def role(self) -> str:
        """How the file is used, for keys: the same file read in another way is another input."""
        return f"label:{self.organ or ''}" + ("" if self.grid == "scan" else f"@{self.grid}")


@dataclass(frozen=True, slots=True)
class RawCase:
    """A case as its dataset's layout presents it.

    Attributes:
        name: Name inside the dataset; the case id is `<dataset>/<name>`.
        image: An image file, or a folder with a DICOM series.
        labels: Label files, empty where the case is not labelled.
        native_split: The split that the layout itself states, None where it states none.
    """

    name: str
    image: Path
    labels: tuple[LabelFile, ...] = ()
    native_split: Split | None = None


def natural_key(name: str) -> tuple[tuple[str | tuple[int, str], ...], str]:
    """Return a sort key that puts `case_2` before `case_10`.

    Example:
        >>> sorted(["case_10", "case_2"], key=natural_key)
        ['case_2', 'case_10']
    """
    parts = re.split(r"0*([0-9]+)", name)
    # Length before digits orders numbers of any size; a number and a text never meet at one position.
    return tuple((len(part), part) if i % 2 else part for i, part in enumerate(parts)), name


def check_case_name(name: str, file: object) -> tuple[str, ...]:
    """Refuse a name that could leave its folder or break a tool; say what is merely unwise in the others.

    Refused are: empty names, control and invisible characters, path separators, a dot or a dash in front,
    white space at either end, undecodable bytes, and names over 150 bytes.

    Args:
        name: The case's name, without the dataset.
        file: Where the name comes from, for the message.

    Returns:
        Descriptions of what is accepted but apt to trip a shell or another system (spaces, quotes,
        `$`, letters outside ASCII, …); empty for a plain name.

    Raises:
        DataError: The name is refused.
    """
    refused = _refusal(name)
    if refused:
        raise DataError(
            case=ascii(name),
            file=ascii(str(file)),
            expected="a case name of letters, digits and . _ + -, beginning with a letter, digit or _",
            found=refused,
            fix="name the case otherwise: rename the file, or list the dataset with adapter 'table', "
            "whose column 'case' names each file freely",
            code="name.refused",
        )
    if _PLAIN.fullmatch(name):
        return ()
    odd = sorted({char for char in name if not _PLAIN.fullmatch(char)})
    return tuple(f"character {char!r} ({unicodedata.name(char, 'unnamed')})" for char in odd)


def _refusal(name: str) -> str:
    """Return why a case name is refused, empty if it is not."""
    if not name:
        return "an empty name"
    for char in name:
        if char in "/\\":
            return f"the path separator {char!r}"
        # Cc control, Cf invisible or direction-changing, Cs undecodable byte, Zl and Zp line ends.
        if unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"}:
            return f"the control or invisible character U+{ord(char):04X}"
    if name[0] in ".-":
        return f"a leading {name[0]!r}, which hides the file or reads as an option"
    if name != name.strip():
        return "white space at the beginning or the end"
    size = len(name.encode())
    return f"{size} bytes, more than {MAX_NAME_BYTES}" if size > MAX_NAME_BYTES else ""
