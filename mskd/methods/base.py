"""What every method is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor, nn

from mskd.config.distillation import Distillation
from mskd.config.model import Network
from mskd.config.training import Training
from mskd.losses.supervision import supervised_loss
from mskd.networks.unet import UNet
from mskd.training.loop import Loss
from mskd.training.patches import Batch, PatchNeeds

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
        tap_channels: Teacher → tap → channels of the cached features.
        tap_strides: Tap → stride.
        components: Teachers and taps whose cached features are principal components.
    """

    organs: list[str]
    network: Network
    training: Training
    distillation: Distillation
    owned: dict[str, list[int]] = field(default_factory=dict)
    tap_channels: dict[str, dict[str, int]] = field(default_factory=dict)
    tap_strides: dict[str, Triple] = field(default_factory=dict)
    components: frozenset[tuple[str, str]] = frozenset()

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
