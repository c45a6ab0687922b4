"""What a key may hold, in words: for the documentation and for error messages alike."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Any, Literal

import annotated_types
from pydantic.fields import FieldInfo

from mskd.config.section import is_section, members

_WORDS = {
    str: "text",
    int: "integer",
    float: "number",
    bool: "true or false",
    Path: "path",
    Any: "any value",
}
_BOUNDS = ((annotated_types.Ge, "ge", "≥"), (annotated_types.Gt, "gt", ">"))
_BOUNDS_ABOVE = ((annotated_types.Le, "le", "≤"), (annotated_types.Lt, "lt", "<"))


def allowed_values(field: FieldInfo) -> str:
    """Return what a key may hold, for example "integer ≥ 1" or "sgd, adamw"."""
    words = " or ".join(_words(part) for part in members(field.annotation))
    words += _constraints(field)
    return f"{words}, or null" if type(None) in typing.get_args(field.annotation) else words


def literals(annotation: Any) -> list[Any]:
    """Return the values of a Literal, of a list's elements too; empty where the annotation is none."""
    for part in members(annotation):
        if typing.get_origin(part) is Literal:
            return list(typing.get_args(part))
        if typing.get_origin(part) is list:
            return literals(typing.get_args(part)[0])
    return []


def _words(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return ", ".join(str(value) for value in arguments)
    if origin is list:
        return f"list of {_several(arguments[0])}"
    if origin is tuple:
        return f"[{', '.join(_words(part) for part in arguments)}]"
    if origin is dict:
        return f"mapping of {_words(arguments[0])} → {_words(arguments[1])}"
    if is_section(annotation):
        return f"keys {', '.join(annotation.model_fields)}"
    return _WORDS.get(annotation, str(annotation))


def _several(annotation: Any) -> str:
    words = _words(annotation)
    return {"integer": "integers", "number": "numbers", "path": "paths"}.get(words, words)


def _constraints(field: FieldInfo) -> str:
    text, lengths = [], []
    for bounds in (_BOUNDS, _BOUNDS_ABOVE):
        for item in field.metadata:
            text += [f" {sign} {getattr(item, name):g}" for kind, name, sign in bounds if isinstance(item, kind)]
    for item in field.metadata:
        if isinstance(item, annotated_types.MinLen):
            lengths.append(f"at least {item.min_length}")
        elif isinstance(item, annotated_types.MaxLen):
            lengths.append(f"at most {item.max_length}")
        elif pattern := getattr(item, "pattern", None):
            text.append(f" like `{pattern}`")
    return " and".join(text) + (f" ({', '.join(lengths)})" if lengths else "")
