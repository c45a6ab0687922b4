"""What every method is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mskd.config.distillation import Distillation
from mskd.config.model import Network
from mskd.config.training import Training
from mskd.losses.supervision import supervised_loss
from mskd.networks.unet import UNet
from mskd.training.loop import Loss
from mskd.training.patches import IGNORE, Batch, PatchNeeds

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class MethodContext:
    """What a method may know of the study.

    Attributes:
        organs: Organs of the student, in the order of its channels.
        network: Network keys.
        training: Training keys of this row.
        distillation: Distillation keys of this row.
        owned: Teacher → its organs as indices 0 … K − 1, in the order of its margins.
        voice_weights: Of each channel of `Batch.margins`, where `combine: validation_dice` wants them; else None.
        tap_channels: Teacher → tap → channels of the cached features.
        tap_strides: Tap → stride.
        components: Teachers and taps whose cached features are principal components.
        organ_sets: What the training datasets label: every different set of organs 0 … K − 1 once, in ascending order.
    """

    organs: list[str]
    network: Network
    training: Training
    distillation: Distillation
    owned: dict[str, list[int]] = field(default_factory=dict)
    tap_channels: dict[str, dict[str, int]] = field(default_factory=dict)
    tap_strides: dict[str, Triple] = field(default_factory=dict)
    components: frozenset[tuple[str, str]] = frozenset()
    organ_sets: list[list[int]] = field(default_factory=list)
    voice_weights: list[float] | None = None

    @property
    def channels(self) -> int:
        """Output channels of the student: background and organs."""
        return 1 + len(self.organs)

    @property
    def margin_organs(self) -> list[int]:
        """Organ of each channel of `Batch.margins`."""
        return [organ for organs in self.owned.values() for organ in organs]


@dataclass
class Built:
    """A method ready to train.

    Attributes:
        network: Becomes the model.
        loss: Batch and step → weighted terms.
        needs: What patches have to hold.
        auxiliary: Learns along, is thrown away.
    """

    network: nn.Module
    loss: Loss
    needs: PatchNeeds = field(default_factory=PatchNeeds)
    auxiliary: nn.Module = field(default_factory=lambda: nn.ModuleDict())


def segmentation_terms(
    network: UNet, batch: Batch, labels: Tensor, labelled: Tensor, training: Training
) -> dict[str, Tensor]:
    """Return supervision by labels, with deep supervision where the network has it.

    Args:
        network: The network.
        batch: Patches.
        labels: Study values, 255 ignored, (B, X, Y, Z).
        labelled: Organs that count for each sample, bool (B, K).
        training: Form and weights of the loss.
    """
    deep = network.settings.deep_supervision
    scores, _ = network.run(batch.image, deep=deep)
    return {"supervised": deep_supervised(scores, labels, labelled, training)}


def deep_supervised(
    scores: list[Tensor], labels: Tensor, labelled: Tensor, training: Training, finest: Tensor | None = None
) -> Tensor:
    """Return the supervised loss over decoder levels, weights 1, 1/2, 1/4, … normalised to sum 1.

    Args:
        scores: Logits per decoder level, finest first.
        labels: Study values, 255 ignored, (B, X, Y, Z).
        labelled: Organs that count for each sample, bool (B, K).
        training: Form and weights of the loss.
        finest: Margins of the finest level, where they are known already.
    """

    def term(score: Tensor, small: Tensor, level: int) -> Tensor:
        known = None if level else finest
        form, weight = training.loss, training.dice_weight
        return supervised_loss(score, small, labelled, form=form, dice_weight=weight, student=known)

    return over_levels(scores, labels, term)


def over_levels(scores: list[Tensor], labels: Tensor, term: Callable[[Tensor, Tensor, int], Tensor]) -> Tensor:
    """Return the mean of a loss over decoder levels, weights 1, 1/2, 1/4, … normalised to sum 1.

    Args:
        scores: Logits per decoder level, finest first.
        labels: Study values, 255 ignored, (B, X, Y, Z); coarser levels see every second voxel, every fourth, ….
        term: Float32 logits of a level, its labels and its number (0 = finest) → loss.
    """
    total = sum(0.5**level for level in range(len(scores)))
    loss = scores[0].new_zeros(())
    for level, score in enumerate(scores):
        step = [n // m for n, m in zip(labels.shape[1:], score.shape[2:], strict=True)]
        small = labels[:, step[0] // 2 :: step[0], step[1] // 2 :: step[1], step[2] // 2 :: step[2]]
        loss = loss + 0.5**level / total * term(score.float(), small, level)
    return loss


def head_of(labelled: Tensor, organ_sets: list[list[int]]) -> list[int]:
    """Return which organ set each sample's dataset labels; datasets that label the same organs share a head.

    Args:
        labelled: Organs that each case's dataset labels, bool (B, K).
        organ_sets: As in `MethodContext`.

    Raises:
        ValueError: If a sample's organs are none of the sets.
    """
    rows = [[organ for organ, known in enumerate(row) if known] for row in labelled.tolist()]
    for row in rows:
        if row not in organ_sets:
            raise ValueError(f"no head for organs {row}; there are heads for {organ_sets}")
    return [organ_sets.index(row) for row in rows]


def own_head_loss(
    scores: list[Tensor], first: list[int], batch: Batch, organ_sets: list[list[int]], training: Training
) -> Tensor:
    """Return supervision of each sample through the head of its dataset alone, averaged over the batch.

    Args:
        scores: Per decoder level, finest first, the channels of all heads (B, C, X, Y, Z).
        first: For each organ set the first channel of its head, the background; its organs follow.
        batch: Patches; their labels name no organ outside their dataset's set.
        organ_sets: As in `MethodContext`.
        training: Form and weights of the loss.
    """
    heads = head_of(batch.labelled, organ_sets)
    loss = scores[0].new_zeros(())
    for head in sorted(set(heads)):
        rows, organs = [row for row, of in enumerate(heads) if of == head], organ_sets[head]
        channels = slice(first[head], first[head] + 1 + len(organs))
        everything = torch.ones((len(rows), len(organs)), dtype=torch.bool, device=batch.labels.device)
        term = deep_supervised(
            [score[rows, channels] for score in scores], _renumbered(batch.labels[rows], organs), everything, training
        )
        loss = loss + len(rows) / len(heads) * term
    return loss


def _renumbered(labels: Tensor, organs: list[int]) -> Tensor:
    """Return labels that count the organs of a set from 1 on; 255 stays."""
    numbers = torch.zeros(IGNORE + 1, dtype=labels.dtype, device=labels.device)
    numbers[IGNORE] = IGNORE
    for number, organ in enumerate(organs, start=1):
        numbers[1 + organ] = number
    return numbers[labels.long()]
