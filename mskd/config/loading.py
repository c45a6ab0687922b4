"""Reading a study file; every complaint names key, value, what is allowed, and the YAML to write instead."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from mskd.config.section import Section
from mskd.config.study import Study
from mskd.errors import ConfigError


def load_study(path: Path) -> Study:
    """Read and check a study file.

    Args:
        path: YAML file; relative paths inside it are relative to the working directory.

    Raises:
        ConfigError: If the file is missing, is no YAML, or holds a key or value that is not allowed.
    """
    if not path.is_file():
        raise ConfigError(f"no study file {path}; expected a YAML file such as config/demo.yaml")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path} holds {type(data).__name__}, expected keys such as `study: my_study`")
    return parse_study(data, source=str(path))


def parse_study(data: Mapping[str, Any], *, source: str = "configuration") -> Study:
    """Check a study that is already in memory (for example Snakemake's `config`).

    Raises:
        ConfigError: As `load_study`.
    """
    try:
        return Study.model_validate(dict(data))
    except ValidationError as error:
        lines = [_explain(item) for item in error.errors()]
        raise ConfigError(f"{source}: {len(lines)} problem(s)\n" + "\n".join(lines)) from None


def dump_study(study: Study) -> str:
    """Return the whole study, defaults included, as YAML."""
    return yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _explain(item: ErrorDetails) -> str:
    location = [str(part) for part in item["loc"]]
    where = ".".join(location) or "(top level)"
    value = item["input"]
    if item["type"] == "extra_forbidden":
        return _explain_unknown(location, value)
    allowed = item["msg"].removeprefix("Value error, ")
    text = f"  {where}: found {_short(value)}\n    allowed: {allowed}"
    example = _default_yaml(location)
    return (
        f"{text}\n    write instead, for example:\n{example}"
        if example and item["type"] != "value_error"
        else text
    )


def _explain_unknown(location: list[str], value: Any) -> str:
    section = _section_at(location[:-1])
    known = list(section.model_fields) if section else []
    close = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
    text = f"  {'.'.join(location)}: unknown key (value {_short(value)})\n    allowed: {', '.join(known)}"
    if close:
        text += "\n    write instead:\n" + _nested([*location[:-1], close[0]], value)
    return text


def _default_yaml(location: list[str]) -> str:
    section = _section_at(location[:-1])
    if section is None or not location or location[-1] not in section.model_fields:
        return ""
    default = section.model_fields[location[-1]].get_default(call_default_factory=True)
    return _nested(location, default.model_dump(mode="json") if isinstance(default, BaseModel) else default)


def _nested(location: list[str], value: Any) -> str:
    data: Any = value if isinstance(value, (str, int, float, bool, list, dict, type(None))) else str(value)
    data = list(data) if isinstance(data, tuple) else data
    for part in reversed(location):
        data = {part: data}
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    return "\n".join(f"      {line}" for line in text.rstrip().splitlines())


def _section_at(location: list[str]) -> type[Section] | None:
    section: Any = Study
    for part in location:
        if isinstance(section, type) and issubclass(section, Section) and part in section.model_fields:
            section = _element(section.model_fields[part].annotation)
        elif not (isinstance(section, type) and issubclass(section, Section)):
            return None
    return section if isinstance(section, type) and issubclass(section, Section) else None


def _element(annotation: Any) -> Any:
    """Return the section behind an annotation such as `dict[str, Dataset]` or `Phantom | None`."""
    origin = typing.get_origin(annotation)
    if origin in (dict, list, tuple, typing.Union, types.UnionType):
        sections = [a for a in typing.get_args(annotation) if isinstance(a, type) and issubclass(a, Section)]
        return sections[0] if sections else None
    return annotation


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."
