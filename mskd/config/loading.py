"""Reading a study file; every complaint names key, value, what is allowed, and the YAML to write instead."""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from mskd.config.faults import faults_of
from mskd.config.study import Study
from mskd.errors import ConfigError

SMALLEST = """\
    write for example:
      study: my_study
      organs: [liver]
      datasets:
        liver: {adapter: msd, path: /data/Task03_Liver, label_map: {1: liver}}"""


def load_study(path: Path) -> Study:
    """Read and check a study file.

    Args:
        path: YAML file; relative paths inside it are relative to the working directory.

    Raises:
        ConfigError: If the file is missing, is no YAML, or holds a key or value that is not allowed.
    """
    if not path.is_file():
        raise ConfigError(f"no study file {path}; expected a YAML file such as {_study_like(path)}")
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        hint = "    keys and values are written `key: value`, below each other with equal indentation, without tabs"
        raise ConfigError(f"{path} is not valid YAML: {error}\n{hint}\n{SMALLEST}") from error
    if data is None:
        raise ConfigError(f"{path} is empty\n    allowed: {', '.join(Study.model_fields)}\n{SMALLEST}")
    if not isinstance(data, dict):
        found = f"{path} holds {data!r:.80}, no keys"
        raise ConfigError(f"{found}\n    allowed: {', '.join(Study.model_fields)}\n{SMALLEST}")
    return parse_study(data, source=str(path))


def parse_study(data: Mapping[str, Any], *, source: str = "configuration") -> Study:
    """Check a study that is already in memory (for example Snakemake's `config`).

    Raises:
        ConfigError: As `load_study`.
    """
    try:
        return Study.model_validate(dict(data))
    except ValidationError as error:
        faults = faults_of(error, Study)
        count = f"{len(faults)} problem" + ("s" if len(faults) > 1 else "")
        raise ConfigError("\n".join([f"{source}: {count}", *map(str, faults)])) from None


def dump_study(study: Study) -> str:
    """Return the whole study, defaults included, as YAML."""
    return yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping, where YAML would let the last one win in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode) and key_node.tag != "tag:yaml.org,2002:merge":
                if (key_node.tag, key_node.value) in seen:
                    text = f"found the key {key_node.value!r} twice; write it once"
                    raise yaml.constructor.ConstructorError(None, None, text, key_node.start_mark)
                seen.add((key_node.tag, key_node.value))
        return super().construct_mapping(node, deep)


def _study_like(path: Path) -> str:
    """Return a study file beside a missing one, the most alike first."""
    beside = [file.name for file in sorted(path.parent.glob("*.y*ml"))] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, beside, n=1, cutoff=0)
    return str(path.parent / near[0]) if near else "config/demo.yaml"
