"""A finding: one thing that is wrong, or looks wrong, with one case."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from mskd.checks.codes import CODES, Severity
from mskd.console import printable
from mskd.errors import DataError


@dataclass(frozen=True)
class Finding:
    """What was found where, and how to mend it.

    Attributes:
        code: Its kind, one of `CODES`.
        dataset: Dataset.
        case: Name of the case, `WHOLE_DATASET` for what concerns all.
        file: The file, free of characters that steer a terminal (as the texts below).
        expected: What should be there.
        found: What is there.
        fix: The way out.
        accepted: Whether the study accepts it.
    """

    code: str
    dataset: str
    case: str
    file: str
    expected: str
    found: str
    fix: str
    accepted: bool = False

    def __post_init__(self) -> None:
        if self.code not in CODES:
            raise ValueError(f"no kind of finding {self.code!r}")
        for name in ("case", "file", "expected", "found", "fix"):
            lines = str(getattr(self, name)).split("\n")
            object.__setattr__(self, name, "\n".join(printable(line) for line in lines))

    @property
    def severity(self) -> Severity:
        """Error or warning."""
        return CODES[self.code].severity

    def as_accepted(self) -> Finding:
        """Return the finding as one that the study accepts."""
        return replace(self, accepted=True)

    def to_json(self) -> dict[str, Any]:
        """Return plain data, the severity included."""
        return {"severity": self.severity, **asdict(self)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Finding:
        """Rebuild from `to_json`."""
        return cls(**{key: value for key, value in data.items() if key != "severity"})


def finding_of(error: DataError, dataset: str, *, code: str = "", case: str | None = None) -> Finding:
    """Return an error as a finding.

    Args:
        error: The error.
        dataset: Dataset.
        code: Its kind where the error itself does not name one.
        case: Name of the case, where the error names it otherwise (as id).
    """
    return Finding(
        error.code or code,
        dataset,
        error.case if case is None else case,
        error.file,
        error.expected,
        error.found,
        error.fix,
    )
