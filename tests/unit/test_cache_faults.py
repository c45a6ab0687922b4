"""Writers that are killed, disks that are full: nothing half-written counts, what was finished is not done again."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mskd.cache.store import TargetStore, stored_content
from mskd.cache.verification import leftovers

# `make soak` kills more often.
KILLS = int(os.environ.get("MSKD_KILLS", "3"))
CASES = 12
WRITER = f"""
import sys
from pathlib import Path
import numpy as np
from mskd.cache.store import EncodedArray, stored_content, write_store

root = Path(sys.argv[1])
for case in range({CASES}):
    path = root / f"case{{case}}.zarr"
    if stored_content(path, f"key{{case}}") is None:
        rng = np.random.default_rng(case)
        values = rng.integers(0, 255, (2, 64, 64, 64), dtype=np.uint8)
        write_store(path, {{"logits": EncodedArray(values, None, (1, 1, 1), (16, 16, 16), None, (16, 16, 16), {{}})}},
                    key=f"key{{case}}", level=5, affine=np.eye(4), attributes={{"case": f"d/case{{case}}"}})
        print("made", case, flush=True)
"""


def start(root: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", WRITER, str(root)], stdout=subprocess.PIPE, text=True)


def standing(root: Path) -> dict[str, int]:
    """Return the stores that stand, with what changes when one is made again."""
    names = [f"case{case}" for case in range(CASES)]
    return {
        name: (root / f"{name}.zarr" / "zarr.json").stat().st_ino
        for name in names
        if stored_content(root / f"{name}.zarr", name.replace("case", "key")) is not None
    }


def test_killed_while_writing(tmp_path: Path) -> None:
    undisturbed = start(tmp_path / "undisturbed")
    assert undisturbed.stdout is not None
    undisturbed.stdout.readline()
    first = time.monotonic()
    undisturbed.communicate()
    writing_s = time.monotonic() - first
    root = tmp_path / "killed"
    rng = np.random.default_rng(0)
    for _ in range(KILLS):
        before = standing(root)
        writer = start(root)
        assert writer.stdout is not None
        if len(before) < CASES:
            writer.stdout.readline()  # it is writing now
        time.sleep(float(rng.uniform(0, writing_s / KILLS)))
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        after = standing(root)
        assert {name: after.get(name) for name in before} == before  # finished cases are not made again
    finished = standing(root)
    last = start(root)
    made = last.communicate()[0].splitlines()
    assert last.returncode == 0
    assert len(made) == CASES - len(finished)
    for case in range(CASES):
        one, other = (tmp_path / which / f"case{case}.zarr" for which in ("undisturbed", "killed"))
        for file in (path for path in one.rglob("*") if path.is_file()):
            assert file.read_bytes() == (other / file.relative_to(one)).read_bytes()
    assert all(".part-" in path.name for path in leftovers(root))


def test_two_writers_of_one_case_do_no_harm(tmp_path: Path) -> None:
    writers = [start(tmp_path), start(tmp_path)]
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    assert len(standing(tmp_path)) == CASES
    for case in range(CASES):
        assert TargetStore(tmp_path / f"case{case}.zarr", "d/a").read_codes("logits").shape == (2, 64, 64, 64)
    assert leftovers(tmp_path) == []


def test_disk_full(tmp_path: Path) -> None:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # a write beyond fails, as on a full disk

    writer = subprocess.run(
        [sys.executable, "-c", WRITER, str(tmp_path)], preexec_fn=limit, capture_output=True, text=True, check=False
    )
    assert writer.returncode != 0
    assert "cannot write" in writer.stderr
    assert "way out" in writer.stderr
    assert standing(tmp_path) == {}
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    writer = subprocess.run(
        [sys.executable, "-c", WRITER, str(tmp_path / "file" / "x")], capture_output=True, text=True, check=False
    )
    assert "cannot write" in writer.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_permission_denied(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    writer = subprocess.run(
        [sys.executable, "-c", WRITER, str(tmp_path / "closed")], capture_output=True, text=True, check=False
    )
    assert "cannot write" in writer.stderr
    assert "ermission denied" in writer.stderr
