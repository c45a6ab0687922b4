"""Manifests: what a job made, in a small deterministic file that the next job depends on."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mskd.errors import MissingArtefactError
from mskd.storage import write_json


@dataclass(frozen=True)
class Manifest:
    """What one job made.

    Attributes:
        stage: Stage that made it, for example "prepare".
        entries: Per case (or model) what later stages need to know: `key` and digests of the content.
        skipped: Cases that were left out, with the reason.
    """

    stage: str
    entries: dict[str, dict[str, Any]]
    skipped: dict[str, str] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write atomically; equal content gives equal bytes."""
        write_json(path, {"stage": self.stage, "entries": self.entries, "skipped": self.skipped})


def read_manifest(path: Path) -> Manifest:
    """Read a manifest.

    Raises:
        MissingArtefactError: If it is not there or cannot be read.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return Manifest(data["stage"], data["entries"], data["skipped"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MissingArtefactError(
            case="-",
            file=path,
            expected="the manifest of an earlier stage",
            found=str(error),
            fix="run the workflow (snakemake), or the earlier `mskd` command by hand",
        ) from error


def merge(manifests: list[Manifest]) -> Manifest:
    """Return one manifest with the entries of all."""
    entries = {k: v for m in manifests for k, v in m.entries.items()}
    skipped = {k: v for m in manifests for k, v in m.skipped.items()}
    return Manifest(manifests[0].stage if manifests else "", entries, skipped)
