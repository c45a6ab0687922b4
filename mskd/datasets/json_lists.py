"""Cases from the lists in a `dataset.json`, compared with the folders that the lists speak of."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from mskd.datasets.collection import WHOLE_DATASET
from mskd.datasets.folders import below, images_by_stem, stem
from mskd.errors import DataError

CASES_FROM = (
    "json: the cases of dataset.json's list and no others; folder: all cases of the folders; "
    "unset: the list where there is one, and a file that it does not name is an error"
)
"""Description of the option `cases_from` of the layouts that have such lists."""


def listed_pairs(
    root: Path, content: dict[str, Any], key: str
) -> tuple[dict[str, Path], dict[str, Path]] | None:
    """Return images and labels by case name as a list of `{"image": …, "label": …}` names them.

    Args:
        root: Folder of the dataset, which holds `dataset.json`.
        content: The content of `dataset.json`.
        key: Name of the list, such as `training`.

    Returns:
        Images and labels that exist, or None where the file has no such list.

    Raises:
        DataError: The list is not of this form, or names a case twice.
    """
    file = root / "dataset.json"
    items = content.get(key)
    if not items:
        return None
    if not isinstance(items, list) or not all(
        isinstance(i, dict) and i.keys() >= {"image", "label"} for i in items
    ):
        raise DataError(
            case=WHOLE_DATASET,
            file=file,
            expected=f'"{key}": [{{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}}, …]',
            found=repr(items)[:80],
            fix="restore the file from the download, or set the option 'cases_from' to 'folder'",
        )
    images: dict[str, Path] = {}
    labels: dict[str, Path] = {}
    for item in items:
        image, label = below(root, item["image"], file), below(root, item["label"], file)
        name = stem(image.name) or image.name
        if name in images or name in labels:
            raise DataError(
                case=name,
                file=file,
                expected=f'each case once in "{key}"',
                found="the case twice",
                fix="remove one of the two entries",
            )
        # A file that is missing stays out of its mapping, so that the pairing reports it; both missing
        # must not pass as if the list had never named the case.
        labels.update({name: label} if label.is_file() else {})
        images.update({name: image} if image.is_file() else {})
        if name not in images and name not in labels:
            raise DataError(
                case=name,
                file=image,
                expected=f"the image and the label that {file} names",
                found="neither file",
                fix="restore them from the download, or set the option 'cases_from' to 'folder'",
            )
    return images, labels


def unlisted(folder: Path, listed: dict[str, Path]) -> dict[str, Path]:
    """Return the image files of a folder that a list does not name."""
    if not folder.is_dir():
        return {}
    return {name: file for name, file in images_by_stem(folder).items() if name not in listed}


def relative(root: Path, file: Path) -> PurePosixPath:
    """Return a path as `dataset.json` would write it."""
    return PurePosixPath(file.relative_to(root).as_posix())
