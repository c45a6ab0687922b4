"""The record that a job keeps of itself: while it runs, when it ends, fails, or is killed, and when it cannot write."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from mskd import job_record as module
from mskd.cli.joint_work import network_job, study_job
from mskd.config.loading import parse_study
from mskd.console import progress, watched
from mskd.fingerprint import _imports, _is_neutral
from mskd.job_record import SILENT_S, all_attempts, job_record, read_attempts, read_running
from mskd.layout import Layout
from mskd.plan.jobs import STAGES

JOB = ("prepare", "liver", "b00")
ODD = ["../../evil", "..", ".", "", "a/b", "a\nb\x1b[2J", "\udcff", "%2E", "ü' \"$(x)"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return Layout(tmp_path).job(*JOB)


def eventually(what: str, found: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not found():
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.02)


KILLED_JOB = f"""
import sys, time
from pathlib import Path
from mskd.job_record import job_record
with job_record(Path(sys.argv[1]), *{JOB!r}):
    time.sleep(600)
"""


def killed_job(root: Path) -> None:
    """Begin a job in another process, and kill it without a word."""
    job = subprocess.Popen([sys.executable, "-c", KILLED_JOB, str(root)])
    eventually("the job begins", Layout(root).job(*JOB).is_file)
    job.send_signal(signal.SIGKILL)
    job.wait()


def test_a_job_that_runs_says_where_and_how_far_it_is(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BEAT_S", 0.01)
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    before = time.time()
    with job_record(tmp_path, *JOB):
        found = read_running(path)
        assert found is not None
        running, quiet_s = found
        assert (running.pid, running.slurm_job, running.processes) == (os.getpid(), "4711", 1)
        assert before - 1 <= running.began <= time.time()
        assert (running.done, running.total, running.left_s) == (None, None, None)
        assert quiet_s < 60
        with progress("x", 5, done=1) as advance:
            advance(2)
            eventually("progress", lambda: (now := read_running(path)) and now[0].done == 3)
        now = read_running(path)
        assert now is not None
        assert now[0].total == 5
        assert now[0].left_s is not None
    assert read_running(path) is None
    assert list(path.parent.iterdir()) == [path.with_suffix(".jsonl")]


def test_time_left_counts_from_where_the_progress_began(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record, clock = module.JobRecord(path), SimpleNamespace(now=100.0)
    monkeypatch.setattr(module.time, "monotonic", lambda: clock.now)
    record.progressed(10, 30, 10)
    assert record._seen is not None
    assert record._seen.left_s() is None
    clock.now = 110.0
    record.progressed(15, 30, 10)
    assert record._seen.left_s() == 30.0
    record.progressed(0, 30, 0)  # another one begins
    clock.now = 120.0
    record.progressed(1, 30, 0)
    assert record._seen.left_s() == 290.0


def test_only_the_progress_inside_is_watched() -> None:
    seen: list[tuple[int, int, int]] = []
    with watched(lambda *at: seen.append(at)), progress("x", 4, done=1) as advance:
        advance()
        advance(2, stood=True)
    with progress("x", 2) as advance:
        advance()
    assert seen == [(1, 4, 1), (2, 4, 1), (4, 4, 3)]


def test_a_job_that_ends_leaves_what_it_took(tmp_path: Path, path: Path) -> None:
    with job_record(tmp_path, *JOB):
        pass
    [attempt] = read_attempts(path)
    assert (attempt.outcome, attempt.error, attempt.processes, attempt.gpus) == ("done", "", 1, 0)
    assert 0 <= attempt.seconds < 60
    assert attempt.memory_mib is not None
    assert 10 < attempt.memory_mib < 100_000
    assert attempt.gpu_memory_mib is None or sys.modules["torch"].cuda.is_initialized()


def test_a_job_that_fails_says_so_without_the_message(tmp_path: Path, path: Path) -> None:
    with pytest.raises(ValueError, match="Miller"), job_record(tmp_path, *JOB):
        raise ValueError("patient Miller")
    with pytest.raises(KeyboardInterrupt), job_record(tmp_path, *JOB):
        raise KeyboardInterrupt
    found = read_attempts(path)
    assert [(attempt.outcome, attempt.error) for attempt in found] == [
        ("failed", "ValueError"),
        ("failed", "KeyboardInterrupt"),
    ]
    assert "Miller" not in path.with_suffix(".jsonl").read_text()
    assert not path.exists()


def test_a_job_that_is_killed_is_entered_when_it_begins_again(tmp_path: Path, path: Path) -> None:
    killed_job(tmp_path)
    found = read_running(path)
    assert found is not None
    assert found[0].pid != os.getpid()
    assert not found[0].lives(found[1]), "here one sees at once that it is gone"
    elsewhere = replace(found[0], pid_space="pid:[another container's]")
    assert [elsewhere.lives(quiet_s) for quiet_s in (SILENT_S - 1, SILENT_S)] == [True, False]
    assert read_attempts(path) == []
    written = path.stat().st_mtime
    path.write_text(json.dumps(asdict(replace(found[0], began=written - 50))))
    os.utime(path, (written, written))
    for _ in range(2):
        with job_record(tmp_path, *JOB):
            pass
    attempts = read_attempts(path)
    assert [attempt.outcome for attempt in attempts] == ["killed", "done", "done"]
    assert attempts[0].seconds == pytest.approx(50, abs=0.1)
    assert attempts[0].memory_mib is None


def test_a_second_of_the_same_job_buries_no_one_alive(tmp_path: Path, path: Path) -> None:
    with job_record(tmp_path, *JOB):
        other = json.loads(path.read_text()) | {"pid": os.getppid(), "began": 5.0}  # alive as long as this is
        path.write_text(json.dumps(other))
        with job_record(tmp_path, *JOB):
            pass
    assert [attempt.outcome for attempt in read_attempts(path)] == ["done", "done"]


def test_what_cannot_be_written_is_said_once_and_hides_no_error(
    tmp_path: Path, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "jobs").write_text("a file where a folder belongs")
    with job_record(tmp_path, *JOB):
        pass
    with pytest.raises(ValueError, match="its own error"), job_record(tmp_path, *JOB):
        raise ValueError("its own error")
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert all("goes on without its record" in line and str(tmp_path) in line for line in said)
    assert read_attempts(path) == []


def test_records_that_are_torn_or_of_another_version(path: Path) -> None:
    path.parent.mkdir(parents=True)
    for text in ("", "{", "[]", '{"host": "a"}', '{"began": "x", "host": "a", "pid": 1}', "\xff"):
        path.write_text(text, encoding="latin-1")
        assert read_running(path) is None
    path.write_text('{"began": 1, "host": "a", "pid": 1, "of_tomorrow": 2}')
    assert read_running(path) is not None
    good = '{"outcome": "done", "began": 1, "seconds": 2, "of_tomorrow": 3}'
    path.with_suffix(".jsonl").write_text(f'{good}\nnonsense\n{{"outcome": "done"}}\n{good}\n{{"outco')
    assert len(read_attempts(path)) == 2


def test_odd_names_stay_in_the_folder(tmp_path: Path) -> None:
    root, layout = tmp_path / "study", Layout(tmp_path / "study")
    paths = {layout.job("prepare", odd, "b00") for odd in ODD} | {layout.job("prepare", "liver", odd) for odd in ODD}
    assert len(paths) == 2 * len(ODD)
    for odd in ODD:
        with job_record(root, "prepare", odd, odd):
            pass
    written = [path.resolve() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) == len(ODD)
    assert all(path.is_relative_to(root / "jobs" / "prepare") for path in written)
    assert all(path.name.isascii() and path.name.isprintable() for path in written)
    assert layout.job("prepare", "v1.2_a-b", "b00") == root / "jobs" / "prepare" / "v1.2_a-b" / "b00.json"


def test_array_jobs_have_the_number_of_their_log(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("JOB_ID", "12"), ("ARRAY_JOB_ID", "10"), ("ARRAY_TASK_ID", "2")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert module._slurm_job() == "10_2"


def test_other_processes_keep_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("TORCHELASTIC_RUN_ID", "x"), ("RANK", "1"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    with job_record(tmp_path, *JOB):
        pass
    assert list(tmp_path.iterdir()) == []


def test_gpus_that_are_used_are_counted(tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = [2**21, 2**20]
    cuda = SimpleNamespace(is_initialized=lambda: True, device_count=lambda: 2, max_memory_allocated=peaks.__getitem__)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))  # type: ignore[arg-type]
    with job_record(tmp_path, *JOB) as record:
        record.gpus = 2
    [attempt] = read_attempts(path)
    assert (attempt.gpus, attempt.gpu_memory_mib) == (2, 3.0)


def test_commands_keep_the_record_of_their_job(tmp_path: Path) -> None:
    study_file = tmp_path / "tiny.yaml"
    study_file.write_text(
        f"study: tiny\nresults: {tmp_path}/results\ndatasets: {{liver: {{phantom: {{}}}}}}\nmethods: {{mskd: {{}}}}\n"
    )
    root = tmp_path / "results" / "tiny"
    with study_job(study_file, "prepare", "liver", "b00") as study:
        assert study.root == root
        assert read_running(Layout(root).job("prepare", "liver", "b00"))
    with network_job(study_file, "train_teacher", "liver", "fold0-seed0", device="cpu") as (study, device):
        assert device.type == "cpu"
        assert read_running(Layout(root).job("train_teacher", "liver", "fold0-seed0"))
    assert [(stage, attempts[0].outcome) for stage, attempts in all_attempts(root)] == [
        ("prepare", "done"),
        ("train_teacher", "done"),
    ]


def test_the_table_of_stages(tmp_path: Path) -> None:
    from mskd.cost import STAGE_COLUMNS, stage_table

    study = parse_study(
        {
            "study": "s",
            "results": str(tmp_path),
            "datasets": {"liver": {"phantom": {}}},
            "methods": {"mskd": {}},
        }
    )
    assert list(stage_table(study).columns) == STAGE_COLUMNS
    assert "| stage" in stage_table(study).to_markdown(index=False)
    layout = Layout(study.root)

    def add(outcome: str, seconds: float, *job: str, **more: object) -> None:
        row = {"outcome": outcome, "began": 1.0, "seconds": seconds, **more}
        path = layout.job(*job).with_suffix(".jsonl")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as stream:
            stream.write(json.dumps(row) + "\n")

    add("killed", 1800.0, "train_teacher", "liver", "fold0-seed0", gpus=2)
    add("done", 3600.0, "train_teacher", "liver", "fold0-seed0", gpus=2, memory_mib=900.0, gpu_memory_mib=70.0)
    add("failed", 36.0, "prepare", "liver", "b00", memory_mib=80.0)
    add("done", 3.0, "tabulate", memory_mib=80.0)
    table = stage_table(study)
    assert list(table["stage"]) == ["prepare", "train_teacher", "tabulate"]
    rows = table.set_index("stage")
    assert rows.loc["train_teacher"].to_dict() == {
        "jobs_done": 1,
        "attempts": 2,
        "hours": 1.5,
        "longest_attempt_s": 3600.0,
        "memory_mib": 900.0,
        "gpu_hours": 3.0,
        "gpu_memory_mib": 70.0,
    }
    assert (rows.jobs_done["prepare"], rows.attempts["prepare"], rows.hours["prepare"]) == (0, 1, 0.01)


def test_no_stage_stands_on_the_record() -> None:
    """A change of the record must run nobody's study again; what is neutral is not followed."""
    pending, seen = [f"mskd.stages.{stage}" for stage in STAGES], set()
    while pending:
        name = pending.pop()
        if name not in seen and not _is_neutral(name):
            seen.add(name)
            pending += _imports(name)
    assert "mskd.processes" in seen
    assert not {"mskd.job_record", "mskd.status"} & seen


def test_nothing_heavy_is_imported() -> None:
    code = "import sys, mskd.job_record, mskd.cli.joint_work; print(*sorted(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "zarr", "pandas", "scipy", "numpy", "pydantic"} & set(found.stdout.split())
