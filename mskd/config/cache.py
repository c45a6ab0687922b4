"""The target cache: what of the teachers' targets is stored, and how exactly."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from mskd.config.section import Section, key


class Cache(Section):
    """What of each teacher's targets is stored; keys that are left out follow the preset (see docs/cache.md)."""

    preset: Literal["lossless", "balanced", "tiny"] = key(
        "balanced",
        "lossless: float32, everything; balanced: few bits, features near organs; tiny: the least that teaches",
    )
    taps: list[str] = key(lambda: ["decoder2"], "taps whose features are stored; [] stores logits alone")
    splits: list[Literal["train", "val", "test"]] = key(
        lambda: ["train"], "cases of the training datasets that are cached"
    )
    margin_bits: Literal[32, 16, 8, 4] | None = key(None, "bits per margin; 32 is float32", unit="bits")
    margin_spacing: Literal["probability", "margin"] = key(
        "probability", "codes of 16 bits and less are even in σ(m / τ) at the largest temperature, or even in m"
    )
    temperatures: tuple[float, float] = key(
        (1.0, 2.0), "smallest and largest distillation temperature that students of this cache may use"
    )
    feature_bits: Literal[32, 16, 8, 4] | None = key(
        None, "bits per feature value; 32 is float32, 16 is float16", unit="bits"
    )
    feature_channels: int | None = key(
        None, "channels that features are projected to (principal components); 0 keeps all", unit="channels", ge=0
    )
    feature_chunks: Literal["all", "regions"] | None = key(
        None, "all: every chunk of the body; regions: chunks that touch a supervising region"
    )
    dilation_mm: float | None = key(None, "regions: reach beyond the organs", unit="mm", ge=0)
    background_share: float | None = key(None, "regions: share of the other chunks of the body", ge=0, le=1)
    chunk: int = key(16, "edge of a chunk at full resolution", unit="voxels", ge=8)
    level: int = key(5, "compression level of zstd", ge=1, le=9)

    @model_validator(mode="after")
    def _ordered(self) -> Cache:
        if not 0 < self.temperatures[0] <= self.temperatures[1]:
            raise ValueError(f"temperatures needs 0 < low <= high, for example [1, 2], found {list(self.temperatures)}")
        return self
