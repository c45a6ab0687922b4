"""Labels that are prepared and brought back lie where they were, whatever the raw grid."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mskd.config.model import Preprocessing
from mskd.preparation import prepare_arrays
from mskd.resampling import labels_to_raw

RADIUS_VOXELS = 10  # of an organ, on the study grid
AXES = [(order, signs) for order in itertools.permutations(range(3)) for signs in itertools.product((1, -1), repeat=3)]
Affine = npt.NDArray[np.float64]


def ball(affine: Affine, shape: tuple[int, int, int], radius_mm: float) -> npt.NDArray[np.uint8]:
    """Return the labels of a ball in the middle of a grid."""
    indices = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    places = nib.affines.apply_affine(affine, indices)
    middle = nib.affines.apply_affine(affine, (np.asarray(shape) - 1) / 2)
    labels = np.zeros(shape, np.uint8)
    labels[np.linalg.norm(places - middle, axis=-1) < radius_mm] = 1
    return labels


def dice_after(affine: Affine, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> float:
    """Return the Dice of a label with itself, prepared and brought back."""
    labels = ball(affine, shape, RADIUS_VOXELS * max(spacing_mm))
    study = Preprocessing(spacing_mm=spacing_mm, crop_to_body=False)
    prepared = prepare_arrays(np.zeros(shape, np.int16), affine, labels, None, study)
    back = prepared.geometry.to_raw_axes(labels_to_raw(prepared.labels, prepared.geometry))
    assert back.shape == labels.shape
    return float(2 * ((back == 1) & (labels == 1)).sum() / ((back == 1).sum() + (labels == 1).sum()))


def grid(spacing_mm: tuple[float, ...], order: tuple[int, ...], signs: tuple[int, ...]) -> Affine:
    """Return the affine of a grid whose axes run along the world's in any order and direction."""
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for axis, (to, sign) in enumerate(zip(order, signs, strict=True)):
        affine[to, axis] = sign * spacing_mm[axis]
    affine[:3, 3] = (-30, 50, 700)
    return affine


def shape_for(spacing_mm: tuple[float, ...], extent_mm: float) -> tuple[int, int, int]:
    counts = [int(np.ceil(extent_mm / step)) for step in spacing_mm]
    return counts[0], counts[1], counts[2]


@pytest.mark.parametrize(("order", "signs"), AXES)
def test_every_order_and_direction_of_axes(order: tuple[int, ...], signs: tuple[int, ...]) -> None:
    raw = (1.1, 1.6, 2.9)
    assert dice_after(grid(raw, order, signs), shape_for(raw, 54), (2.0, 2.0, 2.0)) >= 0.98


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    raw=st.tuples(*[st.floats(0.7, 3.0)] * 3),
    study=st.tuples(*[st.floats(1.5, 3.0)] * 3),
    angles=st.tuples(*[st.floats(-0.35, 0.35)] * 3),
    axes=st.sampled_from(AXES),
)
def test_oblique_and_anisotropic_grids(
    raw: tuple[float, float, float],
    study: tuple[float, float, float],
    angles: tuple[float, float, float],
    axes: tuple[tuple[int, ...], tuple[int, ...]],
) -> None:
    affine = grid(raw, *axes)
    affine[:3, :3] = nib.eulerangles.euler2mat(*angles) @ affine[:3, :3]
    extent_mm = 2.4 * RADIUS_VOXELS * max(study)
    assert dice_after(affine, shape_for(raw, extent_mm), study) >= 0.98
