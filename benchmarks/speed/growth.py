"""Growth: time and memory of our side alone as scans, organs or teachers become more, at three points each.

What needs PyTorch is imported where it is used: the peak memory of the metrics is theirs.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache as once
from functools import partial
from importlib import import_module
from math import log, prod
from pathlib import Path
from statistics import median
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from benchmarks.speed import metrics
from benchmarks.speed.data import LABELS, SCAN, read, write_scan
from benchmarks.speed.options import Options, Triple
from benchmarks.speed.pairing import MEASURED, Side, in_turns
from benchmarks.speed.session import Session
from benchmarks.speed.sides import SideProcess, Work, set_up

MODULE = "benchmarks.speed.growth"
STEPS = (4, 2, 1)  # every fourth voxel of the scan along each axis, every second, every one
ORGANS = (1, 5, 15)
TEACHERS = (1, 3, 9)
TEACHERS_STEP = 2  # of the scan that teachers are asked about: all nine in a minute
POINTS = {"volume": STEPS, "organs": ORGANS, "teachers": TEACHERS}
ALONG = {"volume": "voxels of the scan", "organs": "organs", "teachers": "teachers"}
PREPARED = "growth.zarr"
PLACES = 1000  # voxels per organ that patches are drawn around
SPHERES_PER_AXIS = 4

Labels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Growth:
    """A row: the same work at three points.

    Attributes:
        axis: What becomes more: volume, organs or teachers.
        stage: What is timed; `growth_<axis>_<stage>` names the row's file.
        work: The same in words, as often as one recorded time holds it.
        note: What a reader has to know.
        repeats: How often a run of a point does the work.
    """

    axis: str
    stage: str
    work: str
    note: str
    repeats: int = 1

    @property
    def name(self) -> str:
        """Name of the row's file."""
        return f"growth_{self.axis}_{self.stage}"

    @property
    def sides(self) -> list[str]:
        """Names of the points in `SIDES`, from the least to the most."""
        return [f"{self.axis} {self.stage} {value}" for value in POINTS[self.axis]]


def growths(options: Options) -> list[Growth]:
    """Return the rows."""
    from benchmarks.speed import preparation, training
    from benchmarks.speed.networks import study_grid

    grid, spacing_mm = study_grid(options), ", ".join(f"{mm:g}" for mm in preparation.spacing_mm(options))
    steps, window = training.steps(options), f"{options.window}³"
    network = f"features {options.features}"
    batch = f"{training.BATCH} patches of {window}, {network}"
    scores = "HD95, Dice and surface Dice"
    thinned = (
        "the scan, and every second and every fourth voxel of it along each axis; voxels stay as large as they are"
    )
    windows = f"study grids of {_shown(grid)} voxels, a half and a quarter of them per axis; a grid that is smaller "
    windows += "than a window takes a whole one"
    spheres_are = "organs are spheres of one size"
    teachers_are = f"each speaks of 5 organs on a grid of {_shown(_part(grid, TEACHERS_STEP))} voxels; no features"
    return [
        Growth("volume", "preparation", f"preparing a scan with labels ({spacing_mm} mm, stored)", thinned),
        Growth(
            *("volume", "inference", f"sliding window (window {window}, {network}), labels back on the raw grid"),
            f"{thinned}; {windows}",
        ),
        Growth("volume", "metrics", f"{scores} of 5 organs", thinned),
        Growth("organs", "metrics", f"{scores} of all organs", f"{spheres_are}, each predicted a voxel off"),
        Growth("organs", "training", f"a training step ({batch})", f"{spheres_are}, all labelled", steps),
        Growth(
            *("teachers", "cache", f"all teachers over one scan, margins stored (window {window}, {network})"),
            f"one after the other in one process; {teachers_are}",
        ),
        Growth("teachers", "student", f"a student's step from the cache ({batch})", teachers_are, steps),
    ]


def run(session: Session, folder: Path) -> None:
    """Measure every row that is wanted."""

    @once
    def ready(axis: str) -> None:
        set_up(MODULE, folder, session.options, f"set_up_{axis}")

    def measure(growth: Growth) -> dict[str, Any]:
        ready(growth.axis)
        options = session.options
        with ExitStack() as stack:
            sides = {name: stack.enter_context(SideProcess(MODULE, name, folder, options)) for name in growth.sides}
            return measured(sides, growth.repeats, rounds=options.rounds, budget_s=options.budget_s)

    for growth in growths(session.options):
        if session.wants(growth.name):
            about = {"work": growth.work, "along": ALONG[growth.axis], "note": growth.note}
            session.attempt(growth.name, "growth", about, partial(measure, growth), folder)


def measured(sides: Mapping[str, Side], repeats: int, *, rounds: int, budget_s: float) -> dict[str, Any]:
    """Warm every point up, which says how large it is, then time them in turns.

    Args:
        sides: The points, from the least to the most; their answers hold `x` and `size` (x for readers).
        repeats: How often a run does the work of which the time is recorded.
        rounds: Times that each is run.
        budget_s: No further round begins after this time, once there are two.
    """
    sizes = {name: side.run(answer=True).answer or {} for name, side in sides.items()}
    times = in_turns(sides, rounds=rounds, budget_s=budget_s)
    points = []
    for name, side in sides.items():
        times_s = [seconds / repeats for seconds in times[name]]
        point = {"seconds": median(times_s), "times_s": times_s, "peak_mib": round(side.peak_mib())}
        points.append({**sizes[name], **point})
    return {
        "status": MEASURED,
        "points": points,
        "exponent": exponent(points[0], points[-1]),
        "exponent_of_last_two": exponent(points[-2], points[-1]),
    }


def exponent(less: dict[str, Any], more: dict[str, Any]) -> float:
    """Return b of seconds ∝ xᵇ between two points: 1 is linear growth."""
    return log(more["seconds"] / less["seconds"]) / log(more["x"] / less["x"])


def spheres(shape: Triple, spacing_mm: Sequence[float], count: int) -> Labels:
    """Return labels 1 to `count` (at most 16) as spheres of one size, apart from each other, in the middle plane."""
    steps = np.asarray(spacing_mm, float)
    cell_mm = np.asarray(shape) * steps / (SPHERES_PER_AXIS, SPHERES_PER_AXIS, 1)
    radius_mm = 0.4 * float(cell_mm.min())
    labels = np.zeros(shape, np.uint8, order="F")  # as NIfTI files are read
    for number in range(count):
        place = np.array([*divmod(number, SPHERES_PER_AXIS), 0])
        away_mm = [
            (np.arange(n) + 0.5) * step - centre
            for n, step, centre in zip(shape, steps, (place + 0.5) * cell_mm, strict=True)
        ]
        near = np.ix_(*(np.flatnonzero(np.abs(axis) <= radius_mm) for axis in away_mm))
        x, y, z = (axis[rows.ravel()] ** 2 for axis, rows in zip(away_mm, near, strict=True))
        inside = x[:, None, None] + y[:, None] + z <= radius_mm**2
        labels[near] = np.where(inside, np.uint8(1 + number), labels[near])
    return labels


def set_up_volume(folder: Path, options: Options) -> None:
    """Write the scan in three sizes, raw and prepared, predictions of it, and a network that is trained a little."""
    from benchmarks.speed.networks import prepared, study_grid
    from mskd.prepared import write_prepared

    _trained(folder, options)
    for step in STEPS:
        part = _thinned(folder, options, step)
        metrics.set_up(part, options)
        arrays = prepared(part, options, _part(study_grid(options), step))
        write_prepared(part / PREPARED, arrays, key="speed", attributes={})


def set_up_organs(folder: Path, options: Options) -> None:
    """Write the prepared scan with spheres for labels, once for each number of them."""
    from benchmarks.speed.networks import prepared
    from mskd.preparation import sample_foreground
    from mskd.prepared import write_prepared

    write_scan(folder, options)
    arrays = prepared(folder, options)
    for count in ORGANS:
        labels = np.ascontiguousarray(spheres(_triple(arrays.image.shape), arrays.geometry.spacing_mm, count))
        places = sample_foreground(labels, PLACES, 0)
        own = replace(arrays, labels=labels, foreground=places)
        write_prepared(folder / f"organs{count}.zarr", own, key="speed", attributes={})


def set_up_teachers(folder: Path, options: Options) -> None:
    """Write a small prepared scan, and what the most teachers say of it; they are one teacher many times."""
    from benchmarks.speed import cache
    from benchmarks.speed.networks import prepared, study_grid
    from mskd.prepared import write_prepared

    weights, part = _trained(folder, options), _thinned(folder, options, TEACHERS_STEP)
    arrays = prepared(part, options, _part(study_grid(options), TEACHERS_STEP))
    write_prepared(part / cache.STORE, arrays, key="speed", attributes={})
    for number in range(max(TEACHERS)):
        shutil.copyfile(weights, cache.weights_file(part, number))
    _caching(max(TEACHERS), folder, options).run()


def _trained(folder: Path, options: Options) -> Path:
    """Return the weights of a network that was trained a little on the whole scan."""
    from benchmarks.speed import inference
    from benchmarks.speed.networks import prepared, train_weights

    write_scan(folder, options)
    weights = folder / inference.WEIGHTS
    if not weights.is_file():
        train_weights(weights, prepared(folder, options), options)
    return weights


def _thinned(folder: Path, options: Options, step: int) -> Path:
    """Return a folder with every n-th voxel of the scan along each axis; its voxels stay as large as they were."""
    part = folder / f"step{step}"
    if not (part / LABELS).is_file():
        part.mkdir(exist_ok=True)
        write_scan(folder, options)
        for name in (SCAN, LABELS):
            array, affine = read(folder, name)
            nib.save(nib.Nifti1Image(np.asfortranarray(array[::step, ::step, ::step]), affine), part / name)
    return part


def _part(grid: Triple, step: int) -> Triple:
    return _triple([n // step for n in grid])


def _triple(values: Sequence[int]) -> Triple:
    return values[0], values[1], values[2]


def _shown(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))


def _counted(work: Work, x: int, size: str = "") -> Work:
    """Return work whose answer is the point's place on the axis."""
    return replace(work, answer=lambda _: {"x": x, "size": size or str(x)})


def _ours(stage: str, side: str, folder: Path, options: Options) -> Work:
    work: Work = import_module(f"benchmarks.speed.{stage}").SIDES[side](folder, options)
    return work


def _predicting(folder: Path, options: Options) -> Work:
    from benchmarks.speed import inference
    from mskd.prepared import PreparedCase

    case = PreparedCase(folder / PREPARED, "scan")
    image, body = case.read("image"), case.read("body").astype(bool)
    return inference.predicting(image, body, case.geometry, folder.parent / inference.WEIGHTS, options)


def _of_volume(make: Callable[[Path, Options], Work], step: int, folder: Path, options: Options) -> Work:
    scan: Any = nib.load(folder / f"step{step}" / SCAN)
    return _counted(make(folder / f"step{step}", options), prod(scan.shape), _shown(scan.shape))


def _scoring(count: int, folder: Path, options: Options) -> Work:
    from mskd.evaluation.metrics import score_case

    scan: Any = nib.load(folder / SCAN)
    spacing_mm = tuple(float(mm) for mm in scan.header.get_zooms()[:3])
    truth = spheres(_triple(scan.shape), spacing_mm, count)
    guess = np.asfortranarray(np.roll(truth, (1, -1, 0), (0, 1, 2)))
    organs = {f"organ{value}": value for value in range(1, 1 + count)}

    def run() -> list[Any]:
        return score_case(guess, truth, spacing_mm, organs, organs, nsd_tolerance_mm=metrics.TOLERANCE_MM)

    return _counted(Work(run, dict), count)


def _training(count: int, folder: Path, options: Options) -> Work:
    from benchmarks.speed.training import supervised

    return _counted(supervised(folder / f"organs{count}.zarr", options, count), count)


def _caching(count: int, folder: Path, options: Options) -> Work:
    from benchmarks.speed import cache

    return _counted(cache.storing(folder / f"step{TEACHERS_STEP}", options, count), count)


def _distilling(count: int, folder: Path, options: Options) -> Work:
    from benchmarks.speed.student import distilled

    return _counted(distilled(folder / f"step{TEACHERS_STEP}", options, cached=True, count=count), count)


WORKS: dict[str, Callable[[int, Path, Options], Work]] = {
    "volume preparation": partial(_of_volume, partial(_ours, "preparation", "ours")),
    "volume inference": partial(_of_volume, _predicting),
    "volume metrics": partial(_of_volume, partial(_ours, "metrics", "ours_monai")),
    "organs metrics": _scoring,
    "organs training": _training,
    "teachers cache": _caching,
    "teachers student": _distilling,
}
SIDES = {f"{name} {value}": partial(make, value) for name, make in WORKS.items() for value in POINTS[name.split()[0]]}
