"""Answers requests about one model, a JSON line each, until its input ends. Needs the tool alone, nothing of mskd.

Arguments: the tool's module here, and the folder for everything that is exchanged. Files of the model are copied there
first; only a copy whose bytes are the expected ones is loaded, so nothing can change between the check and its use.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import select
import shutil
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CHUNK = 2**20
READ_LATER = (".py", ".json", ".yaml", ".yml")
WATCH_S = 0.5  # how often it is looked whether the parent lives


class RoomError(Exception):
    """Nothing can be written into the folder."""


class ChangedError(Exception):
    """A file is not what the parent saw."""


def main() -> None:
    """Load the model of the first line, answer the others."""
    kind, folder = sys.argv[1], Path(sys.argv[2])
    _end_with_parent(folder)
    sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() != HERE.resolve()]  # hides no package
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what tools print goes to the log
    model: Any = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "model" in request:
                model = _loaded(kind, folder / "model", request)
                answer: dict[str, Any] = {"versions": model.versions}
            else:
                answer = _asked(model, request)
        except Exception as error:  # noqa: BLE001 - told to the parent, which raises it
            answer = _told(error)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    shutil.rmtree(folder, ignore_errors=True)  # the parent may have been killed


def _told(error: Exception) -> dict[str, Any]:
    kind = type(error).__name__
    if isinstance(error, ModuleNotFoundError):
        return {"error": "missing", "module": error.name or "?"}
    if kind == "UntrustedError":
        return {"error": "untrusted", "file": error.args[0], "why": error.args[1]}
    if isinstance(error, ChangedError):
        return {"error": "changed", "file": error.args[0]}
    if isinstance(error, RoomError):
        return {"error": "room", "text": str(error)}
    traceback.print_exc()
    return {"error": "other", "text": f"{kind}: {error}"}


def _loaded(kind: str, root: Path, request: dict[str, Any]) -> Any:
    module = _module(kind)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(request["threads"])
    for name, (path, expected) in request["files"].items():
        if _copy(Path(path), root / name) != expected:
            raise ChangedError(name)
    model = module.load(request["model"], request["device"], root)
    for path in root.rglob("*"):
        if path.is_file() and path.suffix not in READ_LATER:
            path.unlink()  # weights are in memory
    return model


def _copy(source: Path, target: Path) -> str:
    """Copy a file and return the checksum of the copied bytes."""
    digest = hashlib.sha256()
    with source.open("rb") as stream:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as out:
                while chunk := stream.read(CHUNK):
                    digest.update(chunk)
                    out.write(chunk)
        except OSError as error:
            raise RoomError(str(error.strerror or error)) from error
    return digest.hexdigest()


def _asked(model: Any, request: dict[str, Any]) -> dict[str, Any]:
    import numpy as np

    if "forward" in request:
        array, answer = model.forward(np.load(request["forward"])), {}
    else:
        array, answer = model.scores(request)
    try:
        np.save(request["out"], array)
    except OSError as error:
        raise RoomError(str(error.strerror or error)) from error
    return answer


def _end_with_parent(folder: Path) -> None:
    """End, and leave nothing of the scan behind, when this process is told to end or its parent has gone."""
    parent, requests = os.getppid(), select.poll()
    requests.register(0, select.POLLHUP)

    def end(*_: object) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        os._exit(1)

    def watch() -> None:
        while os.getppid() == parent and not requests.poll(1000 * WATCH_S):
            pass
        end()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends this process
    threading.Thread(target=watch, daemon=True).start()


def _module(kind: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"runner_{kind}", HERE / f"{kind}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
