"""From scores on the study grid to a label map on the raw grid."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from mskd.geometry import Geometry
from mskd.inference import Windows, sliding_window
from mskd.models import Model
from mskd.prepared import normalise
from mskd.resampling import scores_to_raw_labels


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
    image = normalise(image_hu, model.preprocessing.hu_clip)
    scores = sliding_window(lambda x: (model.network(x), {}), image, windows, body=body, device=device).scores
    labels = scores_to_raw_labels(scores, geometry)
    keep_largest(labels, {organ: model.labels[organ] for organ in largest_component})
    return np.ascontiguousarray(geometry.to_raw_axes(labels))


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
