"""Tiny CTs in each public layout: its names, axes, data types, label values and lists."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from mskd.datasets.listing import adapter_facts
from mskd.phantom.layouts import orient
from tests.unit.made_series import made_series

SHAPE = (20, 16, 16)
SPACING_MM = 8.0
N_CASES = 5
BOXES = {
    "spleen": (2, 140.0),
    "left_kidney": (7, 180.0),
    "right_kidney": (9, 180.0),
    "pancreas": (7, 80.0),
    "liver": (12, 110.0),
}
"""Structure → first voxel from left to right, and HU above the tissue; a kidney is half as wide as the others."""

Masks = dict[str, npt.NDArray[np.bool_]]


def made_ct(place: Path) -> tuple[npt.NDArray[np.int16], Masks]:
    """Return HU (X, Y, Z) in RAS axes with fat and air, and a mask of each structure; another scan at each place."""
    seed = zlib.crc32(f"{place.parent.name}/{place.name}".encode())
    image = np.random.default_rng(seed).normal(40, 10, SHAPE).astype(np.int16)
    image[:, -4:-2] -= 140
    image[:, -2:] = -1000
    masks = {}
    for name, (first, hu) in BOXES.items():
        width, z = 2 if "kidney" in name else 4, 11 if name == "pancreas" else 4
        box = (slice(first, first + width), slice(4, 10), slice(z, z + 4 + seed % 2))
        image[box] += np.int16(hu)
        masks[name] = np.zeros(SHAPE, bool)
        masks[name][box] = True
    masks["kidney"] = masks["right_kidney"] | masks["left_kidney"]
    return image, masks


def write_layouts(root: Path, only: str | None = None) -> list[str]:
    """Write a dataset in each layout (or in one) to `root/<layout>`; return the layouts."""
    for name, write in LAYOUTS.items():
        if only in (None, name):
            write(root / name)
    return [name for name in LAYOUTS if only in (None, name)]


def _save(path: Path, array: npt.NDArray[Any], axes: str, dtype: type = np.int16) -> None:
    stored, affine = orient(array, np.diag([SPACING_MM, SPACING_MM, SPACING_MM, 1.0]), axes)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(stored.astype(dtype), affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)


def _label_map(masks: Masks, values: Mapping[int, str]) -> npt.NDArray[np.uint8]:
    labels = np.zeros(SHAPE, np.uint8)
    for value, name in values.items():
        labels[masks.get(name, np.zeros(SHAPE, bool))] = value
    return labels


def _pairs(
    image_file: Callable[[int], Path],
    label_file: Callable[[int], Path],
    values: Mapping[int, str],
    axes: str,
    *,
    image_type: type = np.int16,
    label_type: type = np.uint8,
    numbers: range = range(N_CASES),
) -> None:
    for number in numbers:
        image, masks = made_ct(image_file(number))
        _save(image_file(number), image, axes, image_type)
        _save(label_file(number), _label_map(masks, values), axes, label_type)


def _msd(root: Path) -> None:
    names = [f"spleen_{number}" for number in range(N_CASES)]
    _pairs(
        lambda n: root / f"imagesTr/{names[n]}.nii.gz",
        lambda n: root / f"labelsTr/{names[n]}.nii.gz",
        {1: "spleen"},
        "LAS",
        image_type=np.float32,
    )
    _save(root / "imagesTs/spleen_90.nii.gz", made_ct(root / "90")[0], "LAS", np.float32)
    pairs = [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in names]
    content = {
        "name": "Spleen",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "spleen"},
        "numTraining": N_CASES,
        "training": pairs,
        "test": ["./imagesTs/spleen_90.nii.gz"],
    }
    (root / "dataset.json").write_text(json.dumps(content))


def _nnunet(root: Path) -> None:
    _pairs(
        lambda n: root / f"imagesTr/liver_{n:03d}_0000.nii.gz",
        lambda n: root / f"labelsTr/liver_{n:03d}.nii.gz",
        {1: "liver"},
        "LPS",
        label_type=np.int16,
    )
    content = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "liver": 1, "cancer": 2},
        "numTraining": N_CASES,
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(content))


def _kits(root: Path) -> None:
    _pairs(  # slices first, with a permuted, negative affine
        lambda n: root / f"data/case_{n:05d}/imaging.nii.gz",
        lambda n: root / f"data/case_{n:05d}/segmentation.nii.gz",
        {1: "kidney"},
        "IPL",
        image_type=np.float64,
    )


def _lits(root: Path) -> None:
    _pairs(
        lambda n: root / f"Training Batch {n % 2 + 1}/volume-{n}.nii",
        lambda n: root / f"Training Batch {n % 2 + 1}/segmentation-{n}.nii",
        {1: "liver"},
        "RPS",
    )


def _btcv(root: Path) -> None:
    _pairs(
        lambda n: root / f"RawData/Training/img/img{n + 1:04d}.nii.gz",
        lambda n: root / f"RawData/Training/label/label{n + 1:04d}.nii.gz",
        adapter_facts("btcv").labels,
        "LAS",
        label_type=np.float64,
    )


def _amos(root: Path) -> None:
    listed: dict[str, list[dict[str, str]]] = {}
    for part, key, numbers in (("Tr", "training", range(1, 4)), ("Va", "validation", range(4, 6))):
        _pairs(
            lambda n, part=part: root / f"images{part}/amos_{n:04d}.nii.gz",  # type: ignore[misc]
            lambda n, part=part: root / f"labels{part}/amos_{n:04d}.nii.gz",  # type: ignore[misc]
            adapter_facts("amos").labels,
            "LAS",
            image_type=np.float32,
            numbers=numbers,
        )
        names = [f"amos_{n:04d}.nii.gz" for n in numbers]
        listed[key] = [{"image": f"./images{part}/{name}", "label": f"./labels{part}/{name}"} for name in names]
    _save(root / "imagesTr/amos_0507.nii.gz", np.abs(made_ct(root / "507")[0]), "LAS")  # an MRI
    _save(root / "labelsTr/amos_0507.nii.gz", np.zeros(SHAPE, np.uint8), "LAS", np.uint8)
    listed["training"].append({"image": "./imagesTr/amos_0507.nii.gz", "label": "./labelsTr/amos_0507.nii.gz"})
    (root / "dataset.json").write_text(json.dumps({"name": "AMOS", "modality": {"0": "CT"}, **listed}))


def _flare22(root: Path) -> None:
    _pairs(
        lambda n: root / f"images/FLARE22_Tr_{n + 1:04d}_0000.nii.gz",
        lambda n: root / f"labels/FLARE22_Tr_{n + 1:04d}.nii.gz",
        adapter_facts("flare22").labels,
        "RAS",
        image_type=np.float32,
        label_type=np.int32,
    )


def _structures(root: Path, folder: Callable[[int], str], axes: str, dtype: type) -> None:
    for number in range(N_CASES):
        image, masks = made_ct(root / folder(number))
        _save(root / folder(number) / "ct.nii.gz", image, axes, dtype)
        names = {"liver": "liver", "spleen": "spleen", "kidney_left": "left_kidney", "kidney_right": "right_kidney"}
        for file, name in names.items():
            _save(root / folder(number) / f"segmentations/{file}.nii.gz", masks[name], axes, np.uint8)
        absent = np.zeros(SHAPE, bool)
        _save(root / folder(number) / "segmentations/postcava.nii.gz", absent, axes, np.uint8)


def _totalsegmentator(root: Path) -> None:
    _structures(root, lambda n: f"s{n:04d}", "RAS", np.int16)
    splits = ["train", "train", "train", "val", "test"]
    rows = [f"s{n:04d};50;f;{split}" for n, split in enumerate(splits)]
    (root / "meta.csv").write_text("\n".join(["image_id;age;gender;split", *rows]) + "\n", encoding="utf-8-sig")


def _abdomenatlas(root: Path) -> None:
    _structures(root, lambda n: f"BDMAP_{n + 1:08d}", "LPS", np.float32)


def _nih_pancreas(root: Path) -> None:
    """Series as scanners write them; labels with axes P, R, I and another origin, as TCIA serves them."""
    for number in range(1, N_CASES + 1):
        image, masks = made_ct(root / str(number))
        series = root / f"Pancreas-CT/PANCREAS_{number:04d}/11-24-2015-PANCREAS/Pancreas-63502"
        lps = image[::-1, ::-1]  # columns run to the left, rows to the back
        names = [f"1-{SHAPE[2] - index:03d}.dcm" for index in range(SHAPE[2])]
        made_series(series, np.ascontiguousarray(lps), spacing_mm=(SPACING_MM,) * 3, names=names)
        turned, affine = orient(masks["pancreas"].astype(np.uint8), np.diag([SPACING_MM] * 3 + [1.0]), "PRI")
        affine[:3, 3] = (3.0, 1.0, 0.0)
        label = root / f"TCIA_pancreas_labels-02-05-2017/label{number:04d}.nii.gz"
        label.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(turned, affine), label)


def _table(root: Path) -> None:
    _pairs(
        lambda n: root / f"scans of {2020 + n}/patient {n}.nii.gz",
        lambda n: root / f"masks/{n}_spleen.nii",
        {1: "spleen"},
        "LAI",
        label_type=np.int32,
    )
    splits = ["train", "train", "train", "val", "test"]
    rows = [
        f"p{n}\tscans of {2020 + n}/patient {n}.nii.gz\tmasks/{n}_spleen.nii\t{split}" for n, split in enumerate(splits)
    ]
    (root / "cases.tsv").write_text("\n".join(["case\timage\tlabel:spleen\tsplit", *rows]) + "\n")


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "abdomenatlas": _abdomenatlas,
    "amos": _amos,
    "btcv": _btcv,
    "flare22": _flare22,
    "kits": _kits,
    "lits": _lits,
    "msd": _msd,
    "nih_pancreas": _nih_pancreas,
    "nnunet": _nnunet,
    "table": _table,
    "totalsegmentator": _totalsegmentator,
}
