"""Reads folders the way downloads are: with hidden files, system files and missing parts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from mskd.datasets.collection import WHOLE_DATASET
from mskd.errors import DataError

NIFTI = (".nii.gz", ".nii")

_SYSTEM_FILES = {"__MACOSX", "Thumbs.db", "desktop.ini"}


def entries(folder: Path) -> list[Path]:
    """Return what a folder holds, sorted, without hidden and system files (`._x`, `.DS_Store`, …).

    Raises:
        DataError: The folder is missing, not a folder, or not readable.
    """
    return [Path(entry.path) for entry in _scan(folder)]


def files(folder: Path) -> list[Path]:
    """Return the files of a folder as `entries` does."""
    return [Path(entry.path) for entry in _scan(folder) if entry.is_file()]


def subfolders(folder: Path) -> list[Path]:
    """Return the folders in a folder as `entries` does; links to folders count."""
    return [Path(entry.path) for entry in _scan(folder) if entry.is_dir()]


def files_below(folder: Path) -> list[Path]:
    """Return the files in a folder and in all folders below it, in the order of `entries`, files before folders.

    Links to folders count; one that leads back to a folder that was passed is not followed again.

    Raises:
        DataError: A folder cannot be read.
    """
    found: list[Path] = []
    pending, passed = [folder], set()
    while pending:
        here = pending.pop()
        real = here.resolve()
        if real in passed:
            continue
        passed.add(real)
        found += files(here)
        pending += reversed(subfolders(here))
    return found


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            kept = [e for e in found if not e.name.startswith(".") and e.name not in _SYSTEM_FILES]
    except OSError as error:
        raise DataError(
            case=WHOLE_DATASET,
            file=folder,
            expected="a folder that can be read",
            found=(error.strerror or type(error).__name__).lower(),
            fix="correct the dataset's path, or unpack the download there, or mend the permissions",
        ) from error
    return sorted(kept, key=lambda entry: entry.name)


def stem(name: str, suffixes: Sequence[str] = NIFTI) -> str | None:
    """Return a file name without its image suffix, None if it has none of the suffixes."""
    for suffix in suffixes:
        if name.endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return None


def images_by_stem(folder: Path, suffixes: Sequence[str] = NIFTI) -> dict[str, Path]:
    """Return the image files of a folder by name without suffix; other files are ignored.

    Raises:
        DataError: The folder cannot be read, or holds a file both compressed and not.
    """
    found: list[tuple[str, Path]] = []
    for file in files(folder):
        name = stem(file.name, suffixes)
        if name is not None:
            found.append((name, file))
    return unique(found)


def unique(found: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    """Return files by key.

    Raises:
        DataError: Two files have the same key.
    """
    by_key: dict[str, Path] = {}
    for key, file in found:
        if key in by_key:
            raise DataError(
                case=key,
                file=file,
                expected="one file for this case",
                found=f"also {by_key[key]}",
                fix="remove one of the two",
                code="listing.twice",
            )
        by_key[key] = file
    return by_key


def locate(root: Path, layouts: Sequence[tuple[str, ...]]) -> tuple[Path, ...]:
    """Return the folders of the first layout that exists, in the root or in one of its subfolders.

    Args:
        root: Folder of the dataset, or the folder into which its archive was unpacked.
        layouts: Alternatives, each the subfolders that belong together, such as `("images", "labels")`.

    Raises:
        DataError: No layout is there, or several subfolders have it.
    """
    for base in ([root], subfolders(root)):
        for layout in layouts:
            matches = [folder for folder in base if all((folder / part).is_dir() for part in layout)]
            if len(matches) == 1:
                return tuple(matches[0] / part for part in layout)
            if matches:
                raise DataError(
                    case=WHOLE_DATASET,
                    file=root,
                    expected=f"one folder with {' and '.join(layout)}",
                    found=", ".join(folder.name for folder in matches),
                    fix="point the dataset's path to the one that is meant",
                )
    raise DataError(
        case=WHOLE_DATASET,
        file=root,
        expected="the folders " + ", or ".join(" and ".join(layout) for layout in layouts),
        found=describe(root),
        fix="point the dataset's path to the folder that holds them, or choose another adapter",
    )


def describe(folder: Path) -> str:
    """Return a short account of what a folder holds, for messages."""
    names = [entry.name for entry in entries(folder)]
    if not names:
        return "an empty folder"
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def read_json(file: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        DataError: The file cannot be read, or holds no JSON object.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            case=WHOLE_DATASET,
            file=file,
            expected="a JSON file",
            found=str(error),
            fix="restore the file from the download",
        ) from error
    if not isinstance(content, dict):
        raise DataError(
            case=WHOLE_DATASET,
            file=file,
            expected="a JSON object",
            found=type(content).__name__,
            fix="restore the file from the download",
        )
    return content


def below(root: Path, entry: object, file: Path) -> Path:
    """Return the path that an entry of a dataset's own list names, which must lie below the root.

    Args:
        root: Folder of the dataset.
        entry: What the list says, such as `./imagesTr/liver_1.nii.gz`.
        file: The list, for the message.

    Raises:
        DataError: The entry is no relative path below the root.
    """
    text = entry.replace("\\", "/") if isinstance(entry, str) else ""
    path = PurePosixPath(text)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in text:
        raise DataError(
            case=WHOLE_DATASET,
            file=file,
            expected="paths relative to the dataset's folder and below it",
            found=repr(entry),
            fix="correct the entry; files that lie elsewhere can be listed with adapter 'table'",
        )
    return root.joinpath(*path.parts)
