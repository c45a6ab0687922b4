"""Writing a whole synthetic dataset; a case that stands is kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from mskd.config.phantom import PhantomDataset
from mskd.phantom.layouts import PhantomCase, phantom_case_files, write_case, write_dataset_json
from mskd.provenance import content_key, file_digest
from mskd.storage import write_json


def write_dataset(
    root: Path, spec: PhantomDataset, *, key: str, progress: Callable[[PhantomCase], object] | None = None
) -> dict[str, dict[str, str]]:
    """Write every case of a dataset that does not stand already.

    Args:
        root: Folder of the dataset.
        spec: The dataset.
        key: Hash of what determines the files: the specification without its numbers of cases, and the code.
        progress: Called after every case.

    Returns:
        SHA-256 of image, label and withheld file by case name.
    """
    digests: dict[str, dict[str, str]] = {}
    write_dataset_json(root, spec)
    inputs = _atlas_digests(spec)
    for case in phantom_case_files(root, spec):
        case_key = content_key(key=key, index=case.index, inputs=inputs)
        standing = _standing(root, case, case_key)
        if standing is None:
            _sidecar(root, case).unlink(missing_ok=True)
            write_case(root, spec, case.index)
            standing = {kind: file_digest(path) for kind, path in _files(case).items()}
            sizes = {kind: path.stat().st_size for kind, path in _files(case).items()}
            write_json(_sidecar(root, case), {"key": case_key, "sha256": standing, "bytes": sizes})
        digests[case.name] = standing
        if progress is not None:
            progress(case)
    return digests


def _atlas_digests(spec: PhantomDataset) -> dict[str, str]:
    """Return the digests of the user's files; one that is missing is reported where it is read."""
    if spec.atlas is None:
        return {}
    files = {"labels": spec.atlas.labels, "ct": spec.atlas.ct}
    return {kind: file_digest(path) for kind, path in files.items() if path is not None and path.is_file()}


def _files(case: PhantomCase) -> dict[str, Path]:
    return {"image": case.image, "label": case.label, "withheld": case.withheld}


def _sidecar(root: Path, case: PhantomCase) -> Path:
    return root / ".mskd" / f"{case.name}.json"


def _standing(root: Path, case: PhantomCase, key: str) -> dict[str, str] | None:
    """Return the digests of a case whose files are there, whole, and made from the same key."""
    try:
        record = json.loads(_sidecar(root, case).read_text(encoding="utf-8"))
        if record["key"] != key:
            return None
        if any(path.stat().st_size != record["bytes"][kind] for kind, path in _files(case).items()):
            return None
        return {kind: str(record["sha256"][kind]) for kind in _files(case)}
    except (OSError, ValueError, KeyError, TypeError):
        return None
