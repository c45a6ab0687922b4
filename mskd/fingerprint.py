"""Fingerprints of the code behind an artefact.

A fingerprint covers a module and, transitively, the modules of this package that it imports. Comments, docstrings and
formatting do not count, nor do the modules that cannot change a result (configuration, command line, paths, messages).
"""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path

PACKAGE = "mskd"
NEUTRAL = frozenset(
    {
        "mskd",
        "mskd.cases",
        "mskd.cli",
        "mskd.config",
        "mskd.console",
        "mskd.cost",
        "mskd.dag",
        "mskd.datasets",
        "mskd.errors",
        "mskd.fingerprint",
        "mskd.layout",
        "mskd.leaves",
        "mskd.manifest",
        "mskd.methods.registry",
        "mskd.model_card",
        "mskd.provenance",
        "mskd.storage",
        "mskd.teachers.registry",
    }
)


def code_fingerprint(*modules: str) -> str:
    """Return the fingerprint of modules and of everything that they import inside the package.

    Args:
        *modules: Dotted names, for example "mskd.stages.prepare".

    Raises:
        ValueError: If a module does not exist.
    """
    pending, seen = list(modules), set()
    while pending:
        module = pending.pop()
        if module in seen or _is_neutral(module):
            continue
        seen.add(module)
        pending.extend(_imports(module))
    digest = hashlib.sha256()
    for module in sorted(seen):
        digest.update(f"{module}={_module_digest(module)};".encode())
    return digest.hexdigest()[:16]


def _is_neutral(module: str) -> bool:
    return module == PACKAGE or any(module == n or module.startswith(n + ".") for n in NEUTRAL - {PACKAGE})


@cache
def _source(module: str) -> tuple[Path, ast.Module]:
    base = Path(__file__).parent.parent.joinpath(*module.split("."))
    path = base.with_suffix(".py") if base.with_suffix(".py").is_file() else base / "__init__.py"
    if not path.is_file():
        raise ValueError(f"no module {module} below {Path(__file__).parent}")
    return path, ast.parse(path.read_text(encoding="utf-8"))


@cache
def _module_digest(module: str) -> str:
    tree = ast.parse(ast.unparse(_source(module)[1]))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and ast.get_docstring(
            node
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


@cache
def _imports(module: str) -> frozenset[str]:
    path, tree = _source(module)
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            found.add(origin)
            found.update(f"{origin}.{alias.name}" for alias in node.names)
    return frozenset(name for name in found if name.split(".")[0] == PACKAGE and _exists(name))


def _exists(module: str) -> bool:
    base = Path(__file__).parent.parent.joinpath(*module.split("."))
    return base.with_suffix(".py").is_file() or (base / "__init__.py").is_file()
