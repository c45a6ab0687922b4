"""Two sides of one piece of work: do their answers agree, and how long does each take.

The answers come first: where they differ beyond the tolerance there is no ratio, whatever the times are. Then both are
run in turns (ours, theirs, theirs, ours, …), so that a machine that slows down slows both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Literal, Protocol

Answer = dict[str, Any]
MEASURED, DIFFERENT, SKIPPED, BROKEN = "measured", "answers differ", "skipped", "failed"
FEWEST_ROUNDS = 2


@dataclass(frozen=True)
class Check:
    """One number of the comparison of the answers.

    Attributes:
        name: What is compared, with its unit.
        value: What was found; NaN never passes.
        limit: What is allowed.
        relation: How the value has to lie to the limit.
    """

    name: str
    value: float
    limit: float
    relation: Literal["<=", ">="] = "<="

    @property
    def passed(self) -> bool:
        """Whether the answers agree in this."""
        return self.value <= self.limit if self.relation == "<=" else self.value >= self.limit

    def to_json(self) -> dict[str, Any]:
        """Return what a row records."""
        return {**asdict(self), "passed": self.passed}


@dataclass(frozen=True)
class Pair:
    """A row of the table.

    Attributes:
        name: Name of the row's file.
        work: What both sides do.
        ours: Name of our side in the stage's `SIDES`.
        theirs: Name of the other side.
        against: What the other side is, for readers.
        needs: Distributions that have to be installed for it.
        target: Largest ratio of times (ours / theirs) that is wanted.
        check: Our answer and theirs → what was compared; at least one number.
        note: What a reader has to know of this row.
    """

    name: str
    work: str
    ours: str
    theirs: str
    against: str
    needs: tuple[str, ...]
    target: float
    check: Callable[[Answer, Answer], list[Check]]
    note: str = ""


@dataclass(frozen=True)
class Run:
    """One run of a side: its time, and its answer where that was asked for."""

    seconds: float
    answer: Answer | None = None


class Side(Protocol):
    """Something that can be run again and again."""

    def run(self, *, answer: bool = False) -> Run:
        """Do the work once."""
        ...

    def peak_mib(self) -> float:
        """Return the largest resident memory of its process in any run so far."""
        ...


def order(rounds: int, names: tuple[str, ...] = ("ours", "theirs")) -> Iterable[tuple[str, ...]]:
    """Yield which side goes first and which next, round by round."""
    for number in range(rounds):
        yield names if number % 2 == 0 else names[::-1]


def in_turns(sides: Mapping[str, Side], *, rounds: int, budget_s: float) -> dict[str, list[float]]:
    """Return the times of sides that are run in turns, in s.

    Args:
        sides: Sides by name.
        rounds: Times that each is run.
        budget_s: No further round begins after this time, once there are two.
    """
    times: dict[str, list[float]] = {name: [] for name in sides}
    started = time.monotonic()
    for number, turn in enumerate(order(rounds, tuple(sides))):
        if number >= FEWEST_ROUNDS and time.monotonic() - started > budget_s:
            break
        for name in turn:
            times[name].append(sides[name].run().seconds)
    return times


def compare(pair: Pair, ours: Side, theirs: Side, *, rounds: int, budget_s: float) -> dict[str, Any]:
    """Check the answers of two sides (which warms both up), then time them in turns.

    Args:
        pair: What is compared.
        ours: Our side.
        theirs: The other.
        rounds: Times that each is run after the check.
        budget_s: No further round begins after this time, once there are two.

    Returns:
        What the row's file holds of the comparison; `status` is "measured", or "answers differ" without any times.
    """
    first, second = ours.run(answer=True), theirs.run(answer=True)
    if first.answer is None or second.answer is None:
        raise ValueError(f"{pair.name}: a side gives no answer to compare")
    checks = pair.check(first.answer, second.answer)
    if not checks:
        raise ValueError(f"{pair.name}: nothing was compared")
    row: dict[str, Any] = {"checks": [check.to_json() for check in checks]}
    if not all(check.passed for check in checks):
        return {**row, "status": DIFFERENT}
    times = in_turns({"ours": ours, "theirs": theirs}, rounds=rounds, budget_s=budget_s)
    return {
        **row,
        "status": MEASURED,
        **ratio(times["ours"], times["theirs"]),
        "peak_mib": {"ours": round(ours.peak_mib()), "theirs": round(theirs.peak_mib())},
    }


def ratio(ours_s: list[float], theirs_s: list[float]) -> dict[str, Any]:
    """Return the median of the rounds' ratios of times (ours / theirs) with its range, and the times themselves."""
    ratios = [mine / other for mine, other in zip(ours_s, theirs_s, strict=True)]
    return {
        "ratio": median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "rounds": len(ratios),
        "ours_s": median(ours_s),
        "theirs_s": median(theirs_s),
        "times_s": {"ours": ours_s, "theirs": theirs_s},
    }
