"""Finding what is wrong with a cache: flipped bytes, missing files, stale keys; and removing exactly that."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mskd.cache.files import SEALED, store_files
from mskd.cache.store import TargetStore
from mskd.errors import MissingArtefactError
from mskd.storage import PART


@dataclass(frozen=True)
class Expected:
    """A store that a manifest names.

    Attributes:
        teacher: Whose targets.
        run: Of which run.
        case: Case id.
        place: The store, a path or a URL.
        manifest: The manifest of its block.
        key: Content key by today's configuration, code and inputs.
        stated_key: Key in the manifest.
        content: Digest in the manifest.
    """

    teacher: str
    run: str
    case: str
    place: str
    manifest: Path
    key: str
    stated_key: str
    content: str


@dataclass(frozen=True)
class Fault:
    """What is wrong with a store.

    Attributes:
        store: Which.
        kind: "missing", "damaged" or "stale".
        found: In words.
    """

    store: Expected
    kind: str
    found: str


def check_store(expected: Expected) -> Fault | None:
    """Return what is wrong with a store, every byte of it read, or None."""
    if not store_files(expected.place).names():
        return Fault(expected, "missing", "no store")
    try:
        store = TargetStore(expected.place, expected.case)
    except MissingArtefactError as error:
        return Fault(expected, "damaged", error.found)
    listed = set(store.attributes["files"])
    for name, (_, digest) in store.attributes["files"].items():
        if store.files.digest(name) != digest:
            return Fault(expected, "damaged", f"{name} has other bytes than were written")
    if unknown := sorted(set(store.files.names()) - listed - {SEALED}):
        return Fault(expected, "damaged", f"{unknown[0]} does not belong to the store")
    if store.content != expected.content:
        return Fault(expected, "stale", "another content than its manifest says")
    if store.attributes["key"] != expected.stated_key or expected.key != expected.stated_key:
        return Fault(expected, "stale", "made from another configuration, code, teacher or scan than today's")
    return None


def check_stores(
    stores: Iterable[Expected], *, workers: int = 4, progress: Callable[[str], object] = lambda _: None
) -> list[Fault]:
    """Check stores side by side; return every fault, in the order of the stores."""
    faults = []
    with ThreadPoolExecutor(workers) as pool:
        for store, fault in pool.map(lambda s: (s, check_store(s)), stores):
            progress(store.case)
            if fault is not None:
                faults.append(fault)
    return faults


def remove_faulty(faults: Iterable[Fault]) -> list[str]:
    """Remove faulty stores and the manifests of their blocks, so that the next run remakes them and nothing else."""
    removed: list[str] = []
    for fault in faults:
        if fault.kind != "missing":
            removed.append(fault.store.place)
        store_files(fault.store.place).remove()
        if fault.store.manifest.is_file():
            fault.store.manifest.unlink()
            removed.append(str(fault.store.manifest))
    return removed


def leftovers(root: Path) -> list[Path]:
    """Return unfinished writes of jobs that were killed; they count for nothing and may be deleted when none runs."""
    return sorted(path for path in root.rglob(f"*{PART}*") if path.is_dir()) if root.is_dir() else []
