"""Content keys and the record of what made an artefact."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mskd import __version__
from mskd.datasets.folders import files_below

RECORDED_PACKAGES = (
    "dynamic_network_architectures",
    "nibabel",
    "numcodecs",
    "numpy",
    "scipy",
    "torch",
    "zarr",
)


def content_key(**parts: Any) -> str:
    """Return the key of an artefact: a hash of all that determines it.

    Args:
        **parts: Inputs' digests, configuration leaves, code fingerprint; anything that JSON can hold.
    """
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes; of a folder (a DICOM series) that of its files' names and bytes in order.

    Hidden and system files of a folder do not count.

    Raises:
        OSError: If a file cannot be read.
        DataError: If a folder cannot be read.
    """
    if path.is_dir():
        contents = [(file.relative_to(path).as_posix(), file_digest(file)) for file in files_below(path)]
        return hashlib.sha256(json.dumps(contents).encode()).hexdigest()
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def array_digest(*arrays: npt.NDArray[Any]) -> str:
    """Return the SHA-256 of arrays: their shapes, dtypes and values."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape}{array.dtype.str}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


@cache
def _versions() -> dict[str, str]:
    versions = {"mskd": __version__, "python": platform.python_version()}
    for package in RECORDED_PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def made_by() -> dict[str, str]:
    """Return the versions that an artefact records; no time, host, user or patient."""
    return dict(_versions())


@cache
def code_commit() -> str | None:
    """Return the commit of the checkout that this package runs from, `-dirty` if changed; None where there is none."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():  # an installed package may lie inside somebody else's repository
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):  # no git, or a checkout that it does not trust
        return None
    return done.stdout.strip()


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    raise TypeError(f"a content key cannot hold {type(value).__name__}")
