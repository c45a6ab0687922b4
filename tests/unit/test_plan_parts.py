"""Parts of the plan that need no study of their own: the schedule, sizes of patches, the probe, the texts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mskd.config.loading import load_study
from mskd.plan.miniature import alike, smaller
from mskd.plan.probe import Probe
from mskd.plan.quantities import duration, size
from mskd.plan.schedule import schedule
from mskd.plan.volumes import sampled

REPOSITORY = Path(__file__).parents[2]
DEMO = REPOSITORY / "config" / "demo.yaml"


def test_schedule_of_a_diamond() -> None:
    times = {"a": 1.0, "b": 4.0, "c": 2.0, "d": 3.0}
    waits: dict[str, list[str]] = {"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c"]}
    alone, together = schedule(times, waits, 1), schedule(times, waits, 2)
    assert (alone.total_s, alone.work_s, alone.bound) == (10, 10, "work")
    assert (together.total_s, together.critical_path_s, together.bound) == (8, 8, "critical path")
    assert together.critical_path == ("a", "b", "d")


def test_schedule_of_independent_jobs_takes_the_long_ones_first() -> None:
    times = {"short": 1.0, "shorter": 1.0, "long": 2.0}
    assert schedule(times, {name: [] for name in times}, 2).total_s == 2
    assert schedule({}, {}, 2).total_s == 0


def test_sampled_indices_are_spread_evenly() -> None:
    assert sampled(3, 20) == [0, 1, 2]
    assert sampled(201, 5) == [0, 50, 100, 150, 200]


def test_quantities() -> None:
    assert [duration(s) for s in (4.21, 200, 18_600, 273_600)] == ["4.2 s", "3 min 20 s", "5 h 10 min", "3 d 4 h"]
    assert [size(n) for n in (512, 1536, 200 * 2**20, 3 * 2**40)] == ["512 B", "1.5 KiB", "200 MiB", "3.0 TiB"]


def test_smaller_patches_are_multiples_of_the_stride() -> None:
    assert smaller((96, 96, 96), (16, 16, 16), 1.0) == (96, 96, 96)
    assert smaller((160, 160, 64), (16, 16, 8), 0.25) == (80, 80, 64)
    assert smaller((96, 96, 96), (16, 16, 16), 0.0) == (32, 32, 32)


def test_probe_separates_what_does_not_grow_with_the_patch() -> None:
    look = Probe.of((3.0, 10.0), (1_000, 8_000), 50)
    assert (look.fixed_s, look.voxel_s) == (pytest.approx(2), pytest.approx(1e-3))
    assert look.step_s(16_000) == pytest.approx(18)
    assert look.patch((32, 32, 32), 1, (8, 8, 8), 100.0) == (32, 32, 32)
    assert look.patch((32, 32, 32), 1, (8, 8, 8), 10.5) == (16, 16, 32)
    assert look.patch((32, 32, 32), 1, (8, 8, 8), 1.0) == (16, 16, 16)
    assert look.raised(10.0, 4) == pytest.approx(2 + 8 * 4)
    assert look.raised(10.0, 1) == 10
    noisy = Probe.of((5.0, 4.0), (1_000, 8_000), 50)
    assert noisy.voxel_s == pytest.approx(4 / 8_000 / 4)


def test_alike_trainings_are_measured_once() -> None:
    groups = alike(load_study(DEMO))
    assert groups["teacher/liver"] == ["teacher/spleen", "teacher/kidney"]
    assert not any("individual" in name for names in groups.items() for name in names)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['mskd', '--help']\n"
        "from mskd.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print(*({'torch', 'zarr', 'pandas', 'numpy', 'scipy'} & set(sys.modules)), file=sys.stderr, end='')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert "status" in done.stdout
    assert done.stderr == ""
