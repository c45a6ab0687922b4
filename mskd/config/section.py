"""What every part of the configuration has in common."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

_UNSET: Any = object()


class Section(BaseModel):
    """A part of the study file: unknown keys are errors, values cannot be changed after loading."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        use_attribute_docstrings=False,
        allow_inf_nan=False,
    )


def key(default: Any, description: str, *, unit: str = "", example: Any = _UNSET, **constraints: Any) -> Any:
    """Return the pydantic field of a configuration key.

    Args:
        default: The default; for lists, mappings and sections a factory (a callable).
        description: What the key means, shown in the schema and in `docs/configuration.md`.
        unit: Unit of the value ("mm", "HU", "steps", …); empty where it has none.
        example: A value to show where the default shows nothing (null, empty).
        **constraints: Passed to `pydantic.Field` (ge, le, min_length, …).
    """
    extra: dict[str, Any] = {"unit": unit} if unit else {}
    if example is not _UNSET:
        constraints["examples"] = [example]
    if callable(default):
        return Field(default_factory=default, description=description, json_schema_extra=extra, **constraints)
    return Field(default, description=description, json_schema_extra=extra, **constraints)


def default_of(field: FieldInfo) -> Any:
    """Return the default of a key as plain YAML would hold it; sections as mappings."""
    return plain(field.get_default(call_default_factory=True))


def example_of(field: FieldInfo) -> Any:
    """Return a value worth showing: the key's example, or else its default."""
    return plain(field.examples[0]) if field.examples else default_of(field)


def unit_of(field: FieldInfo) -> str:
    """Return the unit of a key, empty where it has none."""
    extra = field.json_schema_extra
    return str(extra.get("unit", "")) if isinstance(extra, dict) else ""


def plain(value: Any) -> Any:
    """Return a value as YAML holds it: no models, tuples or paths."""
    if isinstance(value, BaseModel):
        return plain(value.model_dump(mode="json"))
    if isinstance(value, dict):
        return {k if isinstance(k, int) else str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def is_section(annotation: Any) -> typing.TypeGuard[type[Section]]:
    """Return whether an annotation is a section of the configuration."""
    return isinstance(annotation, type) and issubclass(annotation, Section)


def members(annotation: Any) -> list[Any]:
    """Return the alternatives of a union without None, or the one annotation."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [part for part in typing.get_args(annotation) if part is not type(None)]
    return [annotation]


def sections(root: type[Section], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], type[Section]]]:
    """Yield a section and all below it with their paths; `<name>` stands for a name that the user chooses."""
    yield path, root
    for name, field in root.model_fields.items():
        for annotation in members(field.annotation):
            arguments = typing.get_args(annotation)
            if is_section(annotation):
                yield from sections(annotation, (*path, name))
            elif arguments and is_section(arguments[-1]):
                yield from sections(arguments[-1], (*path, name, "<name>"))
