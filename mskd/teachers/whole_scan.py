"""Teachers of other tools that look at a whole scan in a process of their own: nnU-Net v2, MONAI bundles."""

from __future__ import annotations

from dataclasses import dataclass

import nibabel as nib
import numpy as np

from mskd.cases import Case
from mskd.prepared import PreparedCase
from mskd.scans import read_scan
from mskd.teachers.base import TeacherTargets
from mskd.teachers.foreign import ForeignScores, study_margins
from mskd.teachers.runner import Runner


@dataclass
class WholeScanTeacher:
    """A network of another tool, with that tool's own preprocessing and inference.

    Attributes:
        runner: Its process.
        organs: Organs that it owns.
        channels: For each organ the channels of its classes.
        activation: softmax or sigmoid.
        digest: Of its files.
    """

    runner: Runner
    organs: list[str]
    channels: list[list[int]]
    activation: str
    digest: str

    def targets(self, case: PreparedCase, raw: Case) -> TeacherTargets:
        """Return margins on the study grid; there are no features."""
        scan, affine = read_scan(raw.image, raw.id)
        given, out = self.runner.place(".nii"), self.runner.place(".npy")
        nib.save(nib.Nifti1Image(np.asarray(scan, np.float32), affine), given)
        del scan
        try:
            answer = self.runner.ask({"scan": str(given), "affine": affine.tolist(), "out": str(out)})
            scores = np.load(out, mmap_mode="r")
            activation = "sigmoid" if self.activation == "sigmoid" else "softmax"
            found = ForeignScores(scores, np.asarray(answer["to_grid"], float), activation)  # type: ignore[arg-type]
            return TeacherTargets(study_margins(found, case.geometry, self.channels), {}, {})
        finally:
            for path in (given, out):
                path.unlink(missing_ok=True)
