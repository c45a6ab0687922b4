"""What method files say of themselves, read without importing them (an import of torch takes seconds)."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from mskd.errors import ConfigError

NOT_METHODS = {"__init__", "registry", "base"}
CONSTANTS = ("TITLE", "TRAINS", "NEEDS")
OPTIONAL = ("DISTILLATION", "COMPANIONS")
KNOWN_NEEDS = {"teachers", "targets", "features", "distillation", "withheld_labels", "organ_sets"}


@dataclass(frozen=True)
class MethodFacts:
    """Constants of a method file.

    Attributes:
        kind: Name of the file.
        title: Name in tables.
        trains: Whether it trains a network.
        needs: What it reads beside images and labels.
        distillation: Keys of the section `distillation` whose default is another for this method.
        companions: Further networks of the student's size while it trains: how many are "learning", how many
            "following" another's weights.
    """

    kind: str
    title: str
    trains: bool
    needs: frozenset[str]
    distillation: dict[str, Any] = field(default_factory=dict)
    companions: dict[str, int] = field(default_factory=dict)

    @property
    def module(self) -> str:
        """Dotted name of the method's module."""
        return f"mskd.methods.{self.kind}"


def method_kinds() -> list[str]:
    """Return the names of all methods."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in NOT_METHODS)


@cache
def method_facts(kind: str) -> MethodFacts:
    """Return what a method says of itself.

    Raises:
        ConfigError: If there is no such method.
    """
    if kind not in method_kinds():
        raise ConfigError(f"no method {kind!r}; allowed: {', '.join(method_kinds())}. Write `methods: {{mskd: {{}}}}`")
    tree = ast.parse((Path(__file__).parent / f"{kind}.py").read_text(encoding="utf-8"))
    constants: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name) and target.id in (*CONSTANTS, *OPTIONAL):
                    constants[target.id] = ast.literal_eval(node.value)
    if missing := [name for name in CONSTANTS if name not in constants]:
        raise ConfigError(
            f"mskd/methods/{kind}.py does not state {', '.join(missing)}; write for example "
            '`TITLE = "my method"`, `TRAINS = True`, `NEEDS = ["targets"]` at its top'
        )
    needs = frozenset(constants["NEEDS"])
    if unknown := needs - KNOWN_NEEDS:
        raise ConfigError(f"mskd/methods/{kind}.py: NEEDS has {sorted(unknown)}; allowed: {sorted(KNOWN_NEEDS)}")
    title, trains = str(constants["TITLE"]), bool(constants["TRAINS"])
    distillation, companions = (dict(constants.get(name, {})) for name in OPTIONAL)
    return MethodFacts(kind, title, trains, needs, distillation, companions)
