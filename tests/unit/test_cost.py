"""What a result took, by the attempts at it: interrupted, repeated for nothing, made again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mskd import job_record
from mskd.cost import _cost, _peak, _total
from mskd.job_record import Attempt
from mskd.layout import Layout


def attempt(seconds: float, stood: int | None, done: int | None, **known: Any) -> Attempt:
    return Attempt(
        **{"outcome": "done", "began": 1.0, "seconds": seconds, "total": 100, **known}, stood=stood, done=done
    )


@pytest.mark.parametrize("outcome", ["failed", "killed"])
def test_a_training_that_was_interrupted_counts_with_all_its_attempts(outcome: str) -> None:
    attempts = [
        attempt(50, 0, 100),  # of other settings
        attempt(20, 0, 60, outcome=outcome, memory_mib=900.0),
        attempt(1, None, None, outcome="failed"),  # before its first step
        attempt(10, 60, 100, memory_mib=500.0),
        attempt(2, None, None),  # found it standing
    ]
    found = _cost("train_student", attempts)
    assert found is not None
    assert (found.seconds, found.memory_mib) == (30, 900.0)


def test_a_training_that_was_made_longer_counts_from_its_first_step() -> None:
    found = _cost("train_teacher", [attempt(20, 0, 100), attempt(30, 100, 200, total=200)])
    assert found is not None
    assert found.seconds == 50


def test_cases_that_stood_are_taken_as_their_like() -> None:
    found = _cost("predict", [attempt(40, 0, 100), attempt(2, 90, 100), attempt(1, 100, 100)])
    assert found is not None
    assert found.seconds == 20
    found = _cost("cache_targets", [attempt(30, 0, 50, outcome="killed"), attempt(30, 50, 100)])
    assert found is not None
    assert found.seconds == 60


def test_a_job_of_one_piece_counts_once() -> None:
    found = _cost(
        "train_student", [attempt(3, None, None), attempt(4, None, None), attempt(9, None, None, outcome="failed")]
    )
    assert found is not None
    assert found.seconds == 4
    assert _cost("predict", [attempt(9, None, None, outcome="killed")]) is None


def test_jobs_are_added_up_and_no_record_is_no_cost(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    for teacher, seconds in (("liver", 5.0), ("spleen", 7.0)):
        one = attempt(seconds, 0, 100, memory_mib=10 * seconds)
        job_record._add_attempt(layout.job("train_teacher", teacher, "fold0-seed0"), one)
    job_record._add_attempt(layout.job("train_teacher", "liver", "fold0-seed1"), attempt(100, 0, 100))
    assert _total(layout, "train_teacher", "*/fold0-seed0") == 12
    assert _peak(layout, "train_teacher", "*/fold0-seed0") == 70
    assert _total(layout, "train_teacher", "*/fold1-seed0") is None
