"""The target cache: what of the teachers' targets is stored, and how exactly."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from mskd.config.faults import Fault, FaultsError
from mskd.config.section import Section, key

OBJECT_STORES = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az")


def is_url(place: str) -> bool:
    """Return whether a place is an fsspec URL and no path."""
    return "://" in place


class Cache(Section):
    """What of each teacher's targets is stored; keys that are left out follow the preset (see docs/cache.md)."""

    preset: Literal["lossless", "balanced", "tiny"] = key(
        "balanced",
        "lossless: float32, everything; balanced: few bits, features near organs; tiny: the least that teaches",
    )
    root: str | None = key(
        None,
        "folder or object store (s3://bucket/prefix, gs://…, abfs://…) below which target stores lie, in a folder of "
        "the study's name; default: the study's results",
        example="s3://bucket/mskd",
    )
    taps: list[str] = key(lambda: ["decoder2"], "taps whose features are stored; [] stores logits alone")
    splits: list[Literal["train", "val", "test"]] = key(
        lambda: ["train"], "cases of the training datasets that are cached"
    )
    margin_bits: Literal[32, 16, 8, 4, 2] | None = key(None, "bits per margin; 32 is float32", unit="bits", example=8)
    margin_spacing: Literal["probability", "margin"] = key(
        "probability", "codes of 16 bits and less are even in σ(m / τ) at the largest temperature, or even in m"
    )
    temperatures: tuple[float, float] = key(
        (1.0, 1.0), "smallest and largest distillation temperature that students of this cache may use"
    )
    feature_bits: Literal[32, 16, 8, 4] | None = key(
        None, "bits per feature value; 32 is float32, 16 is float16", unit="bits", example=8
    )
    feature_channels: int | None = key(
        None,
        "channels that features are projected to (principal components); 0 keeps all",
        unit="channels",
        example=8,
        ge=0,
    )
    feature_boxes: Literal["all", "regions"] | None = key(
        None,
        "all: every box of the body; regions: boxes that touch a supervising region",
        example="regions",
    )
    dilation_mm: float | None = key(
        None, "regions: reach beyond the organs; default 5, of the preset tiny 0", unit="mm", example=10.0, ge=0
    )
    background_share: float | None = key(
        None,
        "regions: share of the other boxes of the body; default 0.05, of the preset tiny 0",
        example=0.1,
        ge=0,
        le=1,
    )
    chunk: int | None = key(
        None,
        "edge of a chunk, in voxels of full resolution; default 32, of the preset tiny 64",
        unit="voxels",
        example=32,
        ge=8,
    )
    feature_box: int = key(
        16,
        "edge of the boxes in which features are kept or left out, in voxels of full resolution",
        unit="voxels",
        ge=8,
    )
    pipeline: Literal["zarr", "zarrs"] = key(
        "zarr", "what packs and unpacks chunks: zarr's own Python, or zarrs, in Rust (`pip install 'mskd[zarrs]'`)"
    )
    level: int | None = key(
        None,
        "compression level of zstd; default 9, of the preset tiny 19, of the preset lossless 3",
        example=9,
        ge=1,
        le=22,
    )

    @model_validator(mode="after")
    def _ordered(self) -> Cache:
        if not 0 < self.temperatures[0] <= self.temperatures[1]:
            allowed = "[low, high] with 0 < low ≤ high"
            raise FaultsError(Fault("temperatures", self.temperatures, allowed, {"temperatures": [1.0, 2.0]}))
        if self.root is not None and is_url(self.root) and self.root.split("://")[0] not in OBJECT_STORES:
            allowed = (
                f"a folder, or a URL that begins with {', '.join(OBJECT_STORES)}: others cannot promise that a file "
                "is there as a whole or not at all, and that all jobs see it"
            )
            raise FaultsError(Fault("root", self.root, allowed, {"root": "s3://bucket/mskd"}))
        return self
