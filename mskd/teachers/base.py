"""What every kind of teacher offers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mskd.cases import Case
from mskd.prepared import PreparedCase


@dataclass(frozen=True)
class TeacherTargets:
    """What a teacher says of one case, in memory.

    Attributes:
        margins: One-vs-rest log-odds of the teacher's organs, (K_n, X, Y, Z).
        features: Per tap (C, X / s, Y / s, Z / s), rounded up; empty where the teacher has none.
        strides: Per tap its stride (sx, sy, sz) in voxels of the study grid.
    """

    margins: npt.NDArray[np.floating[Any]]
    features: dict[str, npt.NDArray[np.floating[Any]]]
    strides: dict[str, tuple[int, int, int]]


class Teacher(Protocol):
    """Says of a prepared case what it knows: margins of the organs that it owns, and features if it has any."""

    @property
    def organs(self) -> list[str]:
        """Organs that it owns, in the order of its margins."""
        ...

    @property
    def digest(self) -> str:
        """Changes whenever the teacher's answers may change."""
        ...

    def targets(self, case: PreparedCase, raw: Case) -> TeacherTargets:
        """Return margins and features of a case on the study grid.

        Args:
            case: As the study's networks see it.
            raw: Its files, for teachers that prepare scans in their own way.
        """
        ...
