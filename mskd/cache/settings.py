"""What of the targets is stored, and how: the presets, and a study's own choices on top of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from mskd.config.cache import Cache


@dataclass(frozen=True)
class CacheSettings:
    """Every choice of a cache, made.

    Attributes:
        taps: Taps whose features are stored.
        margin_bits: 32 (float32), 16, 8 or 4.
        margin_spacing: How codes of 16 bits and less are spaced.
        temperatures: Smallest and largest temperature that students may use.
        feature_bits: 32 (float32), 16 (float16), 8 or 4.
        feature_channels: Channels that features are projected to; 0 keeps all.
        feature_chunks: All chunks of the body, or those that touch a supervising region.
        dilation_mm: Reach beyond the organs within which chunks are kept.
        background_share: Share of the other chunks of the body that is kept.
        chunk: Edge of a chunk of margins in voxels of the study grid.
        feature_chunk: Edge of a chunk of features, in the same voxels.
        level: Compression level of zstd.
    """

    taps: tuple[str, ...]
    margin_bits: int
    margin_spacing: Literal["probability", "margin"]
    temperatures: tuple[float, float]
    feature_bits: int
    feature_channels: int
    feature_chunks: Literal["all", "regions"]
    dilation_mm: float
    background_share: float
    chunk: int
    feature_chunk: int
    level: int

    def to_json(self) -> dict[str, Any]:
        """Return what keys and stores hold."""
        return {**asdict(self), "taps": list(self.taps), "temperatures": list(self.temperatures)}


PRESETS: dict[str, dict[str, Any]] = {
    "lossless": {"margin_bits": 32, "feature_bits": 32, "feature_channels": 0, "feature_chunks": "all"},
    "balanced": {"margin_bits": 4, "feature_bits": 4, "feature_channels": 4, "feature_chunks": "regions"},
    "tiny": {
        "margin_bits": 4,
        "feature_bits": 4,
        "feature_channels": 2,
        "feature_chunks": "regions",
        "dilation_mm": 0.0,
        "background_share": 0.0,
    },
}


def cache_settings(section: Cache) -> CacheSettings:
    """Return the choices of a study: its preset's, where the study has none of its own."""
    own = {name: value for name, value in section.model_dump().items() if value is not None}
    merged = {**own, **{name: value for name, value in PRESETS[section.preset].items() if name not in own}}
    return CacheSettings(
        taps=tuple(merged["taps"]),
        margin_bits=merged["margin_bits"],
        margin_spacing=merged["margin_spacing"],
        temperatures=(merged["temperatures"][0], merged["temperatures"][1]),
        feature_bits=merged["feature_bits"],
        feature_channels=merged["feature_channels"],
        feature_chunks=merged["feature_chunks"],
        dilation_mm=merged.get("dilation_mm", 5.0),
        background_share=merged.get("background_share", 0.05),
        chunk=merged["chunk"],
        feature_chunk=merged["feature_chunk"],
        level=merged["level"],
    )
