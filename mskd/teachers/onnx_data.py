"""Which files beside an ONNX model hold its weights. The model says so; here without the package `onnx`.

ONNX is protobuf: fields of a number, a wire type and, where they are messages, a length. Only the messages on the way
to `TensorProto.external_data` are looked into (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from mskd.errors import MskdError

_WAY: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5
DEEPEST = 64  # messages in messages

Place = tuple[int, int]


def external_data(model: Path) -> list[Path]:
    """Return the files that hold weights of a model, in order.

    Raises:
        MskdError: If it is no ONNX model, or a file is missing or lies outside the model's folder.
    """
    try:
        with model.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            names = sorted(set(_locations(data, (0, len(data)), "model", DEEPEST)))
    except (OSError, ValueError, IndexError) as error:
        raise MskdError(f"{model}: no model in ONNX ({error}); export or copy it again") from error
    found = []
    for name in names:
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or "\\" in name or ".." in parts:
            raise MskdError(
                f"{model}: its weights are said to lie in {name!r}\n  expected: a file in the folder of the model\n"
                "  way out:  export the model again, with its weights beside it"
            )
        path = model.parent.joinpath(*parts)
        if not path.is_file():
            raise MskdError(
                f"{path}: no such file\n  expected: weights of {model.name}\n  way out:  copy the whole folder"
            )
        found.append(path)
    return found


def _locations(data: mmap.mmap, place: Place, message: str, deep: int) -> Iterator[str]:
    if not deep:
        raise ValueError("messages in messages without end")
    for number, inner in _messages(data, place):
        kind = _WAY[message].get(number)
        if kind == "entry":
            said = dict(_messages(data, inner))
            if 1 in said and data[slice(*said[1])] == b"location":
                yield data[slice(*said.get(2, (0, 0)))].decode()
        elif kind:
            yield from _locations(data, inner, kind, deep - 1)


def _messages(data: mmap.mmap, place: Place) -> Iterator[tuple[int, Place]]:
    """Yield number and place of each field that has a length."""
    at, end = place
    while at < end:
        tag, at = _varint(data, at)
        wire = tag & 7
        if wire == _VARINT:
            _, at = _varint(data, at)
        elif wire == _LENGTH:
            length, at = _varint(data, at)
            if at + length > end:
                raise ValueError("it ends too early")
            yield tag >> 3, (at, at + length)
            at += length
        elif wire in (_EIGHT_BYTES, _FOUR_BYTES):
            at += 8 if wire == _EIGHT_BYTES else 4
        else:
            raise ValueError("unknown content")


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number without end")
