"""Teachers in a process of their own: what is loaded, what is refused, and that nothing stays behind."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from mskd.errors import MskdError
from mskd.provenance import file_digest
from mskd.teachers import exchange
from mskd.teachers import runner as runner_module
from mskd.teachers.runner import Runner
from mskd.teachers.runners import onnx as onnx_runner
from mskd.teachers.trust import ModelFile

SERVE = runner_module.SERVE
PARENT = """
import json, subprocess, sys, time
serve, folder = sys.argv[1:]
child = subprocess.Popen([sys.executable, serve, "slow", folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdin.write(json.dumps({"model": {}, "files": {}, "device": "cpu", "threads": 1}).encode() + b"\\n")
child.stdin.flush()
child.stdout.readline()
child.stdin.write(b'{"scan": ""}\\n')
child.stdin.flush()
print(child.pid, flush=True)
time.sleep(60)
"""
SLOW = """
import time
class Model:
    versions = {}
    def scores(self, request):
        while True: time.sleep(0.01)
def load(model, device, root):
    return Model()
"""


def tool(monkeypatch: pytest.MonkeyPatch, folder: Path, kind: str, source: str) -> Path:
    """Let a made module stand for a tool's; return the program that serves it."""
    folder.mkdir()
    shutil.copy(SERVE, folder)
    (folder / f"{kind}.py").write_text(source)
    monkeypatch.setattr(runner_module, "SERVE", folder / "serve.py")
    return folder / "serve.py"


def gone(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().split()[2] == "Z"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_ends_with_its_parent_and_removes_the_scan(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve, folder = tool(monkeypatch, tmp_path / "tools", "slow", SLOW), tmp_path / "exchange"
    folder.mkdir()
    (folder / "scan.nii").write_bytes(b"a patient")
    command = [sys.executable, "-c", PARENT, str(serve), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert not gone(child)
        parent.send_signal(number)
    end = time.monotonic() + 20
    while (folder.exists() or not gone(child)) and time.monotonic() < end:
        time.sleep(0.1)
    assert gone(child)
    assert not folder.exists()


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    old = time.time() - 2 * exchange.YOUNG_S
    owners = {name: tmp_path / f"{exchange.PREFIX}{name}" / exchange.OWNER for name in ("dead", "alive", "young")}
    for name, owner in owners.items():
        owner.parent.mkdir()
        owner.touch()
        (owner.parent / "scan.nii").touch()
        if name != "young":
            os.utime(owner, (old, old))
    with owners["alive"].open() as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        exchange.sweep(tmp_path)
    assert {name for name, owner in owners.items() if owner.parent.exists()} == {"alive", "young"}


def test_a_folder_that_lives_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder, owner = exchange.new_folder()
    old = time.time() - 2 * exchange.YOUNG_S
    os.utime(folder / exchange.OWNER, (old, old))
    exchange.sweep(tmp_path)
    assert folder.exists()
    os.close(owner)
    exchange.sweep(tmp_path)
    assert not folder.exists()


def test_a_temporary_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "no"))
    with pytest.raises(MskdError, match=rf"{tmp_path / 'no'}[\s\S]*let TMPDIR be"):
        Runner("t", "onnx", {})


def test_a_child_that_cannot_write_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = """
import numpy as np
class Model:
    versions = {"tool": "1"}
    def scores(self, request):
        return np.zeros(3), {}
def load(model, device, root):
    return Model()
"""
    tool(monkeypatch, tmp_path / "tools", "onnx", source)
    running = Runner("t", "onnx", {})
    assert running.versions == {"tool": "1"}
    assert running.ask({"out": str(running.place(".npy"))}) == {}
    with pytest.raises(MskdError, match="let TMPDIR be"):
        running.ask({"out": str(tmp_path / "no/out.npy")})
    running.close()
    assert not running.folder.exists()


def test_a_child_has_the_threads_of_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = """
import os, sys, types
sys.modules["torch"] = torch = types.ModuleType("torch")
torch.set_num_threads = lambda n: setattr(torch, "n", n)
class Model:
    def __init__(self):
        self.versions = {"torch": str(torch.n), "omp": os.environ["OMP_NUM_THREADS"]}
def load(model, device, root):
    return Model()
"""
    tool(monkeypatch, tmp_path / "tools", "nnunetv2", source)
    assert Runner("t", "nnunetv2", {}, threads=3).versions == {"torch": "3", "omp": "3"}


def test_a_file_that_changes_after_the_check_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = """
class Model:
    def __init__(self, root):
        self.versions = {"read": (root / "sub/net").read_text()}
def load(model, device, root):
    return Model(root)
"""
    tool(monkeypatch, tmp_path / "tools", "onnx", source)
    net = tmp_path / "net"
    net.write_text("good")
    files = [ModelFile("sub/net", net, file_digest(net), False, "nets.zip: net")]
    assert Runner("t", "onnx", {}, files=files).versions == {"read": "good"}
    net.write_text("evil")
    with pytest.raises(MskdError, match=r"nets\.zip: net changed while it was being loaded"):
        Runner("t", "onnx", {}, files=files)


def test_a_missing_module_is_told_beside_the_packages_of_the_tool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool(monkeypatch, tmp_path / "tools", "monai_bundle", "import cc3d_of_nobody.thing")
    with pytest.raises(MskdError, match=r"no module cc3d_of_nobody[\s\S]*pip install monai nibabel\n"):
        Runner("t", "monai_bundle", {})


@pytest.mark.parametrize(("there", "expected"), [(True, {"device_id": 1}), (False, None)])
def test_onnx_takes_the_device_that_is_meant_and_says_when_it_cannot(
    there: bool,
    expected: dict[str, int] | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[object] = []

    def session(file: str, options: object, providers: list[object]) -> SimpleNamespace:
        asked.extend(providers)
        names = [p[0] if isinstance(p, tuple) else p for p in providers]
        return SimpleNamespace(get_providers=lambda: names, get_inputs=lambda: [SimpleNamespace(name="i")])

    available = [onnx_runner.CUDA] if there else []
    fake = SimpleNamespace(
        __version__="1",
        get_available_providers=lambda: available,
        SessionOptions=SimpleNamespace,
        InferenceSession=session,
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    onnx_runner.load({"file": "m.onnx", "threads": 1}, "cuda:1", tmp_path)
    assert asked[:-1] == ([(onnx_runner.CUDA, expected)] if expected else [])
    assert ("the CPU is used" in capsys.readouterr().out) is not there
