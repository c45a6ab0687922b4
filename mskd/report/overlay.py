"""Contours of reference and prediction over the scan: three planes through the place that is most wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from scipy import ndimage

from mskd.errors import DataError
from mskd.evaluation.figures import DRAWING_STYLE, new_figure, plain_text, save_figure

REFERENCE_COLOUR, PREDICTION_COLOUR = "#39d0ff", "#ff9d2e"
# A usual window for abdominal soft tissue.
WINDOW_HU = (-160.0, 240.0)
# The most wrong place is the one with the most wrong voxels in a cube of this size.
_NEIGHBOURHOOD_MM = 20.0
_HEIGHT_INCH = 3.4
_MARGIN_INCH = 0.9
# Plane, fixed axis, axes across and up, letters at the left, right, bottom, top edge. RAS axes grow towards
# the patient's right, front and head; radiologists look from the feet: the right is drawn at the left.
_PLANES = (
    ("axial", 2, 0, 1, "RLPA"),
    ("coronal", 1, 0, 2, "RLIS"),
    ("sagittal", 0, 1, 2, "APIS"),
)


def overlay_figure(
    image_hu: NDArray[Any],
    reference: NDArray[np.integer[Any]],
    prediction: NDArray[np.integer[Any]],
    spacing_mm: Sequence[float],
    organs: Mapping[str, int],
    path: Path,
    *,
    title: str = "",
    ignore_value: int | None = 255,
) -> None:
    """Draw axial, coronal and sagittal planes through the most wrong place, with contours, as a PNG.

    Args:
        image_hu: scan, (X, Y, Z), canonical RAS axes.
        reference: integer labels, (X, Y, Z).
        prediction: integer labels, (X, Y, Z).
        spacing_mm: size of a voxel along X, Y, Z.
        organs: organs to draw and to compare, with their values; give only those that the reference labels.
        path: the PNG file.
        title: shown above the planes.
        ignore_value: where the reference has it, nothing counts as wrong.

    Raises:
        DataError: the three arrays differ in shape.
    """
    if not image_hu.shape == reference.shape == prediction.shape or image_hu.ndim != 3:
        raise DataError(
            case=title or path.stem,
            file=path,
            expected="scan, reference and prediction of one shape (X, Y, Z)",
            found=f"{image_hu.shape}, {reference.shape}, {prediction.shape}",
            fix="predict on the grid of the raw scan",
        )
    centre = most_wrong_place(reference, prediction, spacing_mm, organs, ignore_value=ignore_value)
    size_mm = [n * size for n, size in zip(image_hu.shape, spacing_mm, strict=True)]
    ratios = [size_mm[across] / size_mm[up] for _, _, across, up, _ in _PLANES]
    # A thin slab would make a plane endlessly wide.
    ratios = [min(max(ratio, 0.3), 3.0) for ratio in ratios]
    figure = new_figure(_HEIGHT_INCH * sum(ratios), _HEIGHT_INCH + _MARGIN_INCH)
    figure.set_facecolor("black")
    with mpl.rc_context(DRAWING_STYLE):
        panels = figure.subplots(1, 3, width_ratios=ratios)
        for panel, (name, fixed, across, up, letters) in zip(panels, _PLANES, strict=True):
            at = centre[fixed]
            planes = [np.take(a, at, axis=fixed).T for a in (image_hu, reference, prediction)]  # (up, across)
            _draw_plane(panel, planes, (spacing_mm[across], spacing_mm[up]), organs)
            _write_letters(panel, letters)
            panel.set_title(f"{name} {at}", color="white", fontsize=9)
        handles = [Line2D([], [], color=colour) for colour in (REFERENCE_COLOUR, PREDICTION_COLOUR)]
        names = ["reference", "prediction"]
        figure.legend(handles, names, loc="outside lower center", ncols=2, frameon=False, labelcolor="white")
        if title:
            figure.suptitle(plain_text(title), color="white", fontsize=10)
    save_figure(figure, path.with_suffix(""), suffixes=("png",))


def most_wrong_place(
    reference: NDArray[np.integer[Any]],
    prediction: NDArray[np.integer[Any]],
    spacing_mm: Sequence[float],
    organs: Mapping[str, int],
    *,
    ignore_value: int | None = 255,
) -> tuple[int, int, int]:
    """Return the voxel with the most wrong voxels around it (a cube of 20 mm).

    Without a wrong voxel it is a voxel in the middle of the organs; without organs the middle of the scan.
    """
    values = list(organs.values())
    in_reference, in_prediction = np.isin(reference, values), np.isin(prediction, values)
    wrong = (in_reference | in_prediction) & (reference != prediction)
    if ignore_value is not None:
        wrong &= reference != ignore_value
    shown = wrong if wrong.any() else in_reference
    if not shown.any():
        x, y, z = (n // 2 for n in reference.shape)
        return x, y, z
    box = ndimage.find_objects(shown.astype(np.uint8))[0]
    size = [max(1, round(_NEIGHBOURHOOD_MM / one)) for one in spacing_mm]
    density = ndimage.uniform_filter(shown[box].astype(np.float32), size=size, mode="constant")
    # The centre of a crowd may itself be right (the inside of a shell): stay on a wrong voxel.
    index = np.unravel_index(np.argmax(np.where(shown[box], density, -1.0)), density.shape)
    x, y, z = (int(i) + part.start for i, part in zip(index, box, strict=True))
    return x, y, z


def _draw_plane(
    panel: Any, planes: Sequence[NDArray[Any]], spacing_mm: tuple[float, float], organs: Mapping[str, int]
) -> None:
    """Draw one plane in mm, the first axis growing to the left, with the contours of every organ."""
    image, reference, prediction = planes
    rows, columns = image.shape
    extent = (0.0, columns * spacing_mm[0], 0.0, rows * spacing_mm[1])
    low, high = WINDOW_HU
    panel.imshow(image, cmap="gray", vmin=low, vmax=high, origin="lower", extent=extent, aspect="equal")
    across = (np.arange(-1, columns + 1) + 0.5) * spacing_mm[0]
    up = (np.arange(-1, rows + 1) + 0.5) * spacing_mm[1]
    for labels, colour in ((reference, REFERENCE_COLOUR), (prediction, PREDICTION_COLOUR)):
        for value in organs.values():
            mask = np.pad(labels == value, 1)  # so that contours close at the border of the scan
            if mask.any():
                panel.contour(across, up, mask.astype(np.float32), levels=[0.5], colors=colour, linewidths=1.1)
    panel.set_xlim(extent[1], extent[0])
    panel.set_ylim(extent[2], extent[3])
    panel.set_axis_off()


def _write_letters(panel: Any, letters: str) -> None:
    """Write the anatomical directions at the left, right, bottom and top edge."""
    places = ((0.01, 0.5), (0.99, 0.5), (0.5, 0.01), (0.5, 0.99))
    alignments = (("left", "center"), ("right", "center"), ("center", "bottom"), ("center", "top"))
    for letter, (x, y), (horizontal, vertical) in zip(letters, places, alignments, strict=True):
        text = panel.text(x, y, letter, ha=horizontal, va=vertical, transform=panel.transAxes)
        text.set(color="white", fontsize=9, path_effects=[withStroke(linewidth=2, foreground="black")])
