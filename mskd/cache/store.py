"""One Zarr v3 store per teacher and case: written as a whole, sealed, and checked when it is opened.

`logits` holds margins (K_n, X, Y, Z) and `features/<tap>` features (C', x, y, z), as codes or as they are; each array
is one shard, each chunk carries a CRC32C. The attributes say how codes are read (`code`), which files belong to the
store with size and digest (`files`), and end in a `seal`, the digest of all the other attributes (SHA-256, 128 bits).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from mskd.cache.files import DIGITS, SEALED, LocalFiles, store_files
from mskd.cache.quantisation import FeatureCode, MarginCode, code_from_json
from mskd.cache.selection import expand
from mskd.errors import ConfigError, MissingArtefactError
from mskd.provenance import array_digest, content_key, made_by

FORMAT = "mskd-targets-2"
LOGITS = "logits"
PIPELINES = {"zarr": "zarr.core.codec_pipeline.BatchedCodecPipeline", "zarrs": "zarrs.ZarrsCodecPipeline"}
Triple = tuple[int, int, int]
Box = tuple[slice, slice, slice]
Code = MarginCode | FeatureCode | None


@dataclass(frozen=True)
class EncodedArray:
    """An array as it is stored.

    Attributes:
        values: Codes, or values as they are, (C, x, y, z).
        code: How codes are read; None for values as they are.
        stride: Voxels of the study grid per cell, per axis.
        chunk: Cells per chunk.
        kept: Which boxes of features are stored, bool per box; None for margins, which are stored everywhere.
        box: Cells per box of `kept`.
        details: What else the attributes say of it (error bounds, projection).
    """

    values: npt.NDArray[Any]
    code: Code
    stride: Triple
    chunk: Triple
    kept: npt.NDArray[np.bool_] | None
    box: Triple
    details: dict[str, Any]


def write_store(
    place: str | Path,
    arrays: dict[str, EncodedArray],
    *,
    key: str,
    level: int,
    affine: npt.NDArray[np.floating[Any]],
    attributes: dict[str, Any],
) -> str:
    """Write a store that appears as a whole.

    Args:
        place: Folder or URL `<case>.zarr`.
        arrays: By name: "logits", "features/<tap>".
        key: Content key.
        level: Compression level of zstd.
        affine: From voxels of the study grid to mm (RAS), (4, 4).
        attributes: Case, teacher, organs, provenance: anything that JSON can hold.

    Returns:
        Digest of everything that a reader gets from the store.
    """
    with store_files(str(place)).writing() as part:
        group = zarr.open_group(part, mode="w", zarr_format=3)
        described, digests = {}, {}
        for name, array in arrays.items():
            _create(group, name, array, level)
            described[name] = {
                "code": array.code.to_json() if array.code else None,
                "stride": list(array.stride),
                "affine": _cell_affine(affine, array.stride).tolist(),
                "kept": None if array.kept is None else {"box": list(array.box), **_pack(array.kept)},
                **array.details,
            }
            digests[name] = [array_digest(array.values), described[name]]
        content = content_key(arrays=digests)
        for file in part.rglob(SEALED):
            _compact(file)
        written = LocalFiles(part)
        files = {name: [written.size(name), written.digest(name)] for name in written.names() if name != SEALED}
        sealed = {
            **attributes,
            "format": FORMAT,
            "key": key,
            "content": content,
            "axes": "C then RAS",
            "units": "logits: margins, log-odds of one organ against the rest, at temperature 1",
            "arrays": described,
            "files": files,
            "made_by": made_by(),
        }
        group.attrs.update({**sealed, "seal": _seal(sealed)})
        _compact(part / SEALED)
    return content


class TargetStore:
    """A target store, opened for reading."""

    def __init__(self, place: str | Path, case: str, content: str | None = None) -> None:
        """Open a store and check its seal, the sizes of its files, and that it is the one that is meant.

        Args:
            place: Folder or URL `<case>.zarr`.
            case: Case id, for messages.
            content: Digest that a manifest names; None for whatever stands there.

        Raises:
            MissingArtefactError: If there is none, or it is damaged, or another.
            MskdError: If an object store cannot be reached.
        """
        self.place, self.case, self.files = str(place), case, store_files(str(place))
        try:
            self._group = zarr.open_group(self.files.opened(), mode="r")
            self.attributes: dict[str, Any] = dict(self._group.attrs.asdict())
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise self._unusable(f"{type(error).__name__}: {error}") from error
        if fault := attributes_fault(self.attributes) or self._files_fault():
            raise self._unusable(fault)
        self.content = str(self.attributes["content"])
        if content is not None and self.content != content:
            raise self._unusable(f"content {self.content}, its manifest says {content}")

    @cached_property
    def arrays(self) -> dict[str, zarr.Array[Any]]:
        """Arrays as stored, by name: "logits" and one per tap."""
        found: dict[str, zarr.Array[Any]] = {}
        for name in self.attributes["arrays"]:
            array: Any = self._group[name]
            found[name.removeprefix("features/")] = array
        return found

    @cached_property
    def codes(self) -> dict[str, Code]:
        """How each array's codes are read."""
        return {name.removeprefix("features/"): code_from_json(d["code"]) for name, d in self._described.items()}

    @property
    def strides(self) -> dict[str, Triple]:
        """Per tap its stride in voxels of the study grid."""
        taps = {name: d["stride"] for name, d in self._described.items() if name != LOGITS}
        return {name.removeprefix("features/"): (s[0], s[1], s[2]) for name, s in taps.items()}

    def projected(self, tap: str) -> bool:
        """Return whether a tap's features are principal components."""
        return "explained_variance" in self._described[f"features/{tap}"]

    @property
    def temperatures(self) -> tuple[float, float]:
        """Smallest and largest temperature for which the margins' error is bounded as stated."""
        low, high = self._described[LOGITS]["temperatures"]
        return float(low), float(high)

    def read(self, name: str, box: Box | None = None) -> npt.NDArray[np.float32]:
        """Return margins ("logits") or features (a tap), or a box of them on their own grid: (C, x, y, z)."""
        return self.decode(name, self.read_codes(name, box))

    def read_codes(self, name: str, box: Box | None = None) -> npt.NDArray[Any]:
        """Return an array as it is stored, or a box of it.

        Raises:
            MissingArtefactError: If a chunk is damaged.
        """
        where = (slice(None), *box) if box is not None else slice(None)
        try:
            return np.asarray(self.arrays[name][where])
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise self._unusable(f"{name}: {error}") from error

    def decode(self, name: str, stored: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return the values that stored ones stand for."""
        code = self.codes[name]
        return stored.astype(np.float32) if code is None else code.decode(stored)

    def kept(self, tap: str, start: Sequence[int], size: Sequence[int]) -> npt.NDArray[np.bool_]:
        """Return which cells of a box of a tap's grid are stored, (x, y, z)."""
        boxes, box = self._kept_boxes[tap]
        return expand(boxes, box, start, size)

    @cached_property
    def _kept_boxes(self) -> dict[str, tuple[npt.NDArray[np.bool_], Triple]]:
        packed = {name.removeprefix("features/"): d["kept"] for name, d in self._described.items()}
        return {name: (_unpack(p), (p["box"][0], p["box"][1], p["box"][2])) for name, p in packed.items() if p}

    @property
    def _described(self) -> dict[str, dict[str, Any]]:
        described: dict[str, dict[str, Any]] = self.attributes["arrays"]
        return described

    def _files_fault(self) -> str:
        names = set(self.files.names())
        for name, (size, digest) in self.attributes["files"].items():
            if name not in names:
                return f"{name} is missing"
            if (found := self.files.size(name)) != size:
                return f"{name} has {found} bytes, expected {size}"
            checked = self.files.whole_when_opened or name.endswith(SEALED)
            if checked and self.files.digest(name) != digest:
                return f"{name} is damaged"
        return ""

    def _unusable(self, found: str) -> MissingArtefactError:
        return MissingArtefactError(
            case=self.case,
            file=self.place,
            expected="a teacher's cached targets, whole and current",
            found=found,
            fix="run `mskd cache verify STUDY --repair`, then the workflow again: it remakes only what is bad",
        )


def use_pipeline(name: Literal["zarr", "zarrs"], threads: int) -> None:
    """Choose what packs and unpacks chunks in this process, and with how many threads.

    Args:
        name: `cache.pipeline`.
        threads: As many as the process computes with; zarr itself would take all cores in every process.

    Raises:
        ConfigError: If it is not installed.
    """
    if name == "zarrs" and find_spec("zarrs") is None:
        raise ConfigError("cache.pipeline: zarrs is not installed: `pip install 'mskd[zarrs]'`, or write `zarr`")
    zarr.config.set({"codec_pipeline.path": PIPELINES[name], "threading.max_workers": threads})


def stored_content(place: str | Path, key: str) -> str | None:
    """Return the digest of a whole store that stands under this key, or None if it has to be made (again)."""
    try:
        store = TargetStore(place, "-")
    except MissingArtefactError:
        return None
    return store.content if store.attributes["key"] == key else None


def attributes_fault(attributes: dict[str, Any]) -> str:
    """Return what is wrong with a store's attributes, or nothing."""
    if attributes.get("format") != FORMAT:
        return f"format {attributes.get('format')!r}, this version reads {FORMAT!r}"
    if attributes.get("seal") != _seal({name: value for name, value in attributes.items() if name != "seal"}):
        return "attributes that do not match their seal"
    return ""


def _seal(attributes: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(attributes, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:DIGITS]


def _compact(file: Path) -> None:
    """Write JSON without white space: metadata are a third of a small scan's store."""
    file.write_text(json.dumps(json.loads(file.read_text()), separators=(",", ":")))


def _compressor(dtype: np.dtype[Any], level: int) -> ZstdCodec | BloscCodec:
    """Return zstd; for numbers of several bytes after a shuffle, which codes of one byte only pay for."""
    if dtype.itemsize == 1:
        return ZstdCodec(level=level)
    return BloscCodec(cname="zstd", clevel=min(level, 9), shuffle="shuffle")


def _create(group: zarr.Group, name: str, array: EncodedArray, level: int) -> None:
    shape = array.values.shape
    chunks = (shape[0], *(min(c, n) for c, n in zip(array.chunk, shape[1:], strict=True)))
    created = group.create_array(
        name,
        shape=shape,
        dtype=array.values.dtype,
        chunks=chunks,
        shards=tuple(-(-n // c) * c for n, c in zip(shape, chunks, strict=True)),
        compressors=(_compressor(array.values.dtype, level), Crc32cCodec()),
        fill_value=0,
        dimension_names=("channel", "x", "y", "z"),
        config={"write_empty_chunks": False},
    )
    created[...] = array.values


def _cell_affine(affine: npt.NDArray[np.floating[Any]], stride: Triple) -> npt.NDArray[np.floating[Any]]:
    """Return the affine of a grid whose cells each cover `stride` voxels, from cell centres to mm."""
    step = np.diag([*stride, 1.0])
    step[:3, 3] = (np.asarray(stride) - 1) / 2
    return np.asarray(affine @ step)


def _pack(kept: npt.NDArray[np.bool_]) -> dict[str, Any]:
    return {"shape": list(kept.shape), "bits": np.packbits(kept.ravel()).tobytes().hex()}


def _unpack(packed: dict[str, Any]) -> npt.NDArray[np.bool_]:
    shape = packed["shape"]
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(packed["bits"]), np.uint8))
    return np.asarray(bits[: int(np.prod(shape))].reshape(shape), bool)
