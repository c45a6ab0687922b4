"""The status: what is done, what is under way and how long it takes, what failed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from mskd import job_record
from mskd.config.loading import parse_study
from mskd.config.study import Study
from mskd.job_record import SILENT_S, Attempt, Running
from mskd.layout import Layout
from mskd.plan.jobs import STAGES
from mskd.status import KILLED, STOPPED_ERROR, StudyStatus, show_status, status_json, study_status
from mskd.storage import write_json, write_text
from mskd.training.journal import METRICS

RUN = "fold0-seed0"


@pytest.fixture
def study(tmp_path: Path) -> Study:
    phantom = {"n_train": 2, "n_val": 0, "n_test": 1}
    return parse_study(
        {
            "study": "tiny",
            "results": str(tmp_path),
            "datasets": {"liver": {"blocks": 1, "phantom": phantom}},
            "methods": {"mskd": {}},
            "training": {"steps": 100, "log_every": 10},
        }
    )


def done(status: StudyStatus) -> dict[str, tuple[int, int]]:
    return {stage.stage: (stage.done, stage.expected) for stage in status.stages}


def journal(study: Study, rows: list[dict[str, float]], tail: str = "", age_s: float = 0.0) -> None:
    path = Layout(study.root).teacher("liver", RUN) / METRICS
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows) + tail)
    then = time.time() - age_s
    os.utime(path, (then, then))


def record(study: Study, stage: str, *parts: str, age_s: float = 0.0, **known: Any) -> None:
    """Write what a job said of itself that long ago."""
    path, then = Layout(study.root).job(stage, *parts), time.time() - age_s
    write_json(path, asdict(Running(**{"began": then - 100, "host": "node7", "pid": 1, **known})))
    os.utime(path, (then, then))


def attempt(study: Study, stage: str, *parts: str, seconds: float, **known: Any) -> None:
    """Enter an attempt at a job that has ended."""
    found = Attempt(**{"outcome": "done", "began": 1.0, "seconds": seconds, **known})
    job_record._add_attempt(Layout(study.root).job(stage, *parts), found)


def test_empty_results(study: Study) -> None:
    status = study_status(study)
    assert done(status) == dict.fromkeys([name for name in STAGES if name != "adopt_teacher"], (0, 1))
    assert (status.trainings, status.failures) == ((), ())
    assert not study.root.exists()


def test_outputs_that_are_there_are_done(study: Study) -> None:
    layout = Layout(study.root)
    for path in (
        layout.manifest("make_phantoms", "liver"),
        layout.manifest("train_teacher", "liver", RUN),
        layout.metrics("mskd", RUN, "liver"),
        layout.manifest("train_teacher", "of_another_study", RUN),
    ):
        write_text(path, "{}")
    assert {stage: counts[0] for stage, counts in done(study_status(study)).items() if counts[0]} == {
        "make_phantoms": 1,
        "train_teacher": 1,
        "evaluate": 1,
    }


def test_training_under_way(study: Study) -> None:
    rows: list[dict[str, float]] = [{"step": 10, "time_s": 5.0}, {"step": 20, "time_s": 9.0}]
    journal(study, [*rows, {"step": 20, "val_dice": 0.5}], tail='{"step": 30, "ti')
    [training] = study_status(study).trainings
    assert training.name == f"train_teacher liver {RUN}"
    assert (training.step, training.steps, training.running) == (20, 100, True)
    assert training.left_s == pytest.approx(80 * 0.4)


def test_resumed_training_counts_time_anew(study: Study) -> None:
    journal(study, [{"step": 40, "time_s": 400.0}, {"step": 50, "time_s": 2.0}])
    assert study_status(study).trainings[0].left_s is None
    journal(study, [{"step": 40, "time_s": 400.0}, {"step": 50, "time_s": 2.0}, {"step": 60, "time_s": 4.0}])
    assert study_status(study).trainings[0].left_s == pytest.approx(8)


def test_quiet_training_has_stopped_unless_its_rows_take_long(study: Study) -> None:
    journal(study, [{"step": 10, "time_s": 1.0}, {"step": 20, "time_s": 2.0}], age_s=1000)
    assert not study_status(study).trainings[0].running
    journal(study, [{"step": 10, "time_s": 900.0}, {"step": 20, "time_s": 1800.0}], age_s=1000)
    assert study_status(study).trainings[0].running


def test_training_that_is_done_is_not_under_way(study: Study) -> None:
    journal(study, [{"step": 10, "time_s": 5.0}])
    write_text(Layout(study.root).manifest("train_teacher", "liver", RUN), "{}")
    assert study_status(study).trainings == ()
    journal(study, [])
    assert study_status(study).trainings == ()


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("cache 1/2\nerror: case a\n  expected: b\n  found: c\n  way out: d\n", ("error: case a", "  expected: b")),
        ("Traceback (most recent call last):\n  File x\nValueError: no\n", ("  File x", "ValueError: no")),
        ("step 1\nKilled\n", ("step 1", "Killed")),
        ("prepare liver/b00: 1/2, 0:10 left\n", None),
        ("", None),
    ],
)
def test_failures_are_read_from_logs(study: Study, text: str, lines: tuple[str, str] | None) -> None:
    log = study.root / "logs" / "prepare" / "liver" / "b00.log"
    write_text(log, text)
    failures = study_status(study).failures
    if lines is None:
        assert failures == ()
        return
    [failure] = failures
    assert (failure.name, failure.log) == ("prepare liver b00", str(log))
    assert set(lines) <= set(failure.lines)
    write_text(Layout(study.root).manifest("prepare", "liver", "b00"), "{}")
    assert study_status(study).failures == ()


def test_training_that_was_told_to_stop_has_not_failed(study: Study) -> None:
    journal(study, [{"step": 10, "time_s": 5.0}, {"step": 20, "time_s": 10.0}])
    log = study.root / "logs" / "train_teacher" / "liver" / f"{RUN}.log"
    write_text(log, "error: teacher liver fold0-seed0: stopped after step 20; run the same command to go on\n")
    status = study_status(study)
    assert status.failures == ()
    assert not status.trainings[0].running
    write_text(log, "error: no disk\n")
    status = study_status(study)
    assert len(status.failures) == 1
    assert not status.trainings[0].running


def test_what_is_printed(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    journal(study, [{"step": 10, "time_s": 5.0}, {"step": 20, "time_s": 10.0}])
    write_text(study.root / "logs" / "prepare" / "liver" / "b00.log", "error: [no] disk\n")
    status = study_status(study)
    show_status(status)
    printed = capsys.readouterr().out
    for expected in (
        "step 20 of 100 (20%), 40.0 s left",
        "failed: prepare liver b00",
        "error: [no] disk",
        "0 of 11 jobs",
    ):
        assert expected in printed
    data = json.loads(status_json(status))
    expected_stage = {"stage": "make_phantoms", "done": 0, "expected": 1, "stale": None, "running": 0, "left_s": None}
    assert data["stages"][0] == expected_stage
    assert data["trainings"][0]["left_s"] == pytest.approx(40)


def test_done_jobs_that_snakemake_would_run_again_are_stale(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    layout = Layout(study.root)
    outputs = [layout.manifest("make_phantoms", "liver"), layout.manifest("train_teacher", "liver", RUN)]
    for path in outputs:
        write_text(path, "{}")
    outdated = {outputs[0]: "code changed", outputs[1]: "ok", layout.metrics("mskd", RUN, "liver"): "missing"}
    status = study_status(study, outdated)
    assert [(stale.name, stale.why) for stale in status.stale or ()] == [
        ("make_phantoms liver", "code changed"),
        (f"train_teacher liver {RUN}", "follows"),
    ]
    assert {stage.stage: stage.stale for stage in status.stages if stage.stale} == {
        "make_phantoms": 1,
        "train_teacher": 1,
    }
    show_status(status)
    printed = capsys.readouterr().out
    assert "stale: make_phantoms liver  (code changed)" in printed
    assert "2 of them are stale" in printed
    show_status(study_status(study, {}))
    assert "None of them is stale" in capsys.readouterr().out


def test_jobs_that_run(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    record(study, "prepare", "liver", "b00", age_s=20, slurm_job="4711", done=1, total=3, left_s=80.0)
    record(study, "evaluate", "mskd", RUN, "liver")
    write_text(study.root / "logs" / "prepare" / "liver" / "b00.log", "error: of an attempt before\n")
    status = study_status(study)
    assert status.failures == ()
    prepare, evaluate = status.running
    assert (prepare.name, prepare.host, prepare.slurm_job) == ("prepare liver b00", "node7", "4711")
    assert (prepare.done, prepare.total) == (1, 3)
    assert prepare.left_s == pytest.approx(60, abs=5)
    assert prepare.elapsed_s == pytest.approx(120, abs=5)
    assert (evaluate.name, evaluate.done, evaluate.left_s) == (f"evaluate mskd {RUN} liver", None, None)
    assert {stage.stage: stage.running for stage in status.stages if stage.running} == {"prepare": 1, "evaluate": 1}
    show_status(status)
    printed = capsys.readouterr().out
    assert "running: prepare liver b00  (node7, Slurm job 4711) for 2 min" in printed
    assert ", 1 of 3, " in printed
    assert len(json.loads(status_json(status))["running"]) == 2


def test_jobs_that_were_killed_have_failed(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    log = study.root / "logs" / "prepare" / "liver" / "b00.log"
    write_text(log, "prepare liver/b00: 1/2, 0:10 left\n")
    record(study, "prepare", "liver", "b00", age_s=SILENT_S + 10, slurm_job="4711_2")
    [failure] = study_status(study).failures
    assert (failure.name, failure.log) == ("prepare liver b00", str(log))
    assert failure.lines[0].startswith(KILLED)
    assert "prepare liver/b00: 1/2" in failure.lines[1]
    assert "logs/slurm/**/4711_2.log" in failure.lines[2]
    show_status(study_status(study))
    assert f"failed: prepare liver b00  ({log})" in capsys.readouterr().out
    write_text(log, "error: [Errno 5] Input/output error\n")
    assert study_status(study).failures[0].lines == ("error: [Errno 5] Input/output error",)
    os.utime(log, (1, 1))
    assert study_status(study).failures[0].lines[0].startswith(KILLED), "a log of another attempt was believed"
    write_text(Layout(study.root).manifest("prepare", "liver", "b00"), "{}")
    assert study_status(study).failures == ()


def test_trainings_are_known_by_their_records_too(study: Study) -> None:
    journal(study, [{"step": 10, "time_s": 1.0}, {"step": 20, "time_s": 2.0}], age_s=1000)
    record(study, "train_teacher", "liver", RUN, done=5, total=100, left_s=1.0)
    status = study_status(study)
    assert status.trainings[0].running, "a long validation leaves the journal alone"
    assert [(job.done, job.total, job.left_s) for job in status.running] == [(20, 100, pytest.approx(8))]
    journal(study, [{"step": 10, "time_s": 1.0}, {"step": 20, "time_s": 2.0}])
    record(study, "train_teacher", "liver", RUN, age_s=SILENT_S + 10)
    status = study_status(study)
    assert not status.trainings[0].running
    assert status.failures[0].lines[0].startswith(KILLED)


def test_jobs_that_failed_by_hand_leave_no_log(study: Study) -> None:
    attempt(study, "prepare", "liver", "b00", seconds=3, outcome="failed", error="DataError", host="desk")
    [failure] = study_status(study).failures
    assert failure.lines[0].startswith("ended with DataError on desk")
    attempt(study, "train_teacher", "liver", RUN, seconds=3, outcome="failed", error=STOPPED_ERROR)
    assert len(study_status(study).failures) == 1, "a training that was told to stop has not failed"


def test_the_error_of_a_training_that_was_told_to_stop() -> None:
    from mskd.training.loop import InterruptedTraining

    assert InterruptedTraining.__name__ == STOPPED_ERROR


def test_time_left_per_stage(tmp_path: Path) -> None:
    organs = ["liver", "spleen", "pancreas", "gallbladder", "stomach"]
    sections = {name: {"blocks": 1, "phantom": {"n_train": 2, "n_val": 0, "n_test": 1}} for name in organs}
    study = parse_study({"study": "five", "results": str(tmp_path), "datasets": sections, "methods": {"mskd": {}}})

    def left_s() -> float | None:
        return next(stage.left_s for stage in study_status(study).stages if stage.stage == "prepare")

    assert left_s() is None
    record(study, "prepare", organs[2], "b00", left_s=20.0)
    assert left_s() == pytest.approx(20 + 4 * 120, abs=5), "nothing is done: what runs takes 120 s"
    for name, seconds in zip(organs, (30, 50), strict=False):
        write_text(Layout(study.root).manifest("prepare", name, "b00"), "{}")
        attempt(study, "prepare", name, "b00", seconds=seconds)
        attempt(study, "prepare", name, "b00", seconds=1)  # found it standing
    assert left_s() == pytest.approx(20 + 2 * 40, abs=1)
    record(study, "prepare", organs[3], "b00", began=time.time() - 10)
    assert left_s() == pytest.approx((20 + 30 + 40) / 2, abs=1)
    for name in organs[2:]:
        write_text(Layout(study.root).manifest("prepare", name, "b00"), "{}")
        Layout(study.root).job("prepare", name, "b00").unlink(missing_ok=True)
    assert left_s() is None


def test_nothing_heavy_is_imported() -> None:
    code = "import sys, mskd.status; print(*({'torch', 'zarr', 'pandas', 'scipy'} & set(sys.modules)), end='')"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == ""
