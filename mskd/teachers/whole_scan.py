"""Teachers of other tools that look at a whole scan in a process of their own: nnU-Net v2, MONAI bundles."""

from __future__ import annotations

from dataclasses import dataclass

import nibabel as nib
import numpy as np

from mskd.cases import Case
from mskd.errors import MskdError
from mskd.prepared import PreparedCase
from mskd.scans import read_scan
from mskd.teachers.base import TeacherTargets
from mskd.teachers.case_errors import about
from mskd.teachers.exchange import room
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
        names: What its description calls its channels; None where it does not say.
    """

    runner: Runner
    organs: list[str]
    channels: list[list[int]]
    activation: str
    digest: str
    names: list[str] | None = None

    @property
    def versions(self) -> dict[str, str]:
        """Versions of the tool."""
        return self.runner.versions

    def targets(self, case: PreparedCase, raw: Case) -> TeacherTargets:
        """Return margins on the study grid; there are no features.

        Raises:
            DataError: If it cannot answer.
        """
        scan, affine = read_scan(raw.image, raw.id)
        given, out = self.runner.place(".nii"), self.runner.place(".npy")
        try:
            with about(raw, self.runner.teacher):
                with room():
                    nib.save(nib.Nifti1Image(np.asarray(scan, np.float32), affine), given)
                del scan
                answer = self.runner.ask({"scan": str(given), "affine": affine.tolist(), "out": str(out)})
                scores = np.load(out, mmap_mode="r")
                self._require_channels(len(scores))
                activation = "sigmoid" if self.activation == "sigmoid" else "softmax"
                found = ForeignScores(scores, np.asarray(answer["to_grid"], float), activation)  # type: ignore[arg-type]
                margins = study_margins(found, case.geometry, self.channels)
                if not np.isfinite(margins).all():
                    raise MskdError("scores that are no numbers (NaN or infinite)")
                return TeacherTargets(margins, {}, {})
        finally:
            for path in (given, out):
                path.unlink(missing_ok=True)

    def _require_channels(self, n_channels: int) -> None:
        if self.names is not None and n_channels != len(self.names):
            raise MskdError(
                f"a network of {n_channels} channels: {', '.join(str(n) for n in range(n_channels))}\n"
                f"whose description names {len(self.names)}: {', '.join(self.names)}\n"
                "  way out:  correct the names in the model's description (of a bundle `channel_def` in "
                "configs/metadata.json); without them `classes` names channels by number"
            )
