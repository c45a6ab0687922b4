"""What a network sees and how it is built."""

from __future__ import annotations

from math import prod
from typing import Literal

from pydantic import model_validator

from mskd.config.faults import Fault, FaultsError
from mskd.config.section import Section, key

Triple = tuple[int, int, int]


class Preprocessing(Section):
    """From the raw scan to the study grid; stored with every model, so that it cannot be mismatched."""

    spacing_mm: tuple[float, float, float] = key(
        (1.5, 1.5, 1.5), "voxel size of the study grid (x, y, z in RAS)", unit="mm"
    )
    hu_clip: tuple[float, float] = key(
        (-325.0, 325.0), "intensities are clipped to this range, then scaled to [-1, 1]", unit="HU"
    )
    antialias: bool = key(
        False, "smooth before sampling down (Gaussian, sigma (factor − 1) / 2 raw voxels), for coarse grids"
    )
    crop_to_body: bool = key(True, "store only the bounding box of the body")
    body_threshold_hu: float = key(-500.0, "what is denser than this may be body", unit="HU")
    crop_margin_mm: float = key(10.0, "air left around the body", unit="mm", ge=0)
    foreground_voxels: int = key(2000, "voxels remembered per organ for foreground sampling", unit="voxels", ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> Preprocessing:
        if self.hu_clip[0] >= self.hu_clip[1]:
            raise FaultsError(Fault("hu_clip", self.hu_clip, "[low, high] with low < high", {"hu_clip": [-325, 325]}))
        if min(self.spacing_mm) <= 0:
            better = [abs(mm) or 1.5 for mm in self.spacing_mm]
            raise FaultsError(Fault("spacing_mm", self.spacing_mm, "three numbers > 0", {"spacing_mm": better}))
        return self


class Network(Section):
    """An nnU-Net-style U-Net (dynamic-network-architectures); the same for teachers and students."""

    architecture: Literal["plain", "residual"] = key("plain", "plain convolutions or a residual encoder")
    features: list[int] = key(
        lambda: [32, 64, 128, 256, 320], "channels per level, finest first", unit="channels", min_length=2
    )
    strides: list[Triple] | None = key(
        None,
        "stride of each level per axis, finest first; default: [1, 1, 1], then [2, 2, 2] throughout",
        unit="voxels",
        example=[[1, 1, 1], [2, 2, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2]],
    )
    convolutions_per_level: int = key(2, "convolutions (or residual blocks) per level", unit="convolutions", ge=1)
    channels_last: bool = key(True, "memory order of activations; measured faster on CPUs for narrow networks")
    deep_supervision: bool = key(False, "loss on the coarser outputs of the decoder as well")

    @model_validator(mode="after")
    def _strides_fit(self) -> Network:
        if min(self.features) < 1:
            raise FaultsError(Fault("features", self.features, "integers ≥ 1", {"features": [32, 64, 128, 256, 320]}))
        if self.strides is None:
            return self
        good = len(self.strides) == len(self.features) and min(min(step) for step in self.strides) >= 1
        if not good:
            better = [[1, 1, 1], *[[2, 2, 2]] * (len(self.features) - 1)]
            allowed = f"one [x, y, z] of integers ≥ 1 for each of the {len(self.features)} levels of `features`"
            raise FaultsError(Fault("strides", self.strides, allowed, {"strides": better}))
        return self

    @property
    def level_strides(self) -> list[Triple]:
        """Cumulative stride of each level per axis, finest first."""
        steps = self.strides or [(1, 1, 1)] + [(2, 2, 2)] * (len(self.features) - 1)
        return [
            (
                prod(s[0] for s in steps[: i + 1]),
                prod(s[1] for s in steps[: i + 1]),
                prod(s[2] for s in steps[: i + 1]),
            )
            for i in range(len(steps))
        ]

    @property
    def coarsest_stride(self) -> Triple:
        """Stride of the deepest level: volumes, windows and patches are multiples of it."""
        return self.level_strides[-1]

    def tap_level(self, tap: str) -> int:
        """Return the level of a tap name such as `decoder2` or `encoder4`.

        Raises:
            ValueError: If the network has no such tap.
        """
        if tap not in self.taps:
            raise ValueError(f"no tap {tap!r} in this network; it has {', '.join(self.taps)}")
        return int(tap.removeprefix("encoder").removeprefix("decoder"))

    @property
    def taps(self) -> list[str]:
        """Every tap that this network has; the number is its level (0 = finest)."""
        levels = len(self.features)
        return [f"encoder{i}" for i in range(levels)] + [f"decoder{i}" for i in range(levels - 1)]
