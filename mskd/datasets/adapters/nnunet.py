"""nnU-Net raw data (`Dataset003_Liver`), versions 1 and 2.

`dataset.json` gives the `file_ending` (`.nii.gz` without it) and the `channel_names`; a file name ends with
its channel, four digits. Where test labels lie in `labelsTs`, the test cases are listed too, and the layout
itself says which cases are for training and which for testing. The licence is that of the data.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mskd.datasets.case import RawCase
from mskd.datasets.collection import UNLABELLED, WHOLE_DATASET, CaseCollection
from mskd.datasets.folders import below, images_by_stem, locate, read_json
from mskd.errors import ConfigError, DataError

TITLE = "nnU-Net raw dataset"
LAYOUT = """\
dataset.json
imagesTr/liver_1_0000.nii.gz
labelsTr/liver_1.nii.gz
imagesTs/liver_5_0000.nii.gz   (with labelsTs/liver_5.nii.gz, else ignored)"""
LICENCE = ""
NON_COMMERCIAL = False
EXAMPLE = """\
path: /data/nnUNet_raw/Dataset003_Liver
label_map: {1: liver, 2: liver}     # as dataset.json numbers them
split: {kind: hash, val_fraction: 0.1, test_fraction: 0.2, seed: 0}   # kind: native where labelsTs is there"""
CASE_NAMES = ""
LABELS: dict[int, str] = {}
OPTIONS = {
    "channel": "number of the channel to use where a case has several, counted from 0",
    "unlabelled": UNLABELLED,
}


def find_cases(root: Path, options: Mapping[str, str]) -> list[RawCase]:
    """List the cases of an nnU-Net raw dataset; see `mskd.datasets.listing.Adapter`."""
    channel = options.get("channel")
    if channel is not None and not re.fullmatch(r"[0-9]{1,4}", channel):
        raise ConfigError(f"dataset option channel: {channel!r} is not a number from 0 to 9999")
    cases = CaseCollection(root, options)
    base = root
    if not (root / "dataset.json").is_file() or not (root / "labelsTr").is_dir():
        base = locate(root, [("imagesTr", "labelsTr")])[0].parent
    content = read_json(base / "dataset.json") if (base / "dataset.json").is_file() else {}
    ending = content.get("file_ending", ".nii.gz")
    if not isinstance(ending, str) or not re.fullmatch(r"(\.[A-Za-z0-9]+)+", ending):
        raise _bad_json(base, '"file_ending": ".nii.gz"', repr(ending))
    wanted = None if channel is None else int(channel)
    if isinstance(content.get("dataset"), dict):
        _add_listed(cases, base, content["dataset"], wanted)
        return cases.finish()
    tests = (base / "imagesTs").is_dir() and (base / "labelsTs").is_dir()
    _add_part(cases, base, "Tr", ending, wanted, has_test=tests)
    if tests:
        _add_part(cases, base, "Ts", ending, wanted, has_test=tests)
    _check_count(cases, base, content, ending)
    return cases.finish()


def _add_part(
    cases: CaseCollection, base: Path, part: str, ending: str, channel: int | None, *, has_test: bool
) -> None:
    """Add the cases of `images<part>` and `labels<part>`."""
    image_folder, label_folder = base / f"images{part}", base / f"labels{part}"
    channels: dict[str, dict[int, Path]] = {}
    for name, file in images_by_stem(image_folder, (ending,)).items():
        match = re.fullmatch(r"(.+)_([0-9]{4})", name)
        if match:
            channels.setdefault(match[1], {})[int(match[2])] = file
        else:
            cases.fault(
                case=name,
                file=file,
                expected=f"a name that ends with the channel, {name}_0000{ending}",
                found="no channel",
                fix="use adapter 'msd' for folders whose image and label names are equal",
            )
    images = {name: _one_channel(name, files, channel) for name, files in channels.items()}
    cases.add_pairs(
        images,
        images_by_stem(label_folder, (ending,)),
        expected_label=lambda name: label_folder / f"{name}{ending}",
        expected_image=lambda name: image_folder / f"{name}_{channel or 0:04d}{ending}",
        native_split=("test" if part == "Ts" else "train") if has_test else None,
    )


def _add_listed(cases: CaseCollection, base: Path, entries: dict[str, Any], channel: int | None) -> None:
    """Add the cases that nnU-Net v2's key `dataset` names file by file."""
    file = base / "dataset.json"
    for name, entry in entries.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("images"), list) or "label" not in entry:
            raise _bad_json(base, '"dataset": {"case": {"images": ["…"], "label": "…"}}', repr(entry)[:80])
        files = {number: below(base, image, file) for number, image in enumerate(entry["images"])}
        image, label = _one_channel(name, files, channel), below(base, entry["label"], file)
        cases.add_listed(name, image, label, file)


def _one_channel(name: str, files: dict[int, Path], channel: int | None) -> Path:
    """Return the one channel of a case that is to be used."""
    if channel is None and len(files) == 1:
        return next(iter(files.values()))
    if channel in files:
        return files[channel]
    raise DataError(
        case=name,
        file=next(iter(files.values()), name),
        expected="one CT channel" if channel is None else f"channel {channel}",
        found=f"channels {', '.join(map(str, sorted(files))) or '(none)'}",
        fix="set the dataset's option 'channel' to the CT's number",
    )


def _check_count(cases: CaseCollection, base: Path, content: dict[str, Any], ending: str) -> None:
    """Compare `numTraining` with the labels that are there, as nnU-Net itself does."""
    stated = content.get("numTraining")
    found = len(images_by_stem(base / "labelsTr", (ending,)))
    if stated is not None and stated != found:
        cases.fault(
            case=WHOLE_DATASET,
            file=base / "dataset.json",
            expected=f"{stated} training cases (numTraining)",
            found=f"{found} files *{ending} in labelsTr",
            fix="restore the missing files, or correct numTraining or file_ending",
        )


def _bad_json(base: Path, expected: str, found: str) -> DataError:
    return DataError(
        case=WHOLE_DATASET,
        file=base / "dataset.json",
        expected=expected,
        found=found,
        fix="correct the file; nnU-Net's documentation of its raw data format describes it",
    )
