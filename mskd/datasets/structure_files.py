"""One folder per case, with the image and a folder of one binary file per structure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from mskd.datasets.case import LabelFile, Split
from mskd.datasets.collection import CaseCollection
from mskd.datasets.folders import images_by_stem, subfolders

STRUCTURES = "comma-separated names of the structures to list, such as liver,spleen; all without it"
"""Description of the option `structures`."""

_IMAGES = ("ct.nii.gz", "ct.nii")


def add_structure_folders(
    cases: CaseCollection, options: Mapping[str, str], splits: Mapping[str, Split] | None = None
) -> None:
    """Add each folder `<case>/ct.nii.gz` with `<case>/segmentations/<structure>.nii.gz`.

    A structure that most cases have and one has not is a fault: an absent organ is a file of zeros in these
    datasets, so a missing file is a broken download.

    Args:
        cases: Receives the cases; its root holds the case folders.
        options: `structures` restricts the files.
        splits: Split by case, as the dataset's table gives it.
    """
    wanted = [name.strip() for name in options.get("structures", "").split(",") if name.strip()]
    found: dict[Path, dict[str, Path]] = {}
    for folder in subfolders(cases.root):
        masks = folder / "segmentations"
        if masks.is_dir() or _image(folder):
            found[folder] = images_by_stem(masks) if masks.is_dir() else {}
    counts = Counter(name for files in found.values() for name in files)
    labelled = sum(1 for files in found.values() if files)
    usual = wanted or [name for name, count in counts.items() if 2 * count > labelled]
    for folder, files in found.items():
        image, masks = _image(folder), folder / "segmentations"
        split = (splits or {}).get(folder.name)
        if image is None:
            cases.label_alone(folder.name, masks, folder / _IMAGES[0])
        elif not files:
            cases.add_unlabelled(folder.name, image, masks / "<structure>.nii.gz", split)
        elif missing := sorted(set(usual) - files.keys()):
            _missing(cases, folder.name, masks, missing)
        else:
            names = wanted or sorted(files)
            cases.add(folder.name, image, [LabelFile(files[name], name) for name in names], split)


def _image(folder: Path) -> Path | None:
    return next((folder / name for name in _IMAGES if (folder / name).is_file()), None)


def _missing(cases: CaseCollection, name: str, masks: Path, missing: list[str]) -> None:
    """Note the structures that a case lacks."""
    more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
    cases.fault(
        case=name,
        file=masks,
        expected=", ".join(f"{structure}.nii.gz" for structure in missing[:5]) + more,
        found="no such file",
        fix="restore the files, or name the structures to use in the dataset's option 'structures'",
    )
