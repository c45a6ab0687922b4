"""Networks that are windows in and scores out: ONNX, torch.export, model folders of another study."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mskd.cases import Case
from mskd.config.model import Preprocessing
from mskd.errors import MskdError
from mskd.geometry import Affine
from mskd.inference import Windows, sliding_window
from mskd.preparation import prepare_arrays
from mskd.prepared import PreparedCase, normalise
from mskd.scans import read_scan
from mskd.teachers.base import TeacherTargets
from mskd.teachers.case_errors import about
from mskd.teachers.foreign import ForeignScores, study_margins

Forward = Callable[[Tensor], tuple[Tensor, dict[str, Tensor]]]
SPEC = "preprocessing.json"


@dataclass(frozen=True)
class Spec:
    """How scans are prepared for a network, and what its channels are.

    Attributes:
        preprocessing: Spacing, clip, crop, in RAS.
        windows: Sliding window.
        centre_hu: What becomes 0.
        half_range_hu: What becomes 1 above the centre.
        channels: Names of the channels.
    """

    preprocessing: Preprocessing
    windows: Windows
    centre_hu: float
    half_range_hu: float
    channels: list[str]


@dataclass
class WindowedTeacher:
    """A network with the preprocessing that it was made for, run in our sliding window.

    Attributes:
        forward: Windows (B, 1, x, y, z) → scores.
        spec: How scans are prepared for it.
        organs: Organs that it owns.
        of_organs: For each organ the channels of its classes.
        digest: Of its files.
        activation: softmax or sigmoid.
        device: Where windows are put.
        versions: Of the tool that runs it, where that is another one.
        name: For messages.
        twice: Whether a single window may go in twice (`sliding_window`).
    """

    forward: Forward
    spec: Spec
    organs: list[str]
    of_organs: list[list[int]]
    digest: str
    activation: Literal["softmax", "sigmoid"] = "softmax"
    device: torch.device | str = "cpu"
    versions: dict[str, str] = field(default_factory=dict)
    name: str = "(a model folder)"
    twice: bool = True

    def targets(self, case: PreparedCase, raw: Case) -> TeacherTargets:
        """Return margins on the study grid; there are no features.

        Raises:
            DataError: If it cannot answer.
        """
        scan, affine = read_scan(raw.image, raw.id)
        with about(raw, self.name):
            found = self.scores(scan, affine)
            return TeacherTargets(study_margins(found, case.geometry, self.of_organs), {}, {})

    def try_out(self) -> None:
        """Run the network on one made window, so that a wrong one is noticed before any scan is read.

        Raises:
            MskdError: If it gives something else than scores of its channels.
        """
        window = torch.linspace(-1, 1, int(np.prod(self.spec.windows.size))).reshape(1, 1, *self.spec.windows.size)
        with torch.inference_mode():
            self.forward(window.to(self.device))

    def scores(self, scan_hu: npt.NDArray[Any], affine: Affine) -> ForeignScores:
        """Return the network's scores of a raw scan on its own grid."""
        prepared = prepare_arrays(scan_hu, affine, None, None, self.spec.preprocessing)
        image = self._normalised(prepared.image)
        outputs = sliding_window(
            self.forward, image, self.spec.windows, body=prepared.body, device=self.device, twice=self.twice
        )
        to_grid = np.linalg.inv(prepared.geometry.affine) @ affine
        return ForeignScores(outputs.scores, to_grid, self.activation)

    def _normalised(self, image_hu: npt.NDArray[np.int16]) -> npt.NDArray[np.float32]:
        low, high = self.spec.preprocessing.hu_clip
        if (self.spec.centre_hu, self.spec.half_range_hu) == ((low + high) / 2, (high - low) / 2):
            return normalise(image_hu, (low, high))
        scaled = (np.clip(image_hu, low, high).astype(np.float32) - self.spec.centre_hu) / self.spec.half_range_hu
        return np.asarray(scaled, np.float32)


def spec_file(path: Path, named: Path | None) -> Path:
    """Return the preprocessing of a network file.

    Raises:
        MskdError: If one of the two files is missing.
    """
    found = named or path.parent / SPEC
    for file in (path, found):
        if not file.is_file():
            raise MskdError(
                f"{file}: no such file\n  expected: a network, and how scans are prepared for it\n"
                "  way out:  correct `path` or `preprocessing` of this teacher; `mskd export` writes both"
            )
    return found


def read_spec(path: Path) -> Spec:
    """Read a `preprocessing.json` as `mskd export` writes it; of one written by hand the keys below are enough.

    `channels`, `spacing_mm`, `normalisation.low_hu` and `.high_hu`, `sliding_window.window`; and, if wanted,
    `normalisation.centre_hu` and `.half_range_hu`, `sliding_window.overlap` and `.stride`, `resampling.antialias`,
    `body.crop`, `.margin_mm` and `.threshold_hu`. Axes are RAS.

    Raises:
        MskdError: If it cannot be used.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        normalisation, sliding, body = data["normalisation"], data["sliding_window"], data.get("body", {})
        low, high = float(normalisation["low_hu"]), float(normalisation["high_hu"])
        orientation = data.get("axes", {}).get("orientation", "RAS")
        if orientation != "RAS":
            raise ValueError(f"axes {orientation}; write RAS, or turn the network's input and output")
        own = {"crop_to_body": body.get("crop"), "crop_margin_mm": body.get("margin_mm")}
        own |= {"body_threshold_hu": body.get("threshold_hu"), "antialias": data.get("resampling", {}).get("antialias")}
        preprocessing = Preprocessing(
            spacing_mm=tuple(data["spacing_mm"]),
            hu_clip=(low, high),
            **{name: value for name, value in own.items() if value is not None},
        )
        window, stride = (tuple(int(n) for n in sliding.get(name, (1, 1, 1))) for name in ("window", "stride"))
        if "window" not in sliding:
            raise KeyError("sliding_window.window")
        return Spec(
            preprocessing,
            Windows(window, float(sliding.get("overlap", 0.5)), stride),  # type: ignore[arg-type]
            float(normalisation.get("centre_hu", (low + high) / 2)),
            float(normalisation.get("half_range_hu", (high - low) / 2)),
            [str(name) for name in data["channels"]],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise MskdError(
            f"{path} is no preprocessing of a network ({type(error).__name__}: {error})\n"
            "  expected: what `mskd export` writes, or at least channels, spacing_mm, normalisation (low_hu, high_hu) "
            "and sliding_window (window)"
        ) from error
