"""Blocks: stable buckets of cases that one job works on."""

from __future__ import annotations

import hashlib

from mskd.errors import ConfigError

CASES_PER_BLOCK = 64  # a job of so many scans lasts minutes; ten thousands of scans stay thousands of jobs
LEAST_BLOCKS, MOST_BLOCKS = 4, 4096
MOST_CASES = 4000  # of a block: its stores lie in one folder, with two files for each prediction


def default_blocks(n_cases: int) -> int:
    """Return the number of blocks of a dataset whose section names none."""
    return min(MOST_BLOCKS, max(LEAST_BLOCKS, -(-n_cases // CASES_PER_BLOCK)))


def block_of(case_id: str, n_blocks: int) -> str:
    """Return the block of a case, which depends on its id and the number of blocks, so a new case moves no other.

    One block more divides one block in two and leaves the others alone (linear hashing): a dataset may grow without
    being computed anew. Blocks are of one size where their number is a power of two, else some are half as large.

    Args:
        case_id: `<dataset>/<case>`.
        n_blocks: Number of blocks of the dataset.

    Raises:
        ConfigError: There would be no block.

    Example:
        >>> block_of("liver/liver_1", 1)
        'b00'
    """
    _check(n_blocks)
    digest = hashlib.sha256(case_id.encode()).digest()
    whole = 1 << (n_blocks - 1).bit_length()  # the power of two that is reached next
    index = int.from_bytes(digest[:8], "big") % whole
    return _name(index if index < n_blocks else index - whole // 2)


def block_names(n_blocks: int) -> tuple[str, ...]:
    """Return the names of all blocks (b00, b01, …).

    Raises:
        ConfigError: There would be no block.
    """
    _check(n_blocks)
    return tuple(map(_name, range(n_blocks)))


def _check(n_blocks: int) -> None:
    if n_blocks < 1:
        raise ConfigError(f"number of blocks: {n_blocks} is not at least 1")


def _name(index: int) -> str:
    return f"b{index:02d}"  # does not depend on how many there are: a name that changes is work lost
