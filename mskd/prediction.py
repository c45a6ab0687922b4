"""From scores on the study grid to a label map on the raw grid."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from mskd.checks.intensities import require_hu
from mskd.console import log
from mskd.device import pick_device
from mskd.geometry import Affine, Geometry
from mskd.inference import Precision, Windows, score_planes
from mskd.models import Model, load_model
from mskd.preparation import prepare_arrays
from mskd.prepared import normalise
from mskd.resampling import scores_to_raw

FAST_OVERLAP = 0.25
# Two, because CPUs convolve a batch of one on a slow path: 0.46 s a window of 64³ in a pair, 0.56 s alone (2 threads)
WINDOWS_AT_A_TIME = 2


@dataclass(frozen=True)
class Prediction:
    """What a model says of a scan, in the axes and grid of the raw file.

    Attributes:
        labels: Label map (X, Y, Z).
        names: Organ → value in it.
        probabilities: Organ → 255 × its probability (X, Y, Z), of the organs that were asked for.
    """

    labels: npt.NDArray[np.uint8]
    names: dict[str, int]
    probabilities: dict[str, npt.NDArray[np.uint8]]


def predict_prepared(
    model: Model,
    image_hu: npt.NDArray[np.int16],
    body: npt.NDArray[np.bool_],
    geometry: Geometry,
    windows: Windows,
    *,
    largest_component: Collection[str] = (),
    probabilities: Collection[str] = (),
    device: torch.device | str = "cpu",
) -> Prediction:
    """Predict a prepared scan.

    Args:
        model: Network and preprocessing.
        image_hu: Prepared image (X, Y, Z).
        body: Where the body is; windows without it are skipped.
        geometry: Way back to the raw grid.
        windows: Sliding window.
        largest_component: Organs of which only the largest connected component is kept.
        probabilities: Organs whose probability is wanted too.
        device: Where to compute.
    """
    planes = score_planes(
        lambda x: (model.network(x), {}),
        image_hu,
        windows,
        body=body,
        device=device,
        prepare=lambda part: normalise(part, model.preprocessing.hu_clip),
    )
    labels, shares = scores_to_raw(planes, geometry, [model.labels[organ] for organ in probabilities])
    keep_largest(labels, [model.labels[organ] for organ in largest_component])

    def as_raw(array: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        return np.ascontiguousarray(geometry.to_raw_axes(array))

    return Prediction(
        as_raw(labels), model.labels, {organ: as_raw(shares[model.labels[organ]]) for organ in probabilities}
    )


def predict_scan(
    model: Model,
    scan_hu: npt.NDArray[Any],
    affine: Affine,
    name: str = "scan",
    *,
    probabilities: Collection[str] = (),
    fast: bool = False,
    precision: Precision = "float32",
    force: bool = False,
    device: torch.device | str = "cpu",
) -> Prediction:
    """Predict a raw scan.

    Args:
        model: A loaded model folder.
        scan_hu: (X, Y, Z) in any axes, in HU.
        affine: 4 × 4, voxel index → world mm, RAS+.
        name: For messages.
        probabilities: Organs whose probability is wanted too.
        fast: Windows overlap by a quarter at most: about three times fewer of them.
        precision: What the network computes in.
        force: Take a scan whose intensities are not those of a CT in HU.
        device: Where to compute; a GPU whose memory runs out hands over to the CPU.

    Raises:
        DataError: If the model was not made for such a scan.
    """
    if not force:
        require_hu(scan_hu, name)
    prepared = prepare_arrays(scan_hu, affine, None, None, model.preprocessing)
    overlap = min(model.overlap, FAST_OVERLAP) if fast else model.overlap
    predict = partial(
        predict_prepared,
        model,
        prepared.image,
        prepared.body,
        prepared.geometry,
        Windows(model.window, overlap, model.stride, WINDOWS_AT_A_TIME, precision),
        largest_component=model.largest_component,
        probabilities=probabilities,
    )
    try:
        return predict(device=device)
    except torch.OutOfMemoryError:
        log(f"{name}: the memory of {device} ran out; predicting it on the CPU")
        torch.cuda.empty_cache()
        model.network.to("cpu")
        found = predict(device="cpu")
        model.network.to(device)
        return found


def segment(
    model: Model | Path | str,
    image: nib.Nifti1Image | npt.NDArray[Any],
    affine: Affine | None = None,
    *,
    device: str = "auto",
    fast: bool = False,
    force: bool = False,
) -> Any:
    """Segment a scan in memory, as `mskd predict` does with files.

    Args:
        model: A model folder, or one that was loaded (`mskd.models.load_model`), which then decides on the device.
        image: A nibabel image in HU, or an array (X, Y, Z).
        affine: Of an array: 4 × 4, voxel index → world mm, RAS+.
        device: auto, cpu, cuda, cuda:1, …
        fast: See `predict_scan`.
        force: See `predict_scan`.

    Returns:
        A nibabel image of uint8 labels for an image, an array for an array; `Model.labels` says what the values mean.

    Example:
        labels = segment("results/demo/models/mskd/fold0-seed0", nib.load("scan.nii.gz"))
    """
    if not isinstance(model, Model):
        model = load_model(Path(model), pick_device(device))
    place = next(model.network.parameters()).device
    if isinstance(image, np.ndarray):
        if affine is None:
            raise TypeError("an array needs its affine: segment(model, array, affine)")
        return predict_scan(model, image, np.asarray(affine, float), fast=fast, force=force, device=place).labels
    array = np.asanyarray(image.dataobj)
    labels = predict_scan(model, array, image.affine, fast=fast, force=force, device=place).labels
    header = image.header.copy()
    header.set_data_dtype(np.uint8)
    header.set_slope_inter(1, 0)
    return type(image)(labels, image.affine, header)


def keep_largest(labels: npt.NDArray[np.uint8], values: Iterable[int]) -> None:
    """Set all but the largest connected component of each value to background, in place."""
    boxes = ndimage.find_objects(labels)
    for value in values:
        if value > len(boxes) or boxes[value - 1] is None:
            continue
        part = labels[boxes[value - 1]]
        components, count = ndimage.label(part == value)
        if count > 1:
            sizes = np.bincount(components.ravel())
            sizes[0] = 0
            part[(components > 0) & (components != int(sizes.argmax()))] = 0
