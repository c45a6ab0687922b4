"""What a run of the harness is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Options:
    """Choices of a run.

    Attributes:
        quick: Small volumes and few rounds, to see that the harness works; its ratios say nothing.
        device: Where networks compute, alike on both sides.
        rounds: Times that both sides are run after warming up.
        budget_s: No further round begins after so many seconds of a row, once there are two.
        scan: A scan to take instead of a synthetic one; needs `labels`.
        labels: Its label map; its five most frequent values are the organs.
    """

    quick: bool = False
    device: str = "cpu"
    rounds: int = 5
    budget_s: float = 60.0
    scan: Path | None = None
    labels: Path | None = None

    @property
    def features(self) -> list[int]:
        """Channels per level of the networks."""
        return [8, 16, 32] if self.quick else [16, 32, 64, 128]

    @property
    def window(self) -> int:
        """Edge of sliding windows and training patches in voxels."""
        return 32 if self.quick else 64
