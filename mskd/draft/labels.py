"""Which organ each value, or each structure, of a recognised dataset means."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mskd.config.data import BACKGROUND, IGNORE
from mskd.datasets.folders import read_json
from mskd.draft.recognition import FoundDataset
from mskd.errors import DataError
from mskd.organs import ORGANS, read_label_name

LOOKED_AT = 3  # label files that are opened where nothing says what their values mean


@dataclass
class Labels:
    """What the label files of a dataset hold.

    Attributes:
        values: Value in the label files → name; "" where nothing says it.
        structures: Names of the files, for layouts with a file per structure.
    """

    values: dict[int, str] = field(default_factory=dict)
    structures: list[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """Every name that is known."""
        return [name for name in (*self.values.values(), *self.structures) if name]


def labels_of(found: FoundDataset, told: Mapping[int, str]) -> Labels:
    """Return what the labels of a dataset mean: as the user says, as the dataset is published, as its files say.

    Args:
        found: The dataset.
        told: Value → name, from the user; comes first.

    Raises:
        DataError: If a label file that has to be opened cannot be read.
    """
    files = [file for case in found.cases for file in case.labels]
    counted = Counter(file.organ for file in files if file.organ is not None)
    if counted and len(counted) == len({file.organ for file in files}):
        return Labels(structures=list(counted))
    values = dict(found.adapter.labels) or _stated(found)
    values = values or dict.fromkeys(_occurring(found), "")
    return Labels(values=dict(sorted({**values, **told}.items())))


def organ_map(names: Mapping[Any, str], organs: Iterable[str]) -> dict[Any, str]:
    """Return the study's organ of each value (or structure); what is none of them is background.

    Left and right are one organ. A lesion counts as the organ that it is named after, or as the only organ of the
    dataset; where neither is clear, nobody is judged on its voxels.

    Args:
        names: Value or structure → name.
        organs: The study's organs.
    """
    read = {key: read_label_name(name) for key, name in names.items()}
    own = {label.organ for label in read.values() if not label.lesion}
    found = {}
    for key, label in read.items():
        if names[key] in (IGNORE, BACKGROUND):
            found[key] = names[key]
            continue
        organ = label.organ
        if label.lesion and organ not in own:
            organ = next(iter(own)) if len(own) == 1 else IGNORE
        found[key] = organ if organ in (*organs, IGNORE) else BACKGROUND
    return found


def organs_of(labels: Labels) -> list[str]:
    """Return the organs that a dataset labels, lesions left out; of very many structures the known organs alone."""
    read = [read_label_name(name) for name in labels.names if name not in (IGNORE, BACKGROUND)]
    found = list(dict.fromkeys(label.organ for label in read if label.organ and not label.lesion))
    return [organ for organ in found if organ in ORGANS] if labels.structures else found


def _stated(found: FoundDataset) -> dict[int, str]:
    """Return the labels that a `dataset.json` names, in the form of MSD or of nnU-Net v2."""
    places = (found.root, *(case.image.parent.parent for case in found.cases[:1]))
    file = next((place / "dataset.json" for place in places if (place / "dataset.json").is_file()), None)
    content = read_json(file).get("labels") if file else None
    if not isinstance(content, dict):
        return {}
    pairs = [(key, value) if str(key).isdigit() else (value, key) for key, value in content.items()]
    return {int(key): str(name) for key, name in pairs if str(key).isdigit() and int(key) > 0}


def _occurring(found: FoundDataset) -> list[int]:
    """Return the values of a few label files."""
    from mskd.checks.labels import tally
    from mskd.scans import read_stored

    values: set[int] = set()
    labelled = [case for case in found.cases if case.labels]
    for case in labelled[:: max(1, len(labelled) // LOOKED_AT)][:LOOKED_AT]:
        for file in case.labels:
            if file.organ is None:
                values.update(tally(read_stored(file.path, case.name)[0], file.path, case.name))
    if len(values) > 200:
        case = labelled[0]
        raise DataError(
            case=case.name,
            file=case.labels[0].path,
            expected="a label map",
            found=f"{len(values)} values, as an image has them",
            fix="check which files are images and which are labels",
        )
    return sorted(values)
