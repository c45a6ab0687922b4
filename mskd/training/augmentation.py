"""Random changes of patches: spatial ones move image, labels and all targets alike, intensity ones the image alone.

Parameters are drawn once per sample from a generator that depends on seed and sample index only, so that a run can be
continued, or spread over processes, without changing it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, log, radians, sin

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from mskd.config.training import Augmentation

Triple = tuple[int, int, int]
AXES = {"x": 0, "y": 1, "z": 2}


@dataclass(frozen=True)
class SpatialChange:
    """A drawn spatial change.

    Attributes:
        matrix: Patch offset from its centre → source offset from the same point, in voxels, 3 × 3; None = identity.
        control: Displacements in voxels at the control points, (3, gx, gy, gz); None = no deformation.
        flips: Axes to flip afterwards (0, 1, 2).
        turns: Quarter turns about z afterwards.
    """

    matrix: npt.NDArray[np.float64] | None = None
    control: npt.NDArray[np.float32] | None = None
    flips: tuple[int, ...] = ()
    turns: int = 0

    @property
    def resamples(self) -> bool:
        """Whether values are interpolated (flips and quarter turns are exact)."""
        return self.matrix is not None or self.control is not None


def draw_spatial(
    rng: np.random.Generator, settings: Augmentation, patch: Triple, spacing_mm: tuple[float, float, float]
) -> SpatialChange:
    """Draw a spatial change; which changes are switched on has no influence on the others' draws."""
    dice = rng.random(8)
    angles = rng.uniform(-1, 1, 3) * radians(settings.rotation_deg)
    zoom = float(np.exp(rng.uniform(log(settings.scale[0]), log(settings.scale[1]))))
    extent_mm = np.asarray(patch) * np.asarray(spacing_mm)
    grid = [max(4, int(e / settings.elastic_grid_mm) + 3) for e in extent_mm]
    field = rng.normal(0, 1, (3, *grid))
    matrix = None
    if dice[0] < settings.affine_probability:
        scale = np.diag(spacing_mm)
        matrix = np.linalg.inv(scale) @ _rotation(angles) @ scale / zoom
    control = None
    if dice[1] < settings.elastic_probability and settings.elastic_mm > 0:
        control = (field * settings.elastic_mm / np.asarray(spacing_mm).reshape(3, 1, 1, 1)).astype(np.float32)
    flips = tuple(AXES[a] for a in settings.flip_axes if dice[2 + AXES[a]] < 0.5)
    turns = int(dice[5] * 4) if settings.quarter_turns else 0
    return SpatialChange(matrix, control, flips, turns)


def source_positions(change: SpatialChange, patch: Triple) -> Tensor:
    """Return where each patch voxel comes from, relative to the patch's first voxel, (3, X, Y, Z) in voxels."""
    axes = [torch.arange(n, dtype=torch.float32) for n in patch]
    positions = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    if change.matrix is not None:
        centre = torch.tensor([(n - 1) / 2 for n in patch]).view(3, 1, 1, 1)
        matrix = torch.from_numpy(change.matrix.astype(np.float32))
        positions = torch.einsum("ij,jxyz->ixyz", matrix, positions - centre) + centre
    if change.control is not None:
        control = torch.from_numpy(change.control)[None]
        positions = positions + functional.interpolate(control, patch, mode="trilinear", align_corners=True)[0]
    return positions


def source_box(positions: Tensor, align: Triple) -> tuple[Triple, Triple]:
    """Return first voxel (relative to the patch, a multiple of `align`) and size of the box that is needed.

    On a grid of stride `align` the values at the first and last position lie between two grid points: both are inside.
    """
    low = positions.amin((1, 2, 3)).floor().int().tolist()
    high = positions.amax((1, 2, 3)).ceil().int().tolist()
    start = [(n - a // 2) // a * a for n, a in zip(low, align, strict=True)]
    size = [-(-(h + a // 2 + 1 - s) // a) * a for h, s, a in zip(high, start, align, strict=True)]
    return (start[0], start[1], start[2]), (size[0], size[1], size[2])


def resample(values: Tensor, positions: Tensor, box_start: Triple, stride: Triple, *, nearest: bool = False) -> Tensor:
    """Read a source box at patch positions.

    Args:
        values: (C, x, y, z): the source box on a grid of the given stride.
        positions: From `source_positions`, (3, X, Y, Z) in full-resolution voxels.
        box_start: First full-resolution voxel of the box, relative to the patch.
        stride: Voxels per grid point; (1, 1, 1) for full resolution.
        nearest: No interpolation (labels).

    Returns:
        (C, X / s, Y / s, Z / s).
    """
    if stride != (1, 1, 1):
        positions = functional.avg_pool3d(positions[None], stride, stride)[0]  # centres of the coarse cells
    start = torch.tensor(box_start, dtype=torch.float32).view(3, 1, 1, 1)
    step = torch.tensor(stride, dtype=torch.float32).view(3, 1, 1, 1)
    size = torch.tensor(values.shape[1:], dtype=torch.float32).view(3, 1, 1, 1)
    index = (positions - start + 0.5) / step - 0.5
    grid = ((2 * index + 1) / size - 1).flip(0).permute(1, 2, 3, 0)[None].to(values.device)
    mode = "nearest" if nearest else "bilinear"
    return functional.grid_sample(values[None], grid.to(values.dtype), mode, "border", align_corners=False)[0]


def turn(values: Tensor, change: SpatialChange) -> Tensor:
    """Apply the exact part of a change: flips, then quarter turns about z, to the last three axes."""
    if change.flips:
        values = values.flip([axis - 3 for axis in change.flips])
    return torch.rot90(values, change.turns, (-3, -2)) if change.turns else values


def change_intensity(
    image: Tensor, rng: np.random.Generator, settings: Augmentation, spacing_mm: tuple[float, float, float]
) -> Tensor:
    """Return an image (1, X, Y, Z) with changed contrast, brightness, gamma, blur and noise, still in [-1, 1]."""
    dice = rng.random(4)
    contrast, shift = rng.uniform(*settings.contrast), rng.uniform(-1, 1) * settings.brightness
    gamma, sigma_mm = rng.uniform(*settings.gamma), rng.uniform(0, 1) * settings.blur_mm
    noise, noise_seed = rng.uniform(0, 1) * settings.noise_std, int(rng.integers(2**62))
    if dice[0] < settings.blur_probability and sigma_mm > 0:
        image = _blur(image, [sigma_mm / s for s in spacing_mm])
    if dice[1] < settings.contrast_probability:
        image = image * contrast + shift
    if dice[2] < settings.gamma_probability:
        image = ((image.clamp(-1, 1) + 1) / 2).pow(gamma) * 2 - 1
    if dice[3] < settings.noise_probability:
        generator = torch.Generator().manual_seed(noise_seed)
        image = image + noise * torch.randn(image.shape, generator=generator).to(image.device)
    return image.clamp(-1, 1)


def _blur(image: Tensor, sigma: list[float]) -> Tensor:
    blurred = image[None]
    for axis, s in enumerate(sigma):
        reach = max(1, int(3 * s + 0.5))
        kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=image.dtype) / max(s, 1e-3)) ** 2)
        kernel = (kernel / kernel.sum()).to(image.device)
        shape, pad = [1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]
        shape[2 + axis] = len(kernel)
        pad[2 * (2 - axis)] = pad[2 * (2 - axis) + 1] = reach
        blurred = functional.conv3d(functional.pad(blurred, pad, mode="replicate"), kernel.view(shape))
    return blurred[0]


def _rotation(angles: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    a, b, c = (float(v) for v in angles)
    x = np.array([[1, 0, 0], [0, cos(a), -sin(a)], [0, sin(a), cos(a)]])
    y = np.array([[cos(b), 0, sin(b)], [0, 1, 0], [-sin(b), 0, cos(b)]])
    z = np.array([[cos(c), -sin(c), 0], [sin(c), cos(c), 0], [0, 0, 1]])
    return np.asarray(z @ y @ x)
