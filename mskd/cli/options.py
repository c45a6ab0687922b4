"""Options that several commands share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from mskd.errors import ConfigError

StudyFile = Annotated[Path, typer.Option("--study", help="Study file, for example config/demo.yaml.")]
OptionalStudy = Annotated[Path | None, typer.Option("--study", help="Study file: work on a part of a study.")]
StudyArgument = Annotated[Path, typer.Argument(metavar="STUDY", help="Study file, for example config/demo.yaml.")]
DatasetName = Annotated[str, typer.Option(help="Dataset of the study.")]
BlockName = Annotated[str, typer.Option(help="Block of the dataset, for example b00.")]
RunName = Annotated[str, typer.Option(help="Run, for example fold0-seed0.")]
TeacherName = Annotated[str, typer.Option(help="Teacher of the study.")]
MethodName = Annotated[str, typer.Option(help="Method (row) of the study.")]
DeviceName = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, …")]
Processes = Annotated[
    int, typer.Option(min=0, help="Processes that share the work, each on a GPU of its own; 0 and 1: this one.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def json_mapping(option: str, text: str) -> dict[str, Any]:
    """Return an option's value that is written as a JSON object.

    Raises:
        ConfigError: If it is none.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(f"{option}: {twice} occur twice; write each once")
        return dict(pairs)

    try:
        value = json.loads(text, object_pairs_hook=once)
    except ValueError as error:
        raise ConfigError(f"{option}: not valid JSON ({error}); write for example '{{\"liver\": 1}}'") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{option}: found {value!r}; write for example '{{\"liver\": 1}}'")
    return value
