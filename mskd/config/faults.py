"""What is wrong with a study file: each fault names key, value, what is allowed, and the YAML to write instead."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from mskd.config.allowed import allowed_values, literals
from mskd.config.section import Section, example_of, is_section, members, plain, sections

Location = tuple[str, ...]


@dataclass(frozen=True)
class Fault:
    """One value that cannot be used.

    Attributes:
        key: Where it stands, dots between the keys, seen from the section whose check found it.
        value: What stands there.
        allowed: What may stand there, in words.
        write: What to write instead, as nested mappings seen from the same section.
        problem: What is wrong, where that is not clear from the value.
    """

    key: str
    value: Any
    allowed: str
    write: Any
    problem: str = ""

    def below(self, location: Sequence[str]) -> Fault:
        """Return the fault as seen from further up."""
        key = ".".join([*location, *([self.key] if self.key else [])])
        return Fault(key, self.value, self.allowed, nested(location, self.write), self.problem)

    def __str__(self) -> str:
        return "\n".join(
            [
                f"  {self.key or '(top level)'}: {self.problem or 'found'} {shortened(self.value)}",
                f"    allowed: {self.allowed}",
                "    write instead, for example:",
                *(f"      {line}" for line in yaml_text(self.write).splitlines()),
            ]
        )


class FaultsError(ValueError):
    """FaultsError that a check of the configuration found."""

    def __init__(self, *faults: Fault) -> None:
        self.faults = faults
        super().__init__("\n".join(str(fault) for fault in faults))


def faults_of(error: ValidationError, root: type[Section]) -> list[Fault]:
    """Return what pydantic found wrong as faults, one per key.

    Args:
        error: The complaint.
        root: The section that was checked.
    """
    found: dict[str, Fault] = {}
    for item in error.errors():
        for fault in _translate(item, root):
            found.setdefault(fault.key, fault)
    return list(found.values())


def nested(location: Sequence[str], value: Any) -> Any:
    """Return a value inside mappings, the first key outermost."""
    for part in reversed(location):
        value = {part: value}
    return value


def yaml_text(value: Any) -> str:
    """Return YAML as people write it: keys below each other, short lists and mappings in one line."""
    text = yaml.safe_dump(plain(value), sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)
    if text.startswith("{"):
        text = yaml.safe_dump(plain(value), sort_keys=False, allow_unicode=True, default_flow_style=False)
    return text.removesuffix("...\n").rstrip()


def closest(name: object, known: Iterable[str], cutoff: float = 0.5) -> str | None:
    """Return the known name that is most like another, None if none is."""
    return next(iter(difflib.get_close_matches(str(name), list(known), n=1, cutoff=cutoff)), None)


def shortened(value: Any) -> str:
    """Return a value as YAML would hold it, of bearable length."""
    text = "nothing" if value is None else repr(plain(value))
    return text if len(text) <= 120 else text[:117] + "..."


def _translate(item: ErrorDetails, root: type[Section]) -> list[Fault]:
    if item["loc"][-1:] == ("[key]",):
        return [_bad_name(root, item)]
    parts = item["loc"][:-1] if item["type"] == "missing" else item["loc"]  # of a list that is too short
    location, field = _known(root, [str(part) for part in parts])
    cause = item.get("ctx", {}).get("error")
    if isinstance(cause, FaultsError):
        return [fault.below(location) for fault in cause.faults]
    if item["type"] == "extra_forbidden":
        return [_unknown_key(root, [str(part) for part in item["loc"]], item["input"])]
    section = _section_at(root, location)
    if section is not None and cause is None:  # a section that is no mapping
        allowed = f"keys {', '.join(section.model_fields)}"
        name, first = next(iter(section.model_fields.items()))
        return [Fault(".".join(location), item["input"], allowed, nested([*location, name], example_of(first)))]
    if field is None:
        return [Fault(".".join(location), item["input"], item["msg"], {})]
    allowed = item["msg"].removeprefix("Value error, ") if cause is not None else allowed_values(field)
    keys = _keys_of(root, location)
    return [Fault(".".join(location), item["input"], allowed, nested(keys, _instead(field, location, item)))]


def _bad_name(root: type[Section], item: ErrorDetails) -> Fault:
    """Return the fault of a mapping's own key, such as a file value that is no number."""
    location, field = _known(root, [str(part) for part in item["loc"][:-2]])
    allowed = allowed_values(field) if field is not None else item["msg"]
    named = field is not None and not isinstance(item["input"], str)  # a number where a name belongs: quote it
    write = {str(item["input"]): {}} if named else example_of(field) if field is not None else {}
    return Fault(".".join(location), item["input"], allowed, nested(location, write), "found the key")


def _known(root: type[Section], location: Sequence[str]) -> tuple[Location, FieldInfo | None]:
    """Return the part of a location that the sections know, and its key; pydantic adds names of its own."""
    path: list[str] = []
    annotation: Any = root
    field: FieldInfo | None = None
    for part in location:
        choices = members(annotation)
        inside = next((a for a in choices if is_section(a) or typing.get_args(a)), None)
        if inside is not None and is_section(inside):
            if part not in inside.model_fields:
                break
            field = inside.model_fields[part]
            annotation = field.annotation
        elif inside is not None and len(choices) == 1 and part != "[key]":
            annotation = typing.get_args(inside)[-1]
            if is_section(annotation):
                field = None
        else:
            break
        path.append(part)
    return tuple(path), field


def _section_at(root: type[Section], location: Sequence[str]) -> type[Section] | None:
    annotation: Any = root
    for part in location:
        section = next((a for a in members(annotation) if is_section(a)), None)
        if section is not None and part in section.model_fields:
            annotation = section.model_fields[part].annotation
        elif section is not None or not typing.get_args(annotation):
            return None
        else:
            annotation = typing.get_args(annotation)[-1]
    return next((a for a in members(annotation) if is_section(a)), None)


def _keys_of(root: type[Section], location: Sequence[str]) -> Sequence[str]:
    """Return a location up to its last key of a section: what follows are items of a list or mapping."""
    for end in range(len(location), 0, -1):
        section = _section_at(root, location[: end - 1])
        if section is not None and location[end - 1] in section.model_fields:
            return location[:end]
    return location


def _instead(field: FieldInfo, location: Sequence[str], item: ErrorDetails) -> Any:
    """Return a value for a key that is like the one found, or else the key's example."""
    example, value = example_of(field), item["input"]
    chosen = closest(value, [str(v) for v in literals(field.annotation)]) if isinstance(value, str) else None
    if chosen is not None:
        return [chosen] if isinstance(example, list) else chosen
    if item["type"] == "string_type" and isinstance(value, (int, float)) and isinstance(example, str):
        return str(value)
    if item["type"] == "string_type" and isinstance(example, dict) and not isinstance(value, (dict, list)):
        return {location[-1]: str(value)} if str in typing.get_args(field.annotation)[:1] else example
    if item["type"] == "list_type" and isinstance(value, str):
        return [value] if isinstance(example, list) else {location[-1]: [value]}
    return example


def _unknown_key(root: type[Section], location: Sequence[str], value: Any) -> Fault:
    *above, name = location
    section = _section_at(root, above) or root
    known = section.model_fields
    problem = "unknown key, found"
    allowed = ", ".join(known)
    near = closest(name, known)
    if near is not None:
        return Fault(".".join(location), value, allowed, nested([*above, near], value), problem)
    for path, other in sections(root):
        if name in other.model_fields and "<name>" not in path:
            return Fault(
                ".".join(location),
                value,
                f"{allowed} (it is a key of {'.'.join(path) or 'the study'})",
                nested([*path, name], value),
                problem,
            )
    first, field = next(iter(known.items()))
    return Fault(".".join(location), value, allowed, nested([*above, first], example_of(field)), problem)
