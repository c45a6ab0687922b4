"""The public layouts on disk: MSD, KiTS, LiTS and BTCV, with their names, axes, values and headers.

`phantom_case_files` only computes paths; the heavy imports happen where a case is written.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mskd.config.phantom import PhantomDataset
from mskd.storage import atomic_path, write_json

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

SplitName = Literal["train", "val", "test"]

# As nibabel calls the axes of the public files.
_USUAL_ORIENTATION = {"msd": "RAS", "kits": "IPL", "lits": "LPS", "btcv": "LAS"}
_COMPRESSION = 1  # noise hardly shrinks; higher levels only take time


@dataclass(frozen=True)
class PhantomCase:
    """A case of a synthetic dataset and where its files lie.

    Attributes:
        name: Name as the layout's adapter sees it.
        index: Number from 0; training cases first, then validation, then test.
        split: train, val or test.
        image: The scan.
        label: The label file with the organs of the dataset only.
        withheld: The full label map, values by BTCV's scheme.
    """

    name: str
    index: int
    split: SplitName
    image: Path
    label: Path
    withheld: Path


def phantom_case_files(root: Path, spec: PhantomDataset) -> list[PhantomCase]:
    """Return the cases of a synthetic dataset; nothing is read or written."""
    splits: list[SplitName] = ["train"] * spec.n_train
    splits += ["val"] * spec.n_val
    splits += ["test"] * spec.n_test
    return [_case(root, spec, index, split) for index, split in enumerate(splits)]


def _case(root: Path, spec: PhantomDataset, index: int, split: SplitName) -> PhantomCase:
    if spec.layout == "msd":
        name = f"{spec.task.split('_')[-1].lower()}_{index:03d}"
        image, label = root / "imagesTr" / f"{name}.nii.gz", root / "labelsTr" / f"{name}.nii.gz"
    elif spec.layout == "kits":
        name = f"case_{index:05d}"
        image, label = root / name / "imaging.nii.gz", root / name / "segmentation.nii.gz"
    elif spec.layout == "lits":
        name = f"volume-{index}"
        image, label = root / f"{name}.nii", root / f"segmentation-{index}.nii"
    else:
        name, folder = f"img{index + 1:04d}", root / "RawData" / "Training"
        image, label = folder / "img" / f"{name}.nii.gz", folder / "label" / f"label{index + 1:04d}.nii.gz"
    return PhantomCase(name, index, split, image, label, root / "withheld" / f"{name}.nii.gz")


def label_values(spec: PhantomDataset) -> dict[int, int]:
    """Return the value in the label files for each value of the full map; what is missing is not labelled."""
    from mskd.phantom.tissue import ORGAN_VALUES

    kidneys = ("right_kidney", "left_kidney")
    if spec.layout == "btcv":
        chosen = {name for organ in spec.organs for name in (kidneys if organ == "kidney" else (organ,))}
        return {value: value for organ, value in ORGAN_VALUES.items() if not chosen or organ in chosen}
    values: dict[int, int] = {}
    for number, organ in enumerate(spec.organs, start=1):
        for name in kidneys if organ == "kidney" else (organ,):
            values[ORGAN_VALUES[name]] = number
    return values


def write_case(root: Path, spec: PhantomDataset, index: int) -> PhantomCase:
    """Simulate one case and write its image, label and withheld label map, each file as a whole or not at all.

    Args:
        root: Folder of the dataset.
        spec: The dataset.
        index: Number of the case, from 0.
    """
    import numpy as np

    from mskd.phantom.cases import simulate_case

    case = phantom_case_files(root, spec)[index]
    scan = simulate_case(spec, index)
    code = spec.scanner.orientation or _USUAL_ORIENTATION[spec.layout]
    table = np.zeros(256, np.uint8)
    for full, own in label_values(spec).items():
        table[full] = own
    for path, array in (
        (case.withheld, scan.labels),
        (case.label, table[scan.labels]),
        (case.image, scan.image),
    ):
        stored, affine = orient(array, scan.affine, code)
        _write_nifti(path, stored, affine)
    return case


def write_dataset_json(root: Path, spec: PhantomDataset) -> None:
    """Write `dataset.json` of the msd layout; the other layouts have none."""
    if spec.layout != "msd":
        return
    cases = phantom_case_files(root, spec)
    content = {
        "name": spec.task.split("_")[-1],
        "description": f"Synthetic CT of the abdomen, {', '.join(spec.organs)}",
        "reference": "mskd phantom",
        "licence": "CC0-1.0",
        "release": "1.0",
        "tensorImageSize": "3D",
        "modality": {"0": "CT"},
        "labels": {"0": "background", **{str(n): organ for n, organ in enumerate(spec.organs, start=1)}},
        "numTraining": len(cases),
        "numTest": 0,
        "training": [
            {"image": f"./imagesTr/{case.image.name}", "label": f"./labelsTr/{case.label.name}"} for case in cases
        ],
        "test": [],
    }
    write_json(root / "dataset.json", content)


def orient(
    array: npt.NDArray[Any], affine: npt.NDArray[np.float64], code: str
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
    """Return a canonical array and its affine with the axes that `code` names.

    Args:
        array: (X, Y, Z) in RAS axes.
        affine: (4, 4) voxel to world (RAS+, mm), diagonal.
        code: Three letters, such as "LPS": the first stored axis grows to the left, and so on.
    """
    import numpy as np

    axes = [next(n for n, pair in enumerate(("RL", "AP", "SI")) if letter in pair) for letter in code]
    flips = [letter in "LPI" for letter in code]
    change = np.zeros((4, 4))
    change[3, 3] = 1
    for stored, (axis, flip) in enumerate(zip(axes, flips, strict=True)):
        change[axis, stored] = -1 if flip else 1
        change[axis, 3] = array.shape[axis] - 1 if flip else 0
    moved = np.transpose(array, axes)[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    return np.ascontiguousarray(moved), affine @ change


def _write_nifti(path: Path, array: npt.NDArray[Any], affine: npt.NDArray[np.float64]) -> None:
    import nibabel as nib

    image = nib.Nifti1Image(array, affine, dtype=array.dtype)
    image.header.set_xyzt_units("mm")
    # Both transforms, as scanners write them; readers differ in which one they believe.
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    with atomic_path(path) as part, part.open("wb") as stream:
        if path.suffix == ".gz":
            # No name and no time in the header: equal scans give equal bytes.
            with gzip.GzipFile("", "wb", _COMPRESSION, stream, mtime=0) as packed:
                image.to_stream(packed)
        else:
            image.to_stream(stream)
