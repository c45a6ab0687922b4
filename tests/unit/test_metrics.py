"""Scores on shapes whose answer is known in closed form, against MONAI, and where masks are empty."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from mskd.evaluation.metrics import Hd95Definition, OrganScore, score_case
from mskd.evaluation.surfaces import boundary

ORGANS = {"liver": 1, "spleen": 2}
SPACING_MM = (0.8, 1.1, 2.5)
Labels = NDArray[np.uint8]


def box(shape: tuple[int, int, int], low: tuple[int, ...], high: tuple[int, ...], value: int = 1) -> Labels:
    labels = np.zeros(shape, np.uint8)
    labels[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = value
    return labels


def sphere(shape: tuple[int, int, int], radius_mm: float, spacing_mm: tuple[float, ...]) -> Labels:
    grids = np.meshgrid(*[(np.arange(n) - n // 2) * s for n, s in zip(shape, spacing_mm, strict=True)], indexing="ij")
    return (sum(g**2 for g in grids) <= radius_mm**2).astype(np.uint8)


def score_liver(
    prediction: Labels,
    reference: Labels,
    spacing_mm: tuple[float, ...] = SPACING_MM,
    tolerance_mm: float = 1.0,
    definition: Hd95Definition = "max_directed",
) -> OrganScore:
    scores = score_case(
        prediction,
        reference,
        spacing_mm,
        {"liver": 1},
        {"liver"},
        nsd_tolerance_mm=tolerance_mm,
        hd95_definition=definition,
    )
    assert len(scores) == 1
    return scores[0]


def blobs(seed: int, shape: tuple[int, int, int], amount: float) -> Labels:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.5)
    return (noise > np.quantile(noise, 1 - amount)).astype(np.uint8)


def test_identical_masks_are_perfect() -> None:
    labels = sphere((24, 24, 16), 8.0, SPACING_MM)
    assert score_liver(labels, labels) == OrganScore("liver", 1.0, 0.0, 1.0, "scored")


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("steps", [1, 3])
def test_a_shifted_plate_is_the_shift_away(axis: int, steps: int) -> None:
    """Each voxel of a one-voxel plate is exactly the shift away from the plate shifted along its normal."""
    low, high = [2, 2, 2], [12, 12, 12]
    low[axis], high[axis] = 5, 6
    reference = box((16, 16, 16), tuple(low), tuple(high))
    shift_mm = steps * SPACING_MM[axis]
    prediction = np.roll(reference, steps, axis)
    for definition in ("max_directed", "pooled"):
        score = score_liver(prediction, reference, definition=definition)  # type: ignore[arg-type]
        assert score.dice == 0.0
        assert score.hd95_mm == pytest.approx(shift_mm, abs=1e-9)
    assert score_liver(prediction, reference, tolerance_mm=shift_mm).nsd == 1.0
    assert score_liver(prediction, reference, tolerance_mm=shift_mm - 1e-3).nsd == 0.0


def test_nested_boxes_by_hand() -> None:
    """A 3³ box inside a 5³ box at 1 × 1 × 3 mm: 26 and 98 boundary voxels, all distances known."""
    inner, outer = box((9, 9, 9), (3, 3, 3), (6, 6, 6)), box((9, 9, 9), (2, 2, 2), (7, 7, 7))
    score = score_liver(inner, outer, (1.0, 1.0, 3.0), tolerance_mm=1.0)
    assert score.dice == pytest.approx(2 * 27 / (27 + 125))
    # Inner to outer: 3 × 8 outline voxels at 1 mm, the two at the middle of the caps 2 mm. Outer to inner:
    # 12 of the 16 outline columns have their 3 middle voxels at 1 mm (the 4 corners: √2), the caps 3 and
    # more.
    within = 24 + 12 * 3
    assert score.nsd == pytest.approx(within / (26 + 98))
    # The outer 98: 2 × 9 cap voxels at 3 mm, 2 × 12 at √10, 2 × 4 at √11: the 95th percentile is in the last
    # 8.
    assert score.hd95_mm == pytest.approx(np.sqrt(11.0))


def test_concentric_spheres_are_the_difference_of_radii_apart() -> None:
    spacing_mm = (0.5, 0.75, 1.0)
    big, small = (sphere((90, 60, 46), radius, spacing_mm) for radius in (20.0, 16.0))
    score = score_liver(small, big, spacing_mm, tolerance_mm=4.0 + 1.0)
    assert score.hd95_mm == pytest.approx(4.0, abs=0.75)
    assert score.nsd == 1.0
    assert score.dice == pytest.approx(2 * 16**3 / (16**3 + 20**3), abs=0.01)
    assert score_liver(small, big, spacing_mm, tolerance_mm=2.5).nsd == 0.0


def test_pooled_and_directed_definitions_differ() -> None:
    """1 stray voxel in 12: its 20 mm lie within the 95th percentile of one direction, not of both pooled."""
    reference = box((40, 8, 3), (0, 1, 1), (1, 7, 2)) | box((40, 8, 3), (0, 0, 1), (1, 1, 2))
    prediction = reference.copy()
    prediction[20, 0, 1] = 1
    spacing_mm = (1.0, 1.0, 1.0)
    directed = score_liver(prediction, reference, spacing_mm).hd95_mm
    pooled = score_liver(prediction, reference, spacing_mm, definition="pooled").hd95_mm
    assert directed == pytest.approx(np.percentile([0] * 7 + [20], 95))
    assert pooled == pytest.approx(np.percentile([0] * 14 + [20], 95))


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")
@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    amounts=st.tuples(st.floats(0.01, 0.6), st.floats(0.01, 0.6)),
    shape=st.tuples(st.integers(4, 14), st.integers(4, 14), st.integers(4, 14)),
    spacing_mm=st.tuples(st.floats(0.4, 3.0), st.floats(0.4, 3.0), st.floats(0.5, 5.0)),
)
def test_random_shapes_agree_with_monai(
    seed: int,
    amounts: tuple[float, float],
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
) -> None:
    torch = pytest.importorskip("torch")
    metrics = pytest.importorskip("monai.metrics")
    prediction, reference = blobs(seed, shape, amounts[0]), blobs(seed + 1, shape, amounts[1])
    # Not a distance of the grid: MONAI's float32 distances sit on either side of such a tolerance.
    tolerance_mm = 1.2345
    pair = [torch.from_numpy(np.stack([a == 0, a == 1])[None].astype(np.float32)) for a in (prediction, reference)]
    hd95_mm = metrics.compute_hausdorff_distance(*pair, percentile=95, spacing=spacing_mm).item()
    nsd = metrics.compute_surface_dice(*pair, class_thresholds=[tolerance_mm], spacing=spacing_mm).item()
    score = score_liver(prediction, reference, spacing_mm, tolerance_mm)
    assert score.hd95_mm == pytest.approx(hd95_mm, abs=1e-3)
    assert score.nsd == pytest.approx(nsd, abs=1e-6)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), definition=st.sampled_from(["max_directed", "pooled"]))
def test_scores_ignore_order_memory_and_place(seed: int, definition: Hd95Definition) -> None:
    """Swapping the sides, the memory order, flips, and a translation with its padding change nothing."""
    first, second = blobs(seed, (9, 11, 8), 0.3), blobs(seed + 1, (9, 11, 8), 0.2)
    expected = score_liver(first, second, definition=definition)
    assert expected.hd95_mm is not None
    moved = [np.pad(a, [(3, 1), (2, 5), (1, 4)]) for a in (first, second)]
    variants = [
        (second, first),
        (np.asfortranarray(first), np.asfortranarray(second)),
        (np.asfortranarray(first), second),
        (first[::-1], second[::-1]),
        (moved[0], moved[1]),
    ]
    for prediction, reference in variants:
        score = score_liver(prediction, reference, definition=definition)
        assert score.dice == pytest.approx(expected.dice)
        assert score.hd95_mm == pytest.approx(expected.hd95_mm, abs=1e-9)
        assert score.nsd == pytest.approx(expected.nsd)


def test_a_mask_at_the_border_has_boundary_there() -> None:
    assert boundary(np.ones((4, 4, 4), bool)).sum() == 4**3 - 2**3
    assert boundary(np.ones((1, 5, 5), bool)).all()


def test_empty_masks_have_a_status_and_no_distance() -> None:
    empty, liver = np.zeros((6, 6, 6), np.uint8), box((6, 6, 6), (1, 1, 1), (4, 4, 4))
    assert score_liver(empty, liver) == OrganScore("liver", 0.0, None, 0.0, "missed")
    assert score_liver(liver, empty) == OrganScore("liver", None, None, None, "spurious")
    assert score_liver(empty, empty) == OrganScore("liver", None, None, None, "absent")


def test_only_labelled_organs_are_scored_in_the_order_of_the_organs() -> None:
    labels = box((8, 8, 8), (0, 0, 0), (3, 3, 3)) | box((8, 8, 8), (5, 5, 5), (8, 8, 8), value=2)
    both = score_case(labels, labels, SPACING_MM, ORGANS, ["spleen", "liver"], nsd_tolerance_mm=1.0)
    assert [score.organ for score in both] == ["liver", "spleen"]
    one = score_case(labels, labels, SPACING_MM, ORGANS, ["spleen"], nsd_tolerance_mm={"spleen": 2.0})
    assert [score.organ for score in one] == ["spleen"]


def test_ignored_voxels_count_on_neither_side() -> None:
    reference = box((10, 6, 6), (1, 1, 1), (5, 5, 5))
    prediction = reference.copy()
    prediction[5:9, 1:5, 1:5] = 1
    assert score_liver(prediction, reference).dice != 1.0
    reference[5:9] = 255
    assert score_liver(prediction, reference) == OrganScore("liver", 1.0, 0.0, 1.0, "scored")
    only_ignored = np.where(reference == 255, 255, 0).astype(np.uint8)
    only_there = np.where(reference == 255, 1, 0).astype(np.uint8)
    assert score_liver(only_there, only_ignored).status == "absent"


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64, np.uint16, np.uint32, np.uint64])
def test_any_integer_type_of_labels(dtype: type) -> None:
    labels = box((6, 6, 6), (1, 1, 1), (4, 4, 4)).astype(dtype)
    assert score_liver(labels, labels).dice == 1.0


def test_bad_arguments_are_named() -> None:
    labels = box((6, 6, 6), (1, 1, 1), (4, 4, 4))
    with pytest.raises(ValueError, match="one shape"):
        score_liver(labels, labels[:-1])
    with pytest.raises(ValueError, match="integers, found float32"):
        score_liver(labels.astype(np.float32), labels)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="spacing_mm"):
        score_liver(labels, labels, (1.0, 0.0, 1.0))
    with pytest.raises(ValueError, match="pancreas"):
        score_case(labels, labels, SPACING_MM, ORGANS, ["pancreas"], nsd_tolerance_mm=1.0)
    with pytest.raises(ValueError, match=r"nsd_tolerance_mm lacks \['liver'\]"):
        score_case(labels, labels, SPACING_MM, ORGANS, ["liver"], nsd_tolerance_mm={})
    with pytest.raises(ValueError, match="'background': 0"):
        score_case(labels, labels, SPACING_MM, {"background": 0}, [], nsd_tolerance_mm=1.0)
    with pytest.raises(ValueError, match="hd95_definition is 'mean'"):
        score_liver(labels, labels, definition="mean")  # type: ignore[arg-type]
