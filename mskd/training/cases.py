"""Cases as training reads them: prepared arrays and targets, whole volumes kept in memory while they fit."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from mskd.cache.store import LOGITS, TargetStore
from mskd.prepared import PreparedCase

Triple = tuple[int, int, int]


def read_with_one_thread(worker: int) -> None:
    """Set up a process that reads patches: there are as many of them as cores are to be used.

    Slurm and terminals signal all processes of a job. The one that trains decides when to stop; were its readers gone
    before, it could not finish its step. They end when it does.
    """
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    zarr.config.set({"threading.max_workers": 1, "async.concurrency": 4})


@dataclass
class MemoryBudget:
    """How much decoded data a process may keep."""

    left_bytes: int

    def take(self, size: int) -> bool:
        """Reserve memory; False if it does not fit any more."""
        if size > self.left_bytes:
            return False
        self.left_bytes -= size
        return True


@dataclass
class TrainingCase:
    """One case of the union of the training datasets.

    Attributes:
        case: Case id.
        dataset: Its dataset.
        prepared_path: Prepared store.
        labelled: Study values of the organs that its dataset labels.
        targets: Teacher → target store, a path or a URL; empty where the method needs none.
        contents: Teacher → digest that the store's manifest names; a store with another is refused.
        cross_fitted: Teacher → store and digest of margins that take the place of those in its `targets`.
        budget: Shared by the cases of a process.
    """

    case: str
    dataset: str
    prepared_path: Path
    labelled: list[int]
    targets: Mapping[str, str | Path] = field(default_factory=dict)
    contents: dict[str, str] = field(default_factory=dict)
    cross_fitted: dict[str, tuple[str | Path, str]] = field(default_factory=dict)
    budget: MemoryBudget = field(default_factory=lambda: MemoryBudget(0))
    _kept: dict[tuple[str, str], npt.NDArray[Any]] = field(default_factory=dict, repr=False)

    @cached_property
    def prepared(self) -> PreparedCase:
        """The prepared store."""
        return PreparedCase(self.prepared_path, self.case)

    @cached_property
    def stores(self) -> dict[str, TargetStore]:
        """The target stores by teacher."""
        return {
            teacher: TargetStore(path, self.case, self.contents.get(teacher)) for teacher, path in self.targets.items()
        }

    @cached_property
    def _margin_stores(self) -> dict[str, TargetStore]:
        return {
            teacher: TargetStore(place, self.case, content) for teacher, (place, content) in self.cross_fitted.items()
        }

    def _store(self, teacher: str, name: str) -> TargetStore:
        own = self.stores[teacher]
        return self._margin_stores.get(teacher, own) if name == LOGITS else own

    def patch(self, name: str, start: Sequence[int], size: Sequence[int], fill: float) -> npt.NDArray[Any]:
        """Return a box of a prepared array, filled up where it leaves the volume."""
        return _padded(lambda box: self._read("", name, box), self.prepared.shape, start, size, fill)

    def target_patch(self, teacher: str, name: str, start: Sequence[int], size: Sequence[int]) -> npt.NDArray[Any]:
        """Return a box (C, …) of a target array on its own grid, code 0 where it leaves the volume, as float32."""
        store = self._store(teacher, name)
        codes = _padded(lambda box: self._read(teacher, name, box), store.arrays[name].shape[1:], start, size, 0)
        return store.decode(name, codes)

    def _read(self, teacher: str, name: str, box: tuple[slice, ...]) -> npt.NDArray[Any]:
        read = self._store(teacher, name).read_codes if teacher else self.prepared.read
        if (teacher, name) not in self._kept:
            size = self._bytes(teacher, name)
            if not self.budget.take(size):
                return read(name, (box[0], box[1], box[2]))
            self._kept[teacher, name] = read(name)
        kept = self._kept[teacher, name]
        return np.asarray(kept[..., box[0], box[1], box[2]])

    def _bytes(self, teacher: str, name: str) -> int:
        if teacher:
            array = self._store(teacher, name).arrays[name]
            return int(np.prod(array.shape)) * array.dtype.itemsize
        return int(np.prod(self.prepared.shape)) * 2


def _padded(
    read: Any, shape: Sequence[int], start: Sequence[int], size: Sequence[int], fill: float
) -> npt.NDArray[Any]:
    inside = tuple(slice(max(0, s), max(0, min(n, s + w))) for s, w, n in zip(start, size, shape, strict=True))
    values = read(inside)
    if values.shape[-3:] == tuple(size):
        return np.asarray(values)
    out = np.full((*values.shape[:-3], *size), fill, values.dtype)
    place = tuple(
        slice(max(0, i.start - s), max(0, i.start - s) + max(0, i.stop - i.start))
        for i, s in zip(inside, start, strict=True)
    )
    out[..., place[0], place[1], place[2]] = values
    return out
