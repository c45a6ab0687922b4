"""Files that may run code when they are loaded are refused, unless the study trusts exactly these bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mskd.config.teachers import Teacher
from mskd.console import log
from mskd.errors import MskdError
from mskd.provenance import file_digest


@dataclass(frozen=True)
class ModelFile:
    """A file that a teacher's process loads: it copies it, and loads the copy if its bytes are the expected ones.

    Attributes:
        name: Where the copy lies below the folder of that process, with slashes.
        path: The file.
        sha256: Checksum of its bytes.
        trusted: Whether the study trusts these bytes.
        shown: What messages call it.
    """

    name: str
    path: Path
    sha256: str
    trusted: bool
    shown: str


def model_file(section: Teacher, path: Path, name: str, shown: str = "") -> ModelFile:
    """Return a file with its checksum, and whether the study trusts it."""
    digest = file_digest(path)
    return ModelFile(name, path, digest, digest in section.trust, shown or str(path))


def warn_of(files: Sequence[ModelFile]) -> list[str]:
    """Return the names of those files that may run code because the study trusts them; says so for each."""
    trusted = [file for file in files if file.trusted]
    for file in trusted:
        log(f"warning: {file.shown} may run code of its makers here, because the study trusts it (trust: true)")
    return [file.name for file in trusted]


def refuse(teacher: str, files: Sequence[ModelFile], why: str) -> MskdError:
    """Return the error for files that are not trusted."""
    sums = ", ".join(f"{digest}: true" for digest in dict.fromkeys(file.sha256 for file in files))
    return MskdError(
        f"teacher {teacher}: {', '.join(file.shown for file in files)} is not loaded\n"
        f"  found:    {why}: loading it can run any code with your rights\n"
        "  expected: tensors alone (a checkpoint that loads with weights_only, safetensors, ONNX)\n"
        "  way out:  convert it; or, if you know where it comes from, trust exactly these bytes:\n"
        f"    teachers:\n      {teacher}:\n        trust: {{{sums}}}"
    )
