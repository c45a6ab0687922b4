"""How long jobs take together when some of them run at the same time."""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class Schedule(Generic[Name]):
    """Time of a set of jobs.

    Attributes:
        total_s: From start to end with `parallel` jobs at a time, always the one first that most time depends on.
        work_s: Sum over all jobs.
        critical_path_s: Longest chain of jobs that wait for each other: what remains however many run at a time.
        critical_path: The jobs of that chain.
        parallel: Jobs at a time.
    """

    total_s: float
    work_s: float
    critical_path_s: float
    critical_path: tuple[Name, ...]
    parallel: int

    @property
    def bound(self) -> str:
        """Which lower bound of the total is the larger one: "critical path", or "work"."""
        return "critical path" if self.critical_path_s > self.work_s / self.parallel else "work"


def schedule(times_s: Mapping[Name, float], waits_for: Mapping[Name, Sequence[Name]], parallel: int) -> Schedule[Name]:
    """Plan jobs.

    Args:
        times_s: Duration of each job, every job after those that it waits for.
        waits_for: Jobs that have to be done before.
        parallel: Jobs at a time.
    """
    followers: dict[Name, list[Name]] = {name: [] for name in times_s}
    for name in times_s:
        for before in waits_for[name]:
            followers[before].append(name)
    rest_s: dict[Name, float] = {}
    for name in reversed(list(times_s)):
        rest_s[name] = times_s[name] + max((rest_s[after] for after in followers[name]), default=0.0)
    path = _longest(rest_s, followers)
    return Schedule(
        total_s=_simulate(times_s, waits_for, followers, rest_s, parallel),
        work_s=sum(times_s.values()),
        critical_path_s=rest_s[path[0]] if path else 0.0,
        critical_path=path,
        parallel=parallel,
    )


def _longest(rest_s: dict[Name, float], followers: dict[Name, list[Name]]) -> tuple[Name, ...]:
    path: list[Name] = []
    choices = list(rest_s)
    while choices:
        path.append(max(choices, key=lambda name: rest_s[name]))
        choices = followers[path[-1]]
    return tuple(path)


def _simulate(
    times_s: Mapping[Name, float],
    waits_for: Mapping[Name, Sequence[Name]],
    followers: dict[Name, list[Name]],
    rest_s: dict[Name, float],
    parallel: int,
) -> float:
    order = {name: index for index, name in enumerate(times_s)}
    missing = {name: len(waits_for[name]) for name in times_s}
    ready = [(-rest_s[name], order[name], name) for name in times_s if not missing[name]]
    heapq.heapify(ready)
    running: list[tuple[float, int, Name]] = []
    now = 0.0
    while ready or running:
        while ready and len(running) < parallel:
            _, _, name = heapq.heappop(ready)
            heapq.heappush(running, (now + times_s[name], order[name], name))
        now, _, done = heapq.heappop(running)
        for name in followers[done]:
            missing[name] -= 1
            if not missing[name]:
                heapq.heappush(ready, (-rest_s[name], order[name], name))
    return now
