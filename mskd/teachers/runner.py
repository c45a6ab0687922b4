"""The parent's side of a teacher that runs in a process, and if wanted an environment, of its own.

The child (`mskd/teachers/runners/serve.py`) imports nothing of mskd, so its interpreter needs the tool alone. It is
asked one JSON line at a time, arrays go through files; what it prints comes into the job's log.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mskd.errors import MskdError
from mskd.teachers.exchange import new_folder, no_room, room
from mskd.teachers.trust import ModelFile, refuse, warn_of

PATIENCE_S = 5.0  # for a child to end after its input has
SERVE = Path(__file__).parent / "runners" / "serve.py"
PACKAGES = {"nnunetv2": "nnunetv2", "monai_bundle": "monai nibabel", "onnx": "onnxruntime", "torch_export": "torch"}
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Runner:
    """A child that holds a model of another tool.

    Attributes:
        teacher: For messages.
        versions: Of the packages that the child answers with.
    """

    def __init__(
        self,
        teacher: str,
        kind: str,
        model: dict[str, Any],
        *,
        files: Sequence[ModelFile] = (),
        python: Path | None = None,
        device: str = "cpu",
        threads: int = 1,
    ) -> None:
        """Start the child and let it load the model.

        Args:
            teacher: For messages.
            kind: Module of mskd/teachers/runners.
            model: What that module's `load` is given, plain JSON; it names files as they are called below the copy.
            files: What the child copies, checks and loads.
            python: Interpreter; None for this one.
            device: cpu, cuda:0, …
            threads: CPU threads of the child.

        Raises:
            MskdError: If the interpreter, a package or the model cannot be used.
        """
        self.teacher, self.kind, self.python = teacher, kind, str(python or sys.executable)
        self._files = {file.name: file for file in files}
        self._count = 0
        self.folder, owner = new_folder()
        try:
            self._process = subprocess.Popen(
                [self.python, str(SERVE), kind, str(self.folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=_environment(python, threads),
            )
        except OSError as error:
            _remove(self.folder, owner)
            raise MskdError(
                f"teacher {teacher}: the interpreter {self.python} does not start ({error}); correct "
                f"`teachers.{teacher}.python`"
            ) from error
        self._end = weakref.finalize(self, _end, self._process, self.folder, owner)
        request = {
            "model": {**model, "trusted": warn_of(files)},
            "files": {file.name: [str(file.path.resolve()), file.sha256] for file in files},
            "device": device,
            "threads": threads,
        }
        self.versions: dict[str, str] = self.ask(request).get("versions", {})

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send a request and return the answer.

        Raises:
            MskdError: If the child cannot do it, or has ended.
        """
        sink, source = self._process.stdin, self._process.stdout
        assert sink is not None
        assert source is not None
        try:
            sink.write(json.dumps(request) + "\n")
            sink.flush()
            line = source.readline()
        except OSError:
            line = ""
        if not line:
            code = self._process.wait()
            raise MskdError(
                f"teacher {self.teacher}: its process ended (exit code {code}); what it said stands above. Killed by "
                "signal 9 it needed more memory"
            )
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise self._error(answer)
        return answer

    def place(self, suffix: str) -> Path:
        """Return a new file in the folder that both sides see."""
        self._count += 1
        return self.folder / f"{self._count}{suffix}"

    def forward(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Run the network on windows (B, 1, x, y, z); return (B, C, x, y, z)."""
        sent, received = self.folder / "batch.npy", self.folder / "scores.npy"
        with room():
            np.save(sent, batch)
        self.ask({"forward": str(sent), "out": str(received)})
        return np.asarray(np.load(received), np.float32)

    def close(self) -> None:
        """Let the child end; nothing can be asked after it. Happens by itself when the runner is no longer used."""
        self._end()

    def _error(self, answer: dict[str, Any]) -> MskdError:
        if answer["error"] == "missing":
            return MskdError(
                f"teacher {self.teacher}: {self.python} has no module {answer['module']}\n"
                f"  expected: an environment for teachers of kind {self.kind}\n"
                f"  way out:  {self.python} -m pip install {PACKAGES[self.kind]}\n"
                "            and, where that is there already, the package that brings the module\n"
                f"  or name the interpreter of an environment that has it: teachers.{self.teacher}.python"
            )
        if answer["error"] == "untrusted":
            return refuse(self.teacher, [self._files[answer["file"]]], answer["why"])
        if answer["error"] == "changed":
            return MskdError(
                f"teacher {self.teacher}: {self._files[answer['file']].shown} changed while it was being loaded\n"
                "  way out:  give the same command again, once the file is whole"
            )
        if answer["error"] == "room":
            return no_room(answer["text"])
        return MskdError(f"teacher {self.teacher}: {answer['text']}\n  the whole message stands above in this log")


def _environment(python: Path | None, threads: int) -> dict[str, str]:
    own = {} if python is None else {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
    kept = {name: value for name, value in os.environ.items() if name not in own}
    return kept | dict.fromkeys(THREADS, str(threads))


def _end(process: subprocess.Popen[str], folder: Path, owner: int) -> None:
    """End a child by the end of its input; one that does not answer is killed."""
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(OSError):  # it may be gone already
        process.stdin.close()
    try:
        process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()
    _remove(folder, owner)


def _remove(folder: Path, owner: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.close(owner)
