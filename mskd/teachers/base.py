"""What every kind of teacher offers."""

from __future__ import annotations

from typing import Protocol

from mskd.prepared import PreparedCase
from mskd.targets import TargetArrays


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

    def targets(self, case: PreparedCase) -> TargetArrays:
        """Return margins and features of a case on the study grid."""
        ...
