"""Cases from the lists in a `dataset.json`, compared with the folders that the lists speak of."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from mskd.datasets.collection import WHOLE_DATASET, CaseCollection
from mskd.datasets.folders import below, images_by_stem, stem
from mskd.errors import DataError

CASES_FROM = (
    "json: the cases of dataset.json's list and no others; folder: all cases of the folders; "
    "auto (default): the list where there is one, and an image that it does not name is an error"
)
"""Description of the option `cases_from` of the layouts that have such lists."""


def listed_pairs(base: Path, content: dict[str, Any], key: str) -> dict[str, tuple[Path, Path]] | None:
    """Return image and label by case name as a list of `{"image": …, "label": …}` names them.

    Args:
        base: The folder that holds `dataset.json`.
        content: The content of `dataset.json`.
        key: Name of the list, such as `training`.

    Returns:
        Paths that may or may not exist; None where the file has no such list.

    Raises:
        DataError: The list is not of this form, or names a case twice.
    """
    file = base / "dataset.json"
    items = content.get(key)
    if not items:
        return None
    if not isinstance(items, list) or not all(_is_pair(item) for item in items):
        raise DataError(
            case=WHOLE_DATASET,
            file=file,
            expected=f'"{key}": [{{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}}, …]',
            found=repr(items)[:80],
            fix="restore the file from the download, or set the option 'cases_from' to 'folder'",
        )
    pairs: dict[str, tuple[Path, Path]] = {}
    for item in items:
        image, label = below(base, item["image"], file), below(base, item["label"], file)
        name = stem(image.name) or image.name
        if name in pairs:
            raise DataError(
                case=name,
                file=file,
                expected=f'each case once in "{key}"',
                found="the case twice",
                fix="remove one of the two entries",
            )
        pairs[name] = (image, label)
    return pairs


def _is_pair(item: object) -> bool:
    return isinstance(item, dict) and item.keys() >= {"image", "label"}


def report_unlisted(cases: CaseCollection, folder: Path, listed: Collection[str], list_file: Path) -> None:
    """Note the images of a folder that a list does not name."""
    for name, file in images_by_stem(folder).items() if folder.is_dir() else ():
        if name not in listed:
            cases.fault(
                case=name,
                file=file,
                expected=f"an entry in {list_file}",
                found="none",
                fix="add the entry, or set the option 'cases_from' to 'folder' (take all files) "
                "or 'json' (take the listed ones only)",
            )
