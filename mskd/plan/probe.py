"""A first look at how long training steps take, so that what is timed properly takes no longer than it may."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from statistics import fmean
from typing import Any

from mskd.config.study import Study
from mskd.device import pick_device
from mskd.layout import Layout
from mskd.plan.miniature import RUN, Triple, fill_miniature, miniature, smaller, trainings
from mskd.plan.worker import in_child
from mskd.stages.train_student import train_student
from mskd.stages.train_teacher import train_teacher
from mskd.training.journal import METRICS, read_rows

STEPS = 3
SMALL, LARGER = 0.02, 8  # share of the patch; how many times more voxels the second look has at most
LEAST_SHARE = 0.25  # of a step's time that voxels are taken to need at least: two looks are noisy


@dataclass(frozen=True)
class Probe:
    """What small patches took.

    Attributes:
        fixed_s: Seconds of a step that do not depend on the patch: update of the weights, overhead.
        voxel_s: Further seconds per voxel of the batch.
        fixed_mib: Memory that a training takes however small its patch.
    """

    fixed_s: float
    voxel_s: float
    fixed_mib: float

    @classmethod
    def of(cls, times_s: tuple[float, float], voxels: tuple[int, int], fixed_mib: float) -> Probe:
        """Fit two measurements; the second has at least as many voxels."""
        least_s = LEAST_SHARE * times_s[1] / voxels[1]
        slope_s = (times_s[1] - times_s[0]) / (voxels[1] - voxels[0]) if voxels[1] > voxels[0] else 0.0
        voxel_s = max(slope_s, least_s)
        return cls(max(0.0, times_s[1] - voxel_s * voxels[1]), voxel_s, fixed_mib)

    def step_s(self, voxels: int) -> float:
        """Return what a step should take."""
        return self.fixed_s + self.voxel_s * voxels

    def patch(self, patch: Triple, batch: int, stride: Triple, allowed_s: float) -> Triple:
        """Return the patch itself, or one that is small enough for a step to take no longer than allowed."""
        voxels = batch * prod(patch)
        return smaller(patch, stride, (allowed_s - self.fixed_s) / self.voxel_s / voxels)

    def raised(self, measured_s: float, scale: float) -> float:
        """Return the time of a step on a patch with `scale` times the voxels of the one that was timed."""
        if scale == 1:
            return measured_s
        fixed_s = min(self.fixed_s, (1 - LEAST_SHARE) * measured_s)
        return fixed_s + (measured_s - fixed_s) * scale


def probe(study: Study, folder: Path, name: str, device: str) -> Probe:
    """Train briefly on two small patches.

    Args:
        study: The study.
        folder: Where to write.
        name: `teacher/<name>` that is trained.
        device: Where to compute.
    """
    section, stride = trainings(study)[name], study.network.coarsest_stride
    small = smaller(section.patch_size, stride, SMALL)
    large = smaller(section.patch_size, stride, LARGER * prod(small) / prod(section.patch_size))
    found = [_look(study, folder / f"probe{index}", name, patch, device) for index, patch in enumerate((small, large))]
    voxels = section.batch_size * prod(small), section.batch_size * prod(large)
    times_s = float(found[0]["step_s"]), float(found[1]["step_s"])
    return Probe.of(times_s, voxels, float(found[0]["growth_mib"]))


def train_miniature(mini: Study, name: str, device: str) -> None:
    """Run the stage that trains `teacher/<name>` or `method/<row>`."""
    kind, _, row = name.partition("/")
    (train_teacher if kind == "teacher" else train_student)(mini, row, RUN, pick_device(device))


def mean_step_s(mini: Study, name: str, skip: int) -> float:
    """Return the mean time of the steps in a training's journal, the first `skip` (at least one) left out."""
    times = [row["time_s"] for row in read_rows(model_folder(mini, name) / METRICS) if "time_s" in row]
    return fmean(b - a for a, b in zip(times[skip - 1 :], times[skip:], strict=False))


def model_folder(mini: Study, name: str) -> Path:
    """Return the model folder of `teacher/<name>` or `method/<row>`."""
    kind, _, row = name.partition("/")
    layout = Layout(mini.root)
    return layout.teacher(row, RUN) if kind == "teacher" else layout.student(row, RUN)


def _look(study: Study, folder: Path, name: str, patch: Triple, device: str) -> dict[str, Any]:
    patches = dict.fromkeys(trainings(study), patch)
    mini = miniature(study, folder, {name: STEPS}, patches, patch)

    def run() -> dict[str, Any]:
        fill_miniature(mini, withheld=False)
        train_miniature(mini, name, device)
        return {"step_s": mean_step_s(mini, name, 1)}

    return in_child(f"a patch of {'×'.join(map(str, patch))}", folder, run)
