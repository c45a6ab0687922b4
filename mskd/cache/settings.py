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
        margin_bits: 32 (float32), 16, 8, 4 or 2.
        margin_spacing: How codes of 16 bits and less are spaced.
        temperatures: Smallest and largest temperature that students may use.
        feature_bits: 32 (float32), 16 (float16), 8 or 4.
        feature_channels: Channels that features are projected to; 0 keeps all.
        feature_boxes: All boxes of the body, or those that touch a supervising region.
        dilation_mm: Reach beyond the organs within which boxes are kept.
        background_share: Share of the other boxes of the body that is kept.
        chunk: Edge of a chunk in voxels of the study grid.
        feature_box: Edge of the boxes in which features are kept or left out, in the same voxels.
        level: Compression level of zstd.
    """

    taps: tuple[str, ...]
    margin_bits: int
    margin_spacing: Literal["probability", "margin"]
    temperatures: tuple[float, float]
    feature_bits: int
    feature_channels: int
    feature_boxes: Literal["all", "regions"]
    dilation_mm: float
    background_share: float
    chunk: int
    feature_box: int
    level: int

    def to_json(self) -> dict[str, Any]:
        """Return what keys and stores hold."""
        return {**asdict(self), "taps": list(self.taps), "temperatures": list(self.temperatures)}


COMMON: dict[str, Any] = {"chunk": 32, "level": 9, "dilation_mm": 5.0, "background_share": 0.05}
PRESETS: dict[str, dict[str, Any]] = {
    "lossless": {
        **COMMON,
        "margin_bits": 32,
        "feature_bits": 32,
        "feature_channels": 0,
        "feature_boxes": "all",
        "level": 3,
    },
    "balanced": {
        **COMMON,
        "margin_bits": 4,
        "feature_bits": 4,
        "feature_channels": 4,
        "feature_boxes": "regions",
    },
    "tiny": {
        **COMMON,
        "margin_bits": 2,
        "feature_bits": 4,
        "feature_channels": 1,
        "feature_boxes": "regions",
        "dilation_mm": 0.0,
        "background_share": 0.0,
        "chunk": 64,
        "level": 19,
    },
}


def cache_settings(section: Cache, *, logits_alone: bool = False) -> CacheSettings:
    """Return the choices of a study: its preset's, where the study has none of its own.

    Args:
        section: The study's.
        logits_alone: Whether no features are stored, as of teachers that only cross-fit margins.
    """
    own = {name: value for name, value in section.model_dump().items() if value is not None}
    merged = {**own, **{name: value for name, value in PRESETS[section.preset].items() if name not in own}}
    return CacheSettings(
        taps=() if logits_alone else tuple(merged["taps"]),
        margin_bits=merged["margin_bits"],
        margin_spacing=merged["margin_spacing"],
        temperatures=(merged["temperatures"][0], merged["temperatures"][1]),
        feature_bits=merged["feature_bits"],
        feature_channels=merged["feature_channels"],
        feature_boxes=merged["feature_boxes"],
        dilation_mm=merged["dilation_mm"],
        background_share=merged["background_share"],
        chunk=merged["chunk"],
        feature_box=merged["feature_box"],
        level=merged["level"],
    )
