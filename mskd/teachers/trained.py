"""A teacher trained on one dataset of the study."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from mskd.cases import Case, is_part
from mskd.config.study import Study
from mskd.errors import MskdError
from mskd.inference import Windows, sliding_window
from mskd.layout import Layout
from mskd.margins import margins
from mskd.models import Model, load_model
from mskd.networks.unet import UNet
from mskd.prepared import PreparedCase, normalise
from mskd.teachers.base import TeacherTargets


@dataclass
class TrainedTeacher:
    """A network of ours with the organs that it owns."""

    model: Model
    organs: list[str]
    taps: list[str]
    windows: Windows
    device: torch.device

    @property
    def digest(self) -> str:
        """Digest of the weights."""
        return str(self.model.card["weights_sha256"])

    @property
    def network(self) -> UNet:
        """The network, frozen and in evaluation mode."""
        return cast(UNet, self.model.network)

    def targets(self, case: PreparedCase, raw: Case) -> TeacherTargets:
        """Run over a case and return blended margins (K_n, X, Y, Z) and features."""

        def forward(batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            scores, features = self.network.run(batch, self.taps)
            return scores[0], features

        image = normalise(case.read("image"), self.model.preprocessing.hu_clip)
        outputs = sliding_window(forward, image, self.windows, body=case.read("body"), device=self.device)
        margin = margins(torch.from_numpy(outputs.scores)[None])[0].numpy()
        level_strides = self.network.settings.level_strides
        strides = {tap: level_strides[self.network.settings.tap_level(tap)] for tap in self.taps}
        return TeacherTargets(margin, outputs.features, strides)


def load(study: Study, teacher: str, run: str, device: torch.device) -> TrainedTeacher:
    """Load a trained teacher.

    Raises:
        MskdError: If it was trained with another preprocessing than the study's.
    """
    folder = Layout(study.root).teacher(teacher, run)
    model = load_model(folder, device)
    if model.preprocessing != study.preprocessing:
        raise MskdError(
            f"teacher {teacher} in {folder} was trained with another preprocessing than this study's\n"
            f"  expected: {study.preprocessing}\n  found:    {model.preprocessing}\n"
            "  way out:  train it again (run the workflow), or restore the study's preprocessing"
        )
    inference = study.inference
    windows = Windows(model.window, model.overlap, model.stride, inference.batch_size, inference.precision)
    taps = [] if is_part(run) else study.cache.taps
    return TrainedTeacher(model, list(model.labels), taps, windows, device)
