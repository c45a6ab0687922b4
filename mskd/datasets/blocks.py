"""Blocks: stable buckets of cases that one job works on."""

from __future__ import annotations

import hashlib

from mskd.errors import ConfigError


def block_of(case_id: str, n_blocks: int) -> str:
    """Return the block of a case, which depends on its id alone, so a new case moves no other.

    Args:
        case_id: `<dataset>/<case>`.
        n_blocks: Number of blocks of the dataset.

    Example:
        >>> block_of("liver/liver_1", 1)
        'b00'
    """
    digest = hashlib.sha256(case_id.encode()).digest()
    return block_names(n_blocks)[int.from_bytes(digest[:8], "big") % n_blocks]


def block_names(n_blocks: int) -> tuple[str, ...]:
    """Return the names of all blocks (b00, b01, …).

    Raises:
        ConfigError: There would be no block.
    """
    if n_blocks < 1:
        raise ConfigError(f"number of blocks: {n_blocks} is not at least 1")
    width = max(2, len(str(n_blocks - 1)))
    return tuple(f"b{index:0{width}d}" for index in range(n_blocks))
