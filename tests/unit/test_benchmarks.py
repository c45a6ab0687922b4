"""The harness of benchmarks/speed: turns, ratios, answers that differ, missing peers, resuming, the table."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.speed import metrics, session
from benchmarks.speed.data import five_organs
from benchmarks.speed.options import Options
from benchmarks.speed.pairing import Answer, Check, Pair, Run, compare, order, ratio
from benchmarks.speed.sides import SideProcess, SideProcessError
from benchmarks.speed.table import page


def check(ours: Answer, theirs: Answer) -> list[Check]:
    return [Check("difference", abs(ours["value"] - theirs["value"]), 0.1)]


PAIR = Pair("row", "some work", "ours", "theirs", "a peer", (), 0.5, check)


class FakeSide:
    def __init__(self, name: str, value: float, times: list[float], log: list[str]) -> None:
        self.name, self.value, self.times, self.log = name, value, list(times), log

    def run(self, *, answer: bool = False) -> Run:
        self.log.append(self.name)
        return Run(99.0, {"value": self.value}) if answer else Run(self.times.pop(0))

    def peak_mib(self) -> float:
        return 10.4


def test_sides_alternate_after_the_check_and_ratios_are_by_round() -> None:
    log: list[str] = []
    ours, theirs = FakeSide("o", 1, [1, 2, 6], log), FakeSide("t", 1.05, [4, 4, 4], log)
    row = compare(PAIR, ours, theirs, rounds=3, budget_s=1e9)
    assert "".join(log) == "ot" + "ot" + "to" + "ot"
    assert (row["status"], row["ratio"], row["ratio_min"], row["ratio_max"]) == ("measured", 0.5, 0.25, 1.5)
    assert (row["ours_s"], row["theirs_s"], row["rounds"]) == (2, 4, 3)
    assert row["peak_mib"] == {"ours": 10, "theirs": 10}


def test_a_spent_budget_leaves_two_rounds() -> None:
    log: list[str] = []
    row = compare(PAIR, FakeSide("o", 1, [1] * 9, log), FakeSide("t", 1, [2] * 9, log), rounds=9, budget_s=0)
    assert row["rounds"] == 2


@pytest.mark.parametrize("value", [1.2, math.nan])
def test_answers_that_differ_are_not_timed(value: float) -> None:
    log: list[str] = []
    row = compare(PAIR, FakeSide("o", 1, [], log), FakeSide("t", value, [], log), rounds=3, budget_s=1e9)
    assert row["status"] == "answers differ"
    assert "ratio" not in row
    assert not row["checks"][0]["passed"]
    assert log == ["o", "t"]


def test_a_check_of_nothing_is_refused() -> None:
    nothing = Pair("row", "", "", "", "", (), 1, lambda ours, theirs: [])
    with pytest.raises(ValueError, match="nothing was compared"):
        compare(nothing, FakeSide("o", 1, [], []), FakeSide("t", 1, [], []), rounds=1, budget_s=0)


def test_order_and_ratio() -> None:
    assert list(order(3)) == [("ours", "theirs"), ("theirs", "ours"), ("ours", "theirs")]
    assert ratio([1, 3], [2, 2])["ratio"] == 1.0


def made(tmp_path: Path, **more: Any) -> session.Session:
    return session.Session(tmp_path, Options(quick=True, rounds=2), command="mskd bench --quick", **more)


def test_rows_that_stand_are_kept(tmp_path: Path) -> None:
    first = made(tmp_path)
    assert first.wants("row")
    first.add("row", "command", {"status": "measured"})
    assert not made(tmp_path).wants("row")
    assert made(tmp_path, again=True).wants("row")
    assert not made(tmp_path, again=True, only=["other"]).wants("row")
    other = session.Session(tmp_path, Options(rounds=5), command="mskd bench")
    assert other.wants("row"), "a quick row does not stand for a full one"


@pytest.mark.parametrize("status", ["skipped", "failed", "answers differ"])
def test_rows_without_a_time_are_tried_again(tmp_path: Path, status: str) -> None:
    made(tmp_path).add("row", "command", {"status": status})
    assert made(tmp_path).wants("row")


def test_a_missing_peer_is_named_with_the_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "missing", lambda needs: [f"no-{name}" for name in needs])
    session.run_stage(made(tmp_path), "benchmarks.speed.metrics", tmp_path)
    said = capsys.readouterr().out
    assert "no-monai not installed" in said
    assert 'pip install ".[bench]"' in said
    row = made(tmp_path).stored("metrics_monai")
    assert row["status"] == "skipped"
    assert "ratio" not in row


def test_a_side_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(SideProcessError, match="KeyError: 'nobody'"):
        SideProcess("benchmarks.speed.metrics", "nobody", tmp_path, Options(quick=True))


def test_rows_name_no_paths(tmp_path: Path) -> None:
    own = Options(scan=tmp_path / "patient.nii.gz", labels=tmp_path / "labels.nii.gz")
    row = session.Session(tmp_path / "out", own, command="mskd bench")
    row.add("row", "command", {"status": "measured"})
    assert "patient" not in (tmp_path / "out/row.json").read_text()
    assert session.plain(f"File\nOSError: {tmp_path}/x.nii", tmp_path) == "OSError: x.nii"


def test_the_table_shows_ratio_target_and_failures() -> None:
    common = {
        "kind": "pair",
        "command": "mskd bench",
        "options": {"quick": False},
        "machine": {"cpu": "a chip", "load_before": 1.0},
        "versions": {"mskd": "1"},
        "work": "work",
        "against": "peer",
        "target": 0.5,
    }
    times = ratio([1.0, 1.0], [4.0, 2.0])
    checked = [Check("HD95 (mm)", 0.0, 1e-3).to_json()]
    good = {**common, "name": "a", "status": "measured", **times, "checks": checked}
    good["peak_mib"] = {"ours": 1, "theirs": 2}
    bad = {**common, "name": "b", "status": "answers differ", "checks": [Check("same (%)", 90, 99, ">=").to_json()]}
    gone = {**common, "name": "c", "status": "skipped", "reason": "peer not installed"}
    text = page([good, bad, gone])
    assert "| work | peer | 1 s | 3 s | 0.375 (0.250–0.500, n = 2) | ≤ 0.5 | yes | 1, 2 MiB |" in text
    assert "answers differ: not timed" in text
    assert "skipped: peer not installed" in text
    assert "| b | same (%) | 90 | ≥ 99 | **no** |" in text
    assert "load_before" not in text
    assert "quick" not in text
    assert "| ≤ 0.3 | **no** |" in page([{**good, "target": 0.3}])


def test_the_prediction_has_all_kinds_of_errors() -> None:
    labels = np.zeros((60, 60, 40), np.uint8)
    for value in range(1, 6):
        labels[10 * value : 10 * value + 6, 20:32, 10:22] = value
    prediction = metrics.prediction_of(labels)
    assert not (prediction == 3).any()
    assert (prediction[2:5, 2:5, 2:5] == 4).all()
    overlap = [np.count_nonzero((prediction == v) & (labels == v)) / np.count_nonzero(labels == v) for v in (1, 2, 5)]
    assert overlap[0] > 0.7 > overlap[1]
    assert overlap[2] > 0.7


def test_the_five_most_frequent_values_become_organs() -> None:
    labels = np.repeat(np.arange(8, dtype=np.uint8), [50, 1, 2, 9, 8, 7, 6, 5])
    assert np.bincount(five_organs(labels), minlength=6).tolist() == [53, 9, 8, 7, 6, 5]


def test_metrics_of_one_side_alone_are_told() -> None:
    one = {"dice": [1.0] * 5, "hd95": [0.0, 1.0, math.nan, 2.0, 3.0], "nsd": [1.0] * 5}
    other = {**one, "hd95": [0.0, 1.0, 5.0, 2.0, 3.0]}
    assert all(found.passed for found in metrics._check_monai(one, one))
    assert not all(found.passed for found in metrics._check_monai(one, other))
