"""Files that may run code when they are loaded are refused, unless the study trusts exactly these bytes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mskd.config.teachers import Teacher
from mskd.console import log
from mskd.errors import MskdError
from mskd.provenance import file_digest


def trusted_files(section: Teacher, files: Iterable[Path]) -> list[Path]:
    """Return those files whose checksum the study trusts; says so for each."""
    found = [path for path in files if path.is_file() and file_digest(path) in section.trust] if section.trust else []
    for path in found:
        log(f"warning: {path} may run code of its makers here, because the study trusts it (trust: true)")
    return found


def refuse(teacher: str, path: Path, why: str) -> MskdError:
    """Return the error for a file that is not trusted."""
    return MskdError(
        f"teacher {teacher}: {path} is not loaded\n"
        f"  found:    {why}: loading it can run any code with your rights\n"
        "  expected: tensors alone (a checkpoint that loads with weights_only, safetensors, ONNX)\n"
        "  way out:  convert it; or, if you know where it comes from, trust exactly this file:\n"
        f"    teachers:\n      {teacher}:\n        trust: {{{file_digest(path)}: true}}"
    )
