"""Targets: what a teacher says of a case (margins and features), in one Zarr store per teacher and case."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import BloscCodec

from mskd.errors import MissingArtefactError
from mskd.provenance import array_digest, content_key, made_by
from mskd.storage import atomic_path

FORMAT = 1
Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class TargetArrays:
    """A teacher's targets for one case, in memory.

    Attributes:
        logits: Margins (one-vs-rest log-odds at τ = 1) of the teacher's organs, (K_n, X, Y, Z).
        features: Per tap (C, X / s, Y / s, Z / s), rounded up.
        strides: Per tap its stride (sx, sy, sz) in voxels of the study grid.
    """

    logits: npt.NDArray[np.floating[Any]]
    features: dict[str, npt.NDArray[np.floating[Any]]]
    strides: dict[str, tuple[int, int, int]]


def write_targets(
    path: Path,
    targets: TargetArrays,
    *,
    key: str,
    dtype: Literal["float16", "float32"],
    chunk: int,
    attributes: dict[str, Any],
) -> str:
    """Write a store atomically and return the digest of its arrays."""
    with atomic_path(path) as part:
        group = zarr.open_group(part, mode="w", zarr_format=3)
        stored = [_create(group, "logits", targets.logits, dtype, (chunk, chunk, chunk))]
        for tap, feature in targets.features.items():
            size = tuple(max(4, chunk // s) for s in targets.strides[tap])
            stored.append(_create(group, f"features/{tap}", feature, dtype, (size[0], size[1], size[2])))
        content = content_key(arrays=array_digest(*stored), taps=list(targets.features))
        group.attrs.update(
            {
                **attributes,
                "format": f"mskd-targets-{FORMAT}",
                "key": key,
                "content": content,
                "axes": "C then RAS",
                "logits": "margins: one-vs-rest log-odds at temperature 1",
                "strides": {tap: list(stride) for tap, stride in targets.strides.items()},
                "made_by": made_by(),
            }
        )
    return content


def stored_content(path: Path, key: str) -> str | None:
    """Return the digest of a store that stands under this key, or None if it has to be made (again)."""
    try:
        attributes = zarr.open_group(path, mode="r").attrs.asdict()
    except (FileNotFoundError, ValueError, KeyError):
        return None
    return str(attributes["content"]) if attributes.get("key") == key and "content" in attributes else None


class TargetStore:
    """A target store, opened for reading."""

    def __init__(self, path: Path, case: str) -> None:
        """Open a store.

        Raises:
            MissingArtefactError: If there is none, or it is not readable.
        """
        self.path, self.case = path, case
        try:
            self._group = zarr.open_group(path, mode="r")
            self.attributes: dict[str, Any] = self._group.attrs.asdict()
            self.content = str(self.attributes["content"])
        except (FileNotFoundError, ValueError, KeyError) as error:
            raise MissingArtefactError(
                case=case,
                file=path,
                expected="a teacher's cached targets",
                found=f"{type(error).__name__}: {error}",
                fix="run `mskd cache make` for this teacher and dataset (or the whole workflow again)",
            ) from error

    @cached_property
    def arrays(self) -> dict[str, zarr.Array[Any]]:
        """Arrays by name: "logits" and one per tap."""
        names = {"logits": "logits", **{tap: f"features/{tap}" for tap in self.strides}}
        return {name: cast("zarr.Array[Any]", self._group[path]) for name, path in names.items()}

    @property
    def strides(self) -> dict[str, tuple[int, int, int]]:
        """Per tap its stride in voxels of the study grid."""
        return {tap: (s[0], s[1], s[2]) for tap, s in self.attributes["strides"].items()}

    def read(self, name: str, box: Box | None = None) -> npt.NDArray[Any]:
        """Return an array, or a box of it on its own grid, in memory: (C, x, y, z)."""
        where = (slice(None), *box) if box is not None else slice(None)
        return np.asarray(self.arrays[name][where])


def _create(
    group: zarr.Group, name: str, data: npt.NDArray[Any], dtype: str, chunk: tuple[int, int, int]
) -> npt.NDArray[Any]:
    stored = data.astype(dtype)
    chunks = (data.shape[0], *(min(c, n) for c, n in zip(chunk, data.shape[1:], strict=True)))
    shards = tuple(-(-n // c) * c for n, c in zip(data.shape, chunks, strict=True))
    array = group.create_array(
        name,
        shape=data.shape,
        dtype=dtype,
        chunks=chunks,
        shards=shards,
        compressors=BloscCodec(cname="lz4", shuffle="shuffle"),
        dimension_names=("channel", "x", "y", "z"),
    )
    array[...] = stored
    return stored
