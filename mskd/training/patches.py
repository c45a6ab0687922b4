"""Random patches with everything that a loss may ask for, a pure function of seed and sample index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mskd.config.training import Training
from mskd.prepared import normalise
from mskd.training.augmentation import (
    SpatialChange,
    change_intensity,
    draw_spatial,
    resample,
    source_box,
    source_positions,
    turn,
)
from mskd.training.cases import TrainingCase

Triple = tuple[int, int, int]
IGNORE = 255
WHOLE = 0.999


@dataclass(frozen=True)
class PatchNeeds:
    """What a method reads beside image and labels.

    Attributes:
        labels: "labels", or "withheld_labels" for full supervision.
        logits: Whether the teachers' margins are read.
        taps: Taps whose features are read, with their strides.
        align: Patches start at multiples of this many voxels (the coarsest stride of the taps).
    """

    labels: str = "labels"
    logits: bool = False
    taps: dict[str, Triple] | None = None
    align: Triple = (1, 1, 1)


@dataclass
class Batch:
    """A batch of patches.

    Attributes:
        image: Normalised intensities (B, 1, X, Y, Z).
        labels: Study values, 255 = judged by nobody, uint8 (B, X, Y, Z).
        labelled: Organs that each sample's dataset labels, bool (B, K).
        margins: Teachers' margins, one channel per (teacher, organ), (B, P, X, Y, Z); None if not needed.
        features: (teacher, tap) → (B, C, x, y, z).
        kept: (teacher, tap) → cells whose features are known, bool (B, 1, x, y, z); without an entry all are.
        spoken: Channels of `margins` that a teacher said anything in, bool (B, P); None where all are.
    """

    image: Tensor
    labels: Tensor
    labelled: Tensor
    margins: Tensor | None
    features: dict[tuple[str, str], Tensor]
    kept: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    spoken: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        return Batch(
            self.image.to(device, non_blocking=True),
            self.labels.to(device, non_blocking=True),
            self.labelled.to(device, non_blocking=True),
            None if self.margins is None else self.margins.to(device, non_blocking=True),
            {key: value.to(device, non_blocking=True) for key, value in self.features.items()},
            {key: value.to(device, non_blocking=True) for key, value in self.kept.items()},
            None if self.spoken is None else self.spoken.to(device, non_blocking=True),
        )


class PatchDataset(Dataset[Batch]):
    """Sample i of a run; every sample is drawn from its own random generator."""

    def __init__(
        self,
        cases: Sequence[TrainingCase],
        settings: Training,
        *,
        n_organs: int,
        spacing_mm: tuple[float, float, float],
        hu_clip: tuple[float, float],
        seed: int,
        needs: PatchNeeds,
        voices: dict[str, int] | None = None,
    ) -> None:
        """Prepare sampling; datasets are drawn evenly, then their cases evenly.

        Args:
            cases: What patches are cut from.
            settings: Size, sampling and augmentation.
            n_organs: K.
            spacing_mm: Of the study grid.
            hu_clip: Of the study.
            seed: Of all draws.
            needs: What patches hold.
            voices: Teacher → number of its margins; teachers that some cases lack get channels of zeros there.
        """
        self.voices = voices or {}
        self.partial = (
            any(set(case.targets) != set(self.voices) for case in cases) if needs.logits and voices else False
        )
        self.settings, self.needs, self.seed = settings, needs, seed
        self.n_organs, self.spacing_mm, self.hu_clip = n_organs, spacing_mm, hu_clip
        self.by_dataset: dict[str, list[TrainingCase]] = {}
        for case in cases:
            self.by_dataset.setdefault(case.dataset, []).append(case)

    def __len__(self) -> int:
        return self.settings.steps * self.settings.batch_size

    def __getitem__(self, index: int) -> Batch:
        """Return sample `index` as a batch of one."""
        rng = np.random.default_rng([self.seed, index])
        datasets = sorted(self.by_dataset)
        dataset = self.by_dataset[datasets[int(rng.integers(len(datasets)))]]
        case = dataset[int(rng.integers(len(dataset)))]
        start = self._place(rng, case)
        change = draw_spatial(rng, self.settings.augmentation, self.settings.patch_size, self.spacing_mm)
        image, labels, margins, features, kept = self._cut(case, start, change)
        image = change_intensity(image, rng, self.settings.augmentation, self.spacing_mm)
        labelled = torch.zeros((1, self.n_organs), dtype=torch.bool)
        labelled[0, [value - 1 for value in case.labelled]] = True
        return Batch(
            image[None],
            labels[None],
            labelled,
            None if margins is None else margins[None],
            {key: value[None] for key, value in features.items()},
            {key: value[None] for key, value in kept.items()},
            self._spoken(case),
        )

    def _spoken(self, case: TrainingCase) -> Tensor | None:
        if not self.partial:
            return None
        said = [name in case.targets for name, channels in self.voices.items() for _ in range(channels)]
        return torch.tensor([said])

    def _place(self, rng: np.random.Generator, case: TrainingCase) -> Triple:
        """Draw the first voxel of a patch, a multiple of `align`: around a labelled voxel, or anywhere.

        Every voxel of the volume is in some patch; one at the far end leaves the volume by less than `align`.
        """
        shape, size, align = case.prepared.shape, self.settings.patch_size, self.needs.align
        low = [-(max(0, p - n) // a) * a for n, p, a in zip(shape, size, align, strict=True)]
        high = [-(-max(0, n - p) // a) * a for n, p, a in zip(shape, size, align, strict=True)]
        anywhere = rng.uniform(0, 1, 3)
        wants_organ, which, voxel = rng.random(3)
        foreground = case.prepared.foreground
        if wants_organ < self.settings.foreground_share and foreground:
            values = sorted(foreground)
            voxels = foreground[values[int(which * len(values))]]
            centre = voxels[int(voxel * len(voxels))]
            place = [int(c) - p // 2 for c, p in zip(centre, size, strict=True)]
        else:
            counts = [(hi - lo) // a + 1 for lo, hi, a in zip(low, high, align, strict=True)]
            place = [lo + int(u * n) * a for u, n, lo, a in zip(anywhere, counts, low, align, strict=True)]
        place = [min(max(p, lo), hi) for p, lo, hi in zip(place, low, high, strict=True)]
        aligned = [(p + a // 2) // a * a for p, a in zip(place, align, strict=True)]
        return aligned[0], aligned[1], aligned[2]

    def _cut(
        self, case: TrainingCase, start: Triple, change: SpatialChange
    ) -> tuple[Tensor, Tensor, Tensor | None, dict[tuple[str, str], Tensor], dict[tuple[str, str], Tensor]]:
        size = self.settings.patch_size
        positions = None
        box_start, box_size = (0, 0, 0), size
        if change.resamples:
            positions = source_positions(change, size)
            box_start, box_size = source_box(positions, self.needs.align)
        first = [s + b for s, b in zip(start, box_start, strict=True)]
        low, high = self.hu_clip

        def move(parts: list[Tensor], stride: Triple = (1, 1, 1), *, nearest: bool = False) -> list[Tensor]:
            # one call for all channels of a grid: where values are interpolated from is computed once
            values = torch.cat(parts) if len(parts) > 1 else parts[0]
            if positions is not None:
                values = resample(values.float(), positions, box_start, stride, nearest=nearest)
            return list(torch.split(turn(values, change).contiguous(), [len(part) for part in parts]))

        hu = case.patch("image", first, box_size, low)
        full = [torch.from_numpy(normalise(hu, (low, high)))[None]]
        if self.needs.logits:
            full += [torch.from_numpy(case.target_patch(name, "logits", first, box_size)) for name in case.targets]
        image, *margins = move(full)
        found = torch.from_numpy(case.patch(self.needs.labels, first, box_size, IGNORE))[None]
        labels = move([found], nearest=True)[0].to(torch.uint8)[0]
        features, kept = {}, {}
        for tap, stride in (self.needs.taps or {}).items():
            where = [f // s for f, s in zip(first, stride, strict=True)]
            small = [n // s for n, s in zip(box_size, stride, strict=True)]
            names = [name for name in case.targets if tap in case.stores[name].strides]
            values = [torch.from_numpy(case.target_patch(name, tap, where, small)) for name in names]
            cells = [torch.from_numpy(case.stores[name].kept(tap, where, small))[None].float() for name in names]
            moved = move([*values, *cells], stride)
            features.update({(name, tap): value for name, value in zip(names, moved, strict=False)})
            # a cell counts where everything that it was interpolated from is there
            known = moved[len(values) :]
            kept.update({(name, tap): cell > WHOLE for name, cell in zip(names, known, strict=True)})
        return image, labels, self._all_voices(case, image, margins), features, kept

    def _all_voices(self, case: TrainingCase, image: Tensor, margins: list[Tensor]) -> Tensor | None:
        """Return the margins of all teachers in the order of `voices`, zeros for those that say nothing of a case."""
        if not self.needs.logits:
            return None
        if not self.partial:
            return torch.cat(margins) if margins else None
        said = dict(zip(case.targets, margins, strict=True))
        return torch.cat([said.get(name, image.new_zeros((n, *image.shape[1:]))) for name, n in self.voices.items()])


def collate(samples: list[Batch]) -> Batch:
    """Join batches of one."""
    first = samples[0]
    return Batch(
        torch.cat([s.image for s in samples]),
        torch.cat([s.labels for s in samples]),
        torch.cat([s.labelled for s in samples]),
        None if first.margins is None else torch.cat([s.margins for s in samples if s.margins is not None]),
        {key: torch.cat([s.features[key] for s in samples]) for key in first.features},
        {key: torch.cat([s.kept[key] for s in samples]) for key in first.kept},
        None if first.spoken is None else torch.cat([s.spoken for s in samples if s.spoken is not None]),
    )
