"""Commands whose work several processes share. Heavy imports come late."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mskd.processes import joined, start

if TYPE_CHECKING:
    import torch


@contextmanager
def together(processes: int, device: str) -> Iterator[torch.device]:
    """Run a command in so many processes; yield the device of this one, once it has found the others.

    Args:
        processes: As `--processes` says.
        device: As `--device` says.
    """
    start(processes)
    from mskd.device import pick_device

    place = pick_device(device)
    with joined(place):
        yield place
