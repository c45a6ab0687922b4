"""The harness of benchmarks/speed: turns, ratios, answers that differ, missing peers, resuming, the table."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from benchmarks.speed import growth, metrics, profile, session
from benchmarks.speed.data import LABELS, SCAN, five_organs
from benchmarks.speed.options import Options
from benchmarks.speed.pairing import Answer, Check, Pair, Run, compare, order, ratio
from benchmarks.speed.sides import SideProcess, SideProcessError, forget_peak, peak_mib, set_up
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
    assert np.bincount(five_organs(labels)[labels], minlength=6).tolist() == [53, 9, 8, 7, 6, 5]


def test_metrics_of_one_side_alone_are_told() -> None:
    one = {"dice": [1.0] * 5, "hd95": [0.0, 1.0, math.nan, 2.0, 3.0], "nsd": [1.0] * 5}
    other = {**one, "hd95": [0.0, 1.0, 5.0, 2.0, 3.0]}
    assert all(found.passed for found in metrics._check_monai(one, one))
    assert not all(found.passed for found in metrics._check_monai(one, other))


STAGE = """
from pathlib import Path
import numpy as np
from benchmarks.speed.sides import Work

MIB = 2**20


def set_up_here(folder, options):
    (folder / "there").touch()


def side(folder, options):
    np.ones(300 * MIB, np.uint8)
    return Work(lambda: np.ones(100 * MIB, np.uint8), lambda found: {"sum": int(np.ones(300 * MIB, np.uint8).sum())})


SIDES = {"side": side}
"""


def test_peak_memory_is_that_of_the_work_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stage_of_a_test.py").write_text(STAGE)
    monkeypatch.syspath_prepend(tmp_path)
    set_up("stage_of_a_test", tmp_path, Options(quick=True), "set_up_here")
    assert (tmp_path / "there").is_file()
    with SideProcess("stage_of_a_test", "side", tmp_path, Options(quick=True)) as side:
        assert side.run(answer=True).answer == {"sum": 300 * 2**20}
        assert side.run().answer is None
        peak = side.peak_mib()
    np.ones(200 * 2**20, np.uint8)
    reached = peak_mib()
    forget_peak()
    if peak_mib() == reached:
        pytest.skip("this kernel does not let a process forget its peak")
    assert 100 < peak < 300


class FakePoint(FakeSide):
    def __init__(self, x: int, times: list[float], log: list[str]) -> None:
        super().__init__(str(x), 0, times, log)
        self.x = x

    def run(self, *, answer: bool = False) -> Run:
        return Run(super().run(answer=answer).seconds, {"x": self.x, "size": f"{self.x} organs"} if answer else None)


def test_points_of_growth_run_in_turns_after_warming_up() -> None:
    log: list[str] = []
    times = {1: [2, 4, 6], 5: [5, 5, 5], 9: [18, 36, 72]}
    sides = {f"point {x}": FakePoint(x, list(map(float, t)), log) for x, t in times.items()}
    row = growth.measured(sides, 2, rounds=3, budget_s=1e9)
    assert "".join(log) == "159" + "159" + "951" + "159"
    assert [point["size"] for point in row["points"]] == ["1 organs", "5 organs", "9 organs"]
    assert [point["seconds"] for point in row["points"]] == [2, 2.5, 18]  # medians of a half: the work is done twice
    assert row["points"][2]["times_s"] == [9, 18, 36]
    assert [point["peak_mib"] for point in row["points"]] == [10, 10, 10]
    assert row["exponent"] == pytest.approx(1)
    assert row["exponent_of_last_two"] == pytest.approx(math.log(7.2) / math.log(1.8))


@pytest.mark.parametrize(("seconds", "expected"), [(64.0, 1), (1.0, 0), (8.0, 0.5), (4096.0, 2), (0.125, -0.5)])
def test_the_exponent_is_the_slope_between_logarithms(seconds: float, expected: float) -> None:
    found = growth.exponent({"x": 2, "seconds": 3.0}, {"x": 128, "seconds": 3.0 * seconds})
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("quick", [True, False])
def test_every_point_of_growth_can_be_made(quick: bool) -> None:
    rows = growth.growths(Options(quick=quick))
    assert {name for row in rows for name in row.sides} == set(growth.SIDES)
    assert all(len(row.sides) == 3 and callable(getattr(growth, f"set_up_{row.axis}")) for row in rows)
    assert len({row.name for row in rows}) == len(rows)
    assert all(row.name.startswith("growth_") for row in rows)


def test_spheres_are_of_one_size_and_apart() -> None:
    labels = growth.spheres((40, 40, 12), (1.0, 1.0, 2.5), 16)
    sizes = np.bincount(labels.ravel())[1:]
    assert sizes.tolist() == [sizes[0]] * 16
    assert sizes[0] == pytest.approx(4 / 3 * math.pi * 4**3 / 2.5, rel=0.15)
    fewer = growth.spheres((40, 40, 12), (1.0, 1.0, 2.5), 5)
    assert np.array_equal(fewer, np.where(labels <= 5, labels, 0))
    assert not any(
        np.any((labels > 0) & (np.roll(labels, 1, axis) > 0) & (np.roll(labels, 1, axis) != labels))
        for axis in range(3)
    )


def test_as_many_organs_are_scored_as_a_point_says(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((40, 40, 12), np.int16), np.diag([1.0, 1.0, 2.5, 1.0])), tmp_path / SCAN)
    work = growth.SIDES["organs metrics 5"](tmp_path, Options(quick=True))
    scores = work.run()
    assert work.answer(scores) == {"x": 5, "size": "5"}
    assert len(scores) == 5
    assert all(score.dice == scores[0].dice and score.hd95_mm == scores[0].hd95_mm for score in scores)
    assert 0.5 < scores[0].dice < 1
    assert 1 <= scores[0].hd95_mm <= math.sqrt(2)  # predicted a voxel off along x and y


def test_smaller_scans_keep_their_voxels(tmp_path: Path) -> None:
    whole = np.arange(8 * 8 * 4, dtype=np.int16).reshape(8, 8, 4)
    for name in (SCAN, LABELS):
        nib.save(nib.Nifti1Image(whole, np.diag([2.0, 2.0, 3.0, 1.0])), tmp_path / name)
    part = growth._thinned(tmp_path, Options(quick=True), 4)
    found = nib.load(part / SCAN)
    assert np.array_equal(np.asarray(found.dataobj), whole[::4, ::4, ::4])
    assert found.header.get_zooms() == (2, 2, 3)


def grown(**more: Any) -> dict[str, Any]:
    points = [
        {
            "size": f"{n}×{n}×{n}",
            "x": n**3,
            "seconds": 0.25 * n**1.5,
            "times_s": [0.25 * n**1.5] * 2,
            "peak_mib": 10 * n,
        }
        for n in (1, 4, 16)
    ]
    about = {"name": "growth_volume_work", "kind": "growth", "work": "some work", "along": "voxels of the scan"}
    common = {"command": "mskd bench", "options": {"quick": False}, "machine": {}, "versions": {}, "note": "a note"}
    slopes = {"exponent": 0.5, "exponent_of_last_two": 0.5}
    return {**about, **common, **slopes, "points": points, "status": "measured", **more}


def test_the_page_shows_how_time_and_memory_grow() -> None:
    text = page([grown()])
    assert "## Growth" in text
    assert "### Some work, by voxels of the scan" in text
    assert "| 16×16×16 | 16 s (16 s–16 s, n = 2) | 160 MiB |" in text
    assert "4,096 times as many voxels of the scan take 64 times as long: exponent **0.50**, less than linearly" in text
    assert "A note." in text
    assert "exponent **1.04**, linearly" in page([grown(exponent=1.04)])
    assert "exponent **1.20**, more than linearly" in page([grown(exponent=1.2)])
    assert "## Growth" not in page([])


def test_the_page_takes_reasons_as_text() -> None:
    broken = {**grown(), "status": "failed", "reason": "Traceback\nValueError: <b>1|2</b>"}
    del broken["points"]
    assert "**failed**: ValueError: \\<b\\>1\\|2\\</b\\>" in page([broken])


class FakeProcess(FakePoint):
    """Stands in for a process; its `x` and its time are the point's number."""

    started: list[str]

    def __init__(self, module: str, side: str, folder: Path, options: Options) -> None:
        self.started.append(side)
        if side.startswith("organs"):
            raise SideProcessError(f"Traceback\nMemoryError: {folder}/scan.nii.gz")
        x = int(side.split()[-1])
        super().__init__(x, [float(x)] * 2, [])

    def __enter__(self) -> FakeProcess:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_growth_goes_on_after_a_failure_and_keeps_rows_that_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared: list[str] = []
    monkeypatch.setattr(growth, "SideProcess", FakeProcess)
    monkeypatch.setattr(FakeProcess, "started", [], raising=False)
    monkeypatch.setattr(growth, "set_up", lambda module, folder, options, name: prepared.append(name))
    growth.run(made(tmp_path, only=["growth_teachers", "growth_organs"]), tmp_path)
    assert prepared == ["set_up_organs", "set_up_teachers"]
    row = made(tmp_path).stored("growth_teachers_student")
    assert (row["kind"], row["status"], row["along"]) == ("growth", "measured", "teachers")
    assert [point["x"] for point in row["points"]] == [1, 3, 9]
    assert made(tmp_path).stored("growth_organs_training")["reason"] == "MemoryError: scan.nii.gz"
    assert "growth_teachers_cache: measured exponent" in capsys.readouterr().out
    FakeProcess.started.clear()
    growth.run(made(tmp_path, only=["growth_teachers", "growth_organs"]), tmp_path)
    assert FakeProcess.started == ["organs metrics 1", "organs training 1"]


def test_the_stopwatch_counts_every_second_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(profile.time, "perf_counter", lambda: now[0])

    def lasting(seconds: float, *inside: Any) -> None:
        now[0] += seconds
        for function in inside:
            function()

    watch = profile.Stopwatch()
    forward, loss = watch.timed("forward", lambda: lasting(3)), watch.timed("loss", lambda: lasting(2))
    watch.timed("step", lambda: lasting(1, forward, loss, watch.timed("loss", lambda: lasting(0.5, forward))))()
    assert watch.spent_s == {"step": 1, "forward": 6, "loss": 2.5}


def test_the_profile_finds_the_parts_of_a_step_and_lets_go_of_them() -> None:
    from mskd.networks.unet import UNet
    from mskd.training import patches

    before = UNet.run, patches.resample
    with profile.watched(profile.Stopwatch()):
        assert UNet.run is not before[0]
        assert patches.resample is not before[1]
    assert (UNet.run, patches.resample) == before


def test_the_profile_page_shows_every_part_and_the_longest_operations() -> None:
    class Event:
        def __init__(self, key: str, milliseconds: float) -> None:
            self.key, self.count, self.self_cpu_time_total = key, 6, 1e3 * milliseconds

    spent_s = {part: 0.3 * (1 + number) for number, part in enumerate(profile.PARTS)}
    events = [Event(f"aten::op{n}", n) for n in range(1, 31)]
    about = {"command": "mskd bench --profile --quick", "parameters": 85_484}
    text = profile._page(about, spent_s, events, Options(quick=True))
    assert "Made by `mskd bench --profile --quick`" in text
    assert "85,484 parameters" in text
    assert "## Parts of a step: 2800 ms" in text  # three steps
    assert f"| {profile.READING} | 100.0 | 3.6 % |" in text
    assert all(f"| {part} |" in text for part in profile.PARTS)
    assert "| aten::op30 | 2.0 | 10.0 | 6.5 % |" in text
    assert text.index("aten::op30") < text.index("aten::op11")
    assert "aten::op10 " not in text
