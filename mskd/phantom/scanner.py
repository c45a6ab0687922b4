"""The scanner: from an anatomy to a CT in HU on the scanner's own grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from mskd.config.phantom import Scanner
from mskd.phantom.noise import FloatArray

Axes = tuple[FloatArray, FloatArray, FloatArray]
Painter = Callable[[Axes], tuple[FloatArray, npt.NDArray[np.uint8]]]
"""Returns HU and labels (X, Y, Z) on the grid spanned by coordinates in mm along right, anterior, superior."""

_SLAB_VOXELS = 1_000_000
_HIGHEST_HU = 3071
# Full width at half maximum of a Gaussian of unit sigma.
_FWHM = 2.3548
# Slices are painted at least this far apart: thinner ones would not change their average.
_FINEST_SLICE_MM = 1.6


@dataclass(frozen=True)
class Scan:
    """A scan in canonical axes.

    Attributes:
        image: (X, Y, Z) int16 HU.
        labels: (X, Y, Z) uint8 label values of the full map.
        affine: (4, 4) float64 voxel to world (RAS+, mm).
    """

    image: npt.NDArray[np.int16]
    labels: npt.NDArray[np.uint8]
    affine: npt.NDArray[np.float64]


def scan_axes(scanner: Scanner) -> Axes:
    """Return the voxel centres along the three axes in mm, the middle of the field of view at 0."""
    axes = []
    for count, step in zip(scanner.shape, scanner.spacing_mm, strict=True):
        axes.append(((np.arange(count) - (count - 1) / 2) * step).astype(np.float32))
    return axes[0], axes[1], axes[2]


def acquire(scanner: Scanner, paint: Painter, rng: np.random.Generator, *, back_mm: float | None) -> Scan:
    """Return the scan of what `paint` shows.

    Slices average over their thickness, the kernel blurs in the slice, noise is correlated and weaker in air, the
    intensity scale is tilted, and what lies outside the gantry's circle is blank.

    Args:
        scanner: Scanner and protocol.
        paint: Evaluates the anatomy slab by slab.
        rng: Random generator of noise and table position.
        back_mm: Position of the patient's back (y), where the table is drawn; None for no table.
    """
    axes = scan_axes(scanner)
    shape = (len(axes[0]), len(axes[1]), len(axes[2]))
    hu = np.empty(shape, np.float32)
    labels = np.empty(shape, np.uint8)
    step_mm = scanner.spacing_mm[2]
    oversampling = _oversampling(scanner)
    # Slices on either side that contribute to a slice's average.
    reach = int(np.ceil(max(scanner.slice_thickness_mm - step_mm / oversampling, 0) / 2 / step_mm * oversampling))
    depth = max(1, _SLAB_VOXELS // (shape[0] * shape[1] * oversampling))
    for start in range(0, shape[2], depth):
        stop = min(start + depth, shape[2])
        first = start * oversampling - reach + (oversampling - 1) // 2
        count = (stop - start - 1) * oversampling + 1 + 2 * reach
        z = axes[2][0] + (np.arange(first, first + count) - (oversampling - 1) // 2) * (step_mm / oversampling)
        slab_hu, slab_labels = paint((axes[0], axes[1], z.astype(np.float32)))
        centres = reach + np.arange(stop - start) * oversampling
        weights = _thickness_weights(reach, step_mm / oversampling, scanner.slice_thickness_mm)
        hu[..., start:stop] = sum(
            weight * slab_hu[..., centres + offset]
            for offset, weight in zip(range(-reach, reach + 1), weights, strict=True)
        )
        labels[..., start:stop] = slab_labels[..., centres]
    if back_mm is not None:
        _draw_table(hu, axes, back_mm - float(rng.uniform(4, 9)))
    image = _detect(scanner, hu, axes, rng)
    affine = np.diag([*scanner.spacing_mm, 1.0])
    # Where the scanner's own origin lies means nothing, as in real files.
    origin_mm = np.round(rng.uniform((-40, -60, -900), (40, 60, -100)), 1)
    affine[:3, 3] = [float(axis[0]) + offset for axis, offset in zip(axes, origin_mm, strict=True)]
    return Scan(image, labels, affine)


def _oversampling(scanner: Scanner) -> int:
    """Return the odd number of painted slices per slice: more than one only for slices thicker than the pixels."""
    step_mm = scanner.spacing_mm[2]
    if step_mm < 1.6 * max(scanner.spacing_mm[:2]):
        return 1
    factor = int(step_mm / _FINEST_SLICE_MM)
    return min(max(factor - (factor % 2 == 0), 1), 5)


def _thickness_weights(reach: int, step_mm: float, thickness_mm: float) -> npt.NDArray[np.float32]:
    """Return the (2 * reach + 1,) shares of painted slices in a box of the slice's thickness."""
    offsets = np.abs(np.arange(-reach, reach + 1)) * step_mm
    overlap = np.clip((thickness_mm + step_mm) / 2 - offsets, 0, step_mm)
    shares: npt.NDArray[np.float32] = (overlap / overlap.sum()).astype(np.float32)
    return shares


def _draw_table(hu: FloatArray, axes: Axes, top_mm: float) -> None:
    x, y = axes[0][:, None], axes[1][None, :]
    edge = float(abs(axes[1][1] - axes[1][0])) if len(axes[1]) > 1 else 1.0
    # The top is a shallow trough; its sides rise under the patient's flanks.
    depth = (top_mm + x * x * np.float32(1 / 2200)) - y
    shell = np.clip(0.5 - (np.abs(depth - 3) - 1.5) / edge, 0, 1) + np.clip(
        0.5 - (np.abs(depth - 38) - 1.5) / edge, 0, 1
    )
    shell = (np.minimum(shell, 1) * (np.abs(x) < 205))[..., None]
    table = np.float32(-1000) + np.float32(820) * shell.astype(np.float32)
    np.maximum(hu, table, out=hu)


def _detect(scanner: Scanner, hu: FloatArray, axes: Axes, rng: np.random.Generator) -> npt.NDArray[np.int16]:
    """Return the image: blur, intensity scale, noise, field of view; `hu` is overwritten."""
    for axis in range(2):
        sigma = scanner.blur_mm / _FWHM / scanner.spacing_mm[axis]
        if sigma > 0.15:
            hu = ndimage.gaussian_filter1d(hu, sigma, axis=axis, output=np.float32, truncate=3.0)
    dose = 1 + 0.3 * scanner.jitter * float(np.clip(rng.standard_normal(), -2, 2))
    if scanner.noise_hu > 0:
        noise = rng.standard_normal(hu.shape, dtype=np.float32)
        for axis in range(3):
            sigma = scanner.noise_correlation_mm / scanner.spacing_mm[axis] * (0.6 if axis == 2 else 1.0)
            if sigma > 0.15:
                noise = ndimage.gaussian_filter1d(noise, sigma, axis=axis, output=np.float32, truncate=3.0)
        noise *= np.float32(scanner.noise_hu * max(dose, 0.3) / max(float(noise.std(dtype=np.float64)), 1e-6))
        noise *= np.clip((hu + np.float32(1000)) * np.float32(1 / 900), np.float32(0.3), 1)
        hu = hu + noise
        del noise
    hu *= np.float32(scanner.hu_slope)
    hu += np.float32(scanner.hu_offset)
    np.clip(np.rint(hu, out=hu), max(scanner.padding_hu, -1024), _HIGHEST_HU, out=hu)
    image = hu.astype(np.int16)
    if scanner.fov_circle:
        radius = max(scanner.fov_mm[0], scanner.fov_mm[1]) / 2
        image[axes[0][:, None] ** 2 + axes[1][None, :] ** 2 > radius**2] = scanner.padding_hu
    return image
