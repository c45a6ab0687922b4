"""Prepared cases: image, labels and geometry of one scan on the study grid, in one Zarr store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from mskd.errors import MissingArtefactError
from mskd.geometry import Geometry
from mskd.provenance import array_digest, content_key, made_by
from mskd.storage import atomic_path

FORMAT = 1
CHUNK = 64
FILES = "files"  # attribute: size in bytes of every file below the store, its own metadata left out
Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class PreparedArrays:
    """What a prepared store holds, in memory.

    Attributes:
        image: HU, clipped, int16, (X, Y, Z).
        body: True inside the body, (X, Y, Z).
        labels: Study values of the labelled organs, 255 = ignore, uint8, (X, Y, Z).
        withheld_labels: All organs that the study knows, or None.
        foreground: Voxels to sample from, int32, rows (organ value, x, y, z).
        geometry: Way back to the raw file.
    """

    image: npt.NDArray[np.int16]
    body: npt.NDArray[np.bool_]
    labels: npt.NDArray[np.uint8]
    withheld_labels: npt.NDArray[np.uint8] | None
    foreground: npt.NDArray[np.int32]
    geometry: Geometry

    def digests(self) -> dict[str, str]:
        """Return a digest per part, so that a stage depends only on what it reads."""
        geometry = content_key(geometry=self.geometry.to_json())
        parts = {
            "image": content_key(arrays=array_digest(self.image, self.body), geometry=geometry),
            "labels": content_key(arrays=array_digest(self.labels, self.foreground)),
        }
        if self.withheld_labels is not None:
            parts["withheld"] = content_key(arrays=array_digest(self.withheld_labels))
        return parts


def write_prepared(path: Path, arrays: PreparedArrays, *, key: str, attributes: dict[str, Any]) -> dict[str, str]:
    """Write a store atomically and return its digests."""
    digests = arrays.digests()
    with atomic_path(path) as part:
        group = zarr.open_group(part, mode="w", zarr_format=3)
        for name in ("image", "body", "labels", "withheld_labels", "foreground"):
            data = getattr(arrays, name)
            if data is not None:
                _create(group, name, data)
        group.attrs.update(
            {
                **attributes,
                "format": f"mskd-prepared-{FORMAT}",
                "key": key,
                "digests": digests,
                "axes": "RAS",
                "unit": "HU",
                "geometry": arrays.geometry.to_json(),
                "affine": arrays.geometry.affine.tolist(),
                "made_by": made_by(),
                FILES: _sizes(part),
            }
        )
    return digests


def stored_digests(path: Path, key: str) -> dict[str, str] | None:
    """Return the digests of a store that stands whole under this key, or None if it has to be made (again)."""
    try:
        attributes = zarr.open_group(path, mode="r").attrs.asdict()
    except (FileNotFoundError, ValueError, KeyError):
        return None
    digests = attributes.get("digests")
    if attributes.get("key") != key or not isinstance(digests, dict) or _changed_file(path, attributes):
        return None
    return dict(digests)


def _sizes(store: Path) -> dict[str, int]:
    """Return the size of each file of a store's arrays."""
    files = (file for folder in store.iterdir() if folder.is_dir() for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(store).as_posix(): file.stat().st_size for file in sorted(files)}


def _changed_file(store: Path, attributes: Mapping[str, Any]) -> str:
    """Return what is wrong with the files of a store, empty if nothing is; Zarr reads a lost one as zeros."""
    recorded = attributes.get(FILES)
    if not isinstance(recorded, dict):
        return "no record of its files"
    for name, size in recorded.items():
        try:
            found = (store / name).stat().st_size
        except OSError:
            return f"{name} is missing"
        if found != size:
            return f"{name} has {found} bytes instead of {size}"
    return ""


class PreparedCase:
    """A prepared store, opened for reading."""

    def __init__(self, path: Path, case: str) -> None:
        """Open a store.

        Raises:
            MissingArtefactError: If there is none, it is not readable, or a file of it is lost or cut off.
        """
        self.case, self.path = case, path
        try:
            self._group = zarr.open_group(path, mode="r")
            self.attributes: dict[str, Any] = dict(self._group.attrs.asdict())
            self.geometry = Geometry.from_json(dict(self.attributes["geometry"]))
            if changed := _changed_file(path, self.attributes):
                raise ValueError(changed)
        except (FileNotFoundError, ValueError, KeyError) as error:
            raise self._unusable(error) from error

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the arrays."""
        return self.geometry.shape

    def read(self, name: str, box: Box | None = None) -> npt.NDArray[Any]:
        """Return an array ("image", "labels", "body", "withheld_labels"), or a box of it, in memory."""
        if name not in self._group:
            raise MissingArtefactError(
                case=self.case,
                file=self.path,
                expected=f"the array {name}",
                found="a store without it",
                fix="set `withheld: true` for this dataset if its full labels are known, else leave the method out",
            )
        array: Any = self._group[name]
        try:
            return np.asarray(array[box if box is not None else slice(None)])
        except ValueError as error:  # a checksum
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> MissingArtefactError:
        dataset, block = self.path.parent.parent.name, self.path.parent.name
        return MissingArtefactError(
            case=self.case,
            file=self.path,
            expected="a whole prepared store",
            found=f"{type(error).__name__}: {error}",
            fix=f"delete it if it is there, run `mskd prepare --study STUDY --dataset {dataset} --block {block}`, "
            "and the workflow again",
        )

    @cached_property
    def foreground(self) -> dict[int, npt.NDArray[np.int32]]:
        """Organ value → voxels (n, 3) to sample from."""
        rows = self.read("foreground")
        return {int(value): rows[rows[:, 0] == value, 1:] for value in np.unique(rows[:, 0])}


def normalise(image_hu: npt.NDArray[Any], hu_clip: Sequence[float]) -> npt.NDArray[np.float32]:
    """Scale HU linearly so that the clip range becomes [-1, 1]."""
    low, high = hu_clip
    scaled: npt.NDArray[np.float32] = np.clip(image_hu, low, high).astype(np.float32)
    scaled -= (low + high) / 2
    scaled /= (high - low) / 2
    return scaled


def _create(group: zarr.Group, name: str, data: npt.NDArray[Any]) -> None:
    if data.size == 0:
        group.create_array(name, shape=data.shape, dtype=data.dtype, chunks=tuple(max(1, n) for n in data.shape))
        return
    chunks = tuple(min(CHUNK, n) for n in data.shape) if data.ndim == 3 else data.shape
    shards = tuple(-(-n // c) * c for n, c in zip(data.shape, chunks, strict=True))
    array = group.create_array(
        name,
        shape=data.shape,
        dtype=data.dtype,
        chunks=chunks,
        shards=shards,
        compressors=(BloscCodec(cname="lz4", shuffle="shuffle"), Crc32cCodec()),
        dimension_names=("x", "y", "z") if data.ndim == 3 else None,
    )
    array[...] = data
