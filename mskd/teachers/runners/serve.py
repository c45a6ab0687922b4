"""Answers requests about one model, a JSON line each, until its input ends. Needs the tool alone, nothing of mskd."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def main() -> None:
    """Load the model of the first line, answer the others."""
    sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() != HERE.resolve()]  # hides no package
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what tools print goes to the log
    kind = sys.argv[1]
    model: Any = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "model" in request:
                module = _module(kind)
                model = module.load(request["model"], request["device"])
                answer: dict[str, Any] = {"versions": model.versions, "classes": getattr(model, "classes", None)}
            elif "forward" in request:
                answer = model.forward(request["forward"], request["out"]) or {}
            else:
                answer = model.scores(request)
        except ModuleNotFoundError as error:
            answer = {"error": "missing", "package": (error.name or "?").split(".")[0]}
        except Exception as error:  # noqa: BLE001 - told to the parent, which raises it
            if type(error).__name__ == "UntrustedError":
                answer = {"error": "untrusted", "file": error.args[0], "why": error.args[1]}
            else:
                traceback.print_exc()
                answer = {"error": "other", "text": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _module(kind: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"runner_{kind}", HERE / f"{kind}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
