"""What every part of the configuration has in common."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A part of the study file: unknown keys are errors, values cannot be changed after loading."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=False
    )


def key(default: Any, description: str, *, unit: str = "", **constraints: Any) -> Any:
    """Return the pydantic field of a configuration key.

    Args:
        default: The default; for lists, mappings and sections a factory (a callable).
        description: What the key means, shown in the schema and in `docs/configuration.md`.
        unit: Unit of the value ("mm", "HU", "steps", …); empty where it has none.
        **constraints: Passed to `pydantic.Field` (ge, le, min_length, …).
    """
    extra: dict[str, Any] = {"unit": unit} if unit else {}
    if callable(default):
        return Field(default_factory=default, description=description, json_schema_extra=extra, **constraints)
    return Field(default, description=description, json_schema_extra=extra, **constraints)
