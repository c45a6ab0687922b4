"""From scores on the study grid to a label map on the raw grid."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
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
from mskd.inference import Windows, sliding_window
from mskd.models import Model, load_model
from mskd.preparation import prepare_arrays
from mskd.prepared import normalise
from mskd.resampling import scores_to_raw_labels, share_to_raw

FAST_OVERLAP = 0.25


def predict_labels(
    model: Model,
    image_hu: npt.NDArray[np.int16],
    body: npt.NDArray[np.bool_],
    geometry: Geometry,
    windows: Windows,
    *,
    largest_component: Collection[str] = (),
    device: torch.device | str = "cpu",
) -> npt.NDArray[np.uint8]:
    """Return the label map of a prepared scan in the axes and grid of its raw file.

    Args:
        model: Network and preprocessing.
        image_hu: Prepared image (X, Y, Z).
        body: Where the body is; windows without it are skipped.
        geometry: Way back to the raw grid.
        windows: Sliding window.
        largest_component: Organs of which only the largest connected component is kept.
        device: Where to compute.
    """
    scores = predict_scores(model, image_hu, body, windows, device=device)
    return labels_of(scores, geometry, {organ: model.labels[organ] for organ in largest_component})


def predict_scores(
    model: Model,
    image_hu: npt.NDArray[np.int16],
    body: npt.NDArray[np.bool_],
    windows: Windows,
    *,
    device: torch.device | str = "cpu",
) -> npt.NDArray[np.float32]:
    """Return the scores (1 + K, X, Y, Z) of a prepared scan on the study grid; arguments as `predict_labels`."""
    image = normalise(image_hu, model.preprocessing.hu_clip)
    return sliding_window(lambda x: (model.network(x), {}), image, windows, body=body, device=device).scores


def labels_of(
    scores: npt.NDArray[np.float32], geometry: Geometry, largest_component: Mapping[str, int]
) -> npt.NDArray[np.uint8]:
    """Return the label map of scores on the raw grid, in its file's axes.

    Args:
        scores: (1 + K, X, Y, Z) on the study grid.
        geometry: Way back to the raw grid.
        largest_component: Organ → value, for organs of which only the largest connected component is kept.
    """
    labels = scores_to_raw_labels(scores, geometry)
    keep_largest(labels, largest_component)
    return np.ascontiguousarray(geometry.to_raw_axes(labels))


def probability_of(scores: npt.NDArray[np.float32], channel: int, geometry: Geometry) -> npt.NDArray[np.uint8]:
    """Return 255 × the softmax probability of a channel on the raw grid, in its file's axes; one channel at a time."""
    # softmax by channels, so that no second array of all classes exists
    top = scores.max(axis=0)
    total = np.zeros_like(top)
    for of_channel in scores:
        total += np.exp(of_channel - top)
    share = np.exp(scores[channel] - top) / total
    return np.ascontiguousarray(geometry.to_raw_axes(share_to_raw(share, geometry)))


@dataclass(frozen=True)
class Prediction:
    """What a model says of a scan.

    Attributes:
        labels: Label map (X, Y, Z) in the axes and grid of the raw scan.
        names: Organ → value in it.
        scores: (1 + K, X, Y, Z) on the study grid.
        geometry: Way from the study grid to the raw scan.
    """

    labels: npt.NDArray[np.uint8]
    names: dict[str, int]
    scores: npt.NDArray[np.float32]
    geometry: Geometry

    def probability(self, organ: str) -> npt.NDArray[np.uint8]:
        """Return 255 × the probability of an organ on the grid of the raw scan."""
        return probability_of(self.scores, self.names[organ], self.geometry)


def predict_scan(
    model: Model,
    scan_hu: npt.NDArray[Any],
    affine: Affine,
    name: str = "scan",
    *,
    fast: bool = False,
    force: bool = False,
    device: torch.device | str = "cpu",
) -> Prediction:
    """Predict a raw scan.

    Args:
        model: A loaded model folder.
        scan_hu: (X, Y, Z) in any axes, in HU.
        affine: 4 × 4, voxel index → world mm, RAS+.
        name: For messages.
        fast: Windows overlap by a quarter at most: about three times fewer of them.
        force: Take a scan whose intensities are not those of a CT in HU.
        device: Where to compute; a GPU whose memory runs out hands over to the CPU.

    Raises:
        DataError: If the model was not made for such a scan.
    """
    if not force:
        require_hu(scan_hu, name)
    prepared = prepare_arrays(scan_hu, affine, None, None, model.preprocessing)
    overlap = min(model.overlap, FAST_OVERLAP) if fast else model.overlap
    windows = Windows(model.window, overlap, model.stride)
    try:
        scores = predict_scores(model, prepared.image, prepared.body, windows, device=device)
    except torch.OutOfMemoryError:
        log(f"{name}: the memory of {device} ran out; predicting it on the CPU")
        torch.cuda.empty_cache()
        model.network.to("cpu")
        scores = predict_scores(model, prepared.image, prepared.body, windows, device="cpu")
        model.network.to(device)
    largest = {organ: model.labels[organ] for organ in model.largest_component}
    return Prediction(labels_of(scores, prepared.geometry, largest), model.labels, scores, prepared.geometry)


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


def keep_largest(labels: npt.NDArray[np.uint8], values: Mapping[str, int]) -> None:
    """Set all but the largest connected component of each organ to background, in place."""
    boxes = ndimage.find_objects(labels)
    for value in values.values():
        if value > len(boxes) or boxes[value - 1] is None:
            continue
        part = labels[boxes[value - 1]]
        components, count = ndimage.label(part == value)
        if count > 1:
            sizes = np.bincount(components.ravel())
            sizes[0] = 0
            part[(components > 0) & (components != int(sizes.argmax()))] = 0
