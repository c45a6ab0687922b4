"""The scanner of synthetic CTs: noise, blur, slices, intensity scale, field of view."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mskd.config.phantom import Scanner
from mskd.phantom.scanner import Axes, Scan, acquire, scan_axes

Hu = Callable[[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]], Any]


def scan(hu: Hu, **options: Any) -> Scan:
    """Return the scan of a world given by HU as a function of right, anterior, superior mm; label 1 where HU > 0."""

    def paint(axes: Axes) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        x, y, z = np.meshgrid(*axes, indexing="ij")
        values = np.broadcast_to(hu(x, y, z), x.shape).astype(np.float32)
        return values, (values > 0).astype(np.uint8)

    plain = {"noise_hu": 0.0, "blur_mm": 0.0, "jitter": 0.0, "spacing_mm": (2.0, 2.0, 2.0), "slice_thickness_mm": 2.0}
    scanner = Scanner.model_validate({"fov_mm": (100.0, 80.0, 60.0), **plain, **options})
    return acquire(scanner, paint, np.random.default_rng(0), back_mm=None)


def test_grid_is_the_field_of_view() -> None:
    found = scan(lambda x, y, z: x, fov_mm=(100.0, 80.0, 61.0), spacing_mm=(2.0, 2.5, 3.0))
    assert found.image.shape == found.labels.shape == (50, 32, 20)
    assert found.image.dtype == np.int16
    assert found.labels.dtype == np.uint8
    assert np.diag(found.affine).tolist() == [2.0, 2.5, 3.0, 1.0]
    # Voxel centres lie symmetric about the middle.
    assert found.image[:, 0, 0].tolist() == list(range(-49, 50, 2))


@pytest.mark.parametrize("correlation_mm", [0.0, 3.0])
def test_noise_has_its_deviation_and_correlation(correlation_mm: float) -> None:
    image = scan(lambda x, y, z: np.float32(50), noise_hu=20.0, noise_correlation_mm=correlation_mm).image
    noise = image.astype(float) - 50
    assert noise.std() == pytest.approx(20, rel=0.02)
    assert abs(noise.mean()) < 2
    neighbours = float(np.corrcoef(noise[:-1].ravel(), noise[1:].ravel())[0, 1])
    assert neighbours == pytest.approx(0, abs=0.02) if correlation_mm == 0 else neighbours > 0.7


def test_noise_is_weaker_in_air() -> None:
    image = scan(lambda x, y, z: np.where(x < 0, -1000, 50), noise_hu=20.0, noise_correlation_mm=0.0).image
    assert image[30:].std() == pytest.approx(20, rel=0.05)
    assert image[:20].std() < 8


def test_dose_varies_with_jitter() -> None:
    levels = []
    for seed in range(6):
        scanner = Scanner(noise_hu=20.0, jitter=1.0, fov_mm=(60.0, 60.0, 60.0), spacing_mm=(2.0, 2.0, 2.0))

        def paint(axes: Axes) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
            shape = tuple(len(axis) for axis in axes)
            return np.zeros(shape, np.float32), np.zeros(shape, np.uint8)

        levels.append(acquire(scanner, paint, np.random.default_rng(seed), back_mm=None).image.std())
    assert np.std(levels) > 2


def test_intensity_scale_is_tilted() -> None:
    image = scan(lambda x, y, z: np.where(x < 0, 100, -100), hu_slope=0.9, hu_offset=7.0).image
    assert np.unique(image).tolist() == [-83, 97]


def test_values_stay_in_the_range_of_ct() -> None:
    image = scan(lambda x, y, z: np.where(x < 0, 9000, -5000)).image
    assert np.unique(image).tolist() == [-1024, 3071]
    image = scan(lambda x, y, z: np.where(x < 0, 9000, -5000), padding_hu=-1000).image
    assert np.unique(image).tolist() == [-1000, 3071]


def test_gantry_circle_is_padded() -> None:
    found = scan(lambda x, y, z: np.float32(40), fov_mm=(100.0, 100.0, 20.0), fov_circle=True, padding_hu=-2000)
    axes = scan_axes(Scanner(spacing_mm=(2.0, 2.0, 2.0), fov_mm=(100.0, 100.0, 20.0)))
    outside = (axes[0][:, None] ** 2 + axes[1] ** 2) > 50**2
    assert (found.image[outside] == -2000).all()
    assert (found.image[~outside] == 40).all()
    assert outside.any()


def test_kernel_blurs_in_the_slice_only() -> None:
    sharp_in_plane = scan(lambda x, y, z: np.where(x < 0, 0, 100), blur_mm=6.0).image[:, 20, 15]
    assert sharp_in_plane[22:28].tolist() == sorted(set(sharp_in_plane[22:28].tolist()))
    # Full width 6 mm is a sigma of 1.27 voxels: the voxel beside the edge, half a voxel off, has Phi(0.39) of the step.
    assert sharp_in_plane[25] == pytest.approx(65, abs=2)
    along_z = scan(lambda x, y, z: np.where(z < 0, 0, 100), blur_mm=6.0).image[25, 20]
    assert set(along_z.tolist()) == {0, 100}


@pytest.mark.parametrize(("thickness_mm", "expected"), [(5.0, {0, 100}), (15.0, {0, 33, 67, 100})])
def test_slices_average_over_their_thickness(thickness_mm: float, expected: set[int]) -> None:
    found = scan(
        lambda x, y, z: np.where(z < 0, 0, 100),
        spacing_mm=(5.0, 5.0, 5.0),
        fov_mm=(50.0, 50.0, 100.0),
        slice_thickness_mm=thickness_mm,
    )
    assert set(found.image[5, 5].tolist()) == expected
    # Labels are those at the middle of the slice, however thick it is.
    assert found.labels[5, 5].tolist() == [0] * 10 + [1] * 10


def test_thick_slices_of_fine_pixels_are_sampled_within() -> None:
    # A sheet thinner than the spacing is averaged, not missed.
    found = scan(
        lambda x, y, z: np.where(np.abs(z) < 1, 100, 0),
        spacing_mm=(1.0, 1.0, 8.0),
        slice_thickness_mm=8.0,
        fov_mm=(20.0, 20.0, 40.0),
    )
    values = found.image[10, 10].tolist()
    assert values[:2] == values[3:] == [0, 0]
    assert 10 < values[2] < 40


def test_slabs_leave_no_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    def world(x: Any, y: Any, z: Any) -> Any:
        return 100 * np.sin(z / 9) + x

    options = {"spacing_mm": (2.0, 2.0, 5.0), "slice_thickness_mm": 7.0, "fov_mm": (60.0, 60.0, 100.0)}
    whole = scan(world, **options).image
    monkeypatch.setattr("mskd.phantom.scanner._SLAB_VOXELS", 3000)
    assert np.array_equal(scan(world, **options).image, whole)


def test_table_lies_under_the_back() -> None:
    def paint(axes: Axes) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        shape = tuple(len(axis) for axis in axes)
        return np.full(shape, np.float32(-1000)), np.zeros(shape, np.uint8)

    scanner = Scanner(noise_hu=0.0, spacing_mm=(2.0, 2.0, 5.0), fov_mm=(300.0, 300.0, 20.0))
    image = acquire(scanner, paint, np.random.default_rng(0), back_mm=-60.0).image[75, :, 2]
    y_mm = scan_axes(scanner)[1]
    assert (image[y_mm > -60] == -1000).all()
    assert image[(y_mm < -64) & (y_mm > -75)].max() > -500
