"""Co-training: two networks that teach each other the organs that a scan's dataset does not label.

R. Huang, Y. Zheng, Z. Hu, S. Zhang, H. Li, *Multi-organ segmentation via co-training weight-averaged models from
few-organ datasets*, MICCAI 2020 (arXiv 2008.07149). Single-organ teachers give pseudo-labels y' of the missing organs
(as in `self_training`). Networks A and B start differently and see the same patches; Ā and B̄ are the exponential
moving averages of their weights. For A, and for B with the roles exchanged:

    L_A = CE + Dice(A, y') + λ(t) Σ_{k unlabelled} mean over R_k of KL( Bernoulli(sg b̄_k) ‖ Bernoulli(a_k) )

a_k and b̄_k are the probabilities of organ k that A and B̄ give, sg stops gradients, and R_k is the pseudo-label of k,
dilated: elsewhere there is nothing to agree on but background. A becomes the model; B, Ā and B̄ are thrown away, so
inference costs what it costs for every other row, and training about three times as much. The limit of
`training.gradient_clip` is on the gradient of both networks together.

Divergence, dilation, decay and ramp are our choice of what the paper's summary leaves open. An average begins as its
network and follows with a warm-up of the decay, so that short trainings do not learn from their first steps.
"""

from __future__ import annotations

from copy import deepcopy
from math import exp

import torch
from torch import Tensor, nn
from torch.nn import functional

from mskd.losses.distillation import bernoulli_kl
from mskd.losses.supervision import masked_mean
from mskd.margins import margins
from mskd.methods.base import Built, MethodContext, deep_supervised
from mskd.methods.self_training import pseudo_labels
from mskd.networks.unet import UNet
from mskd.training.patches import IGNORE, Batch, PatchNeeds

TITLE = "co-training"
TRAINS = True
NEEDS = ["targets"]
COMPANIONS = {"learning": 1, "following": 2}
DECAY = 0.99
DILATION = 3  # voxels of the study grid
RAMP_SHARE = 0.25  # of the steps: until then the averages have little to teach


def build(context: MethodContext) -> Built:
    """Return network A, the loss of both networks, and B with both averages, which are thrown away."""
    network = UNet(context.network, context.channels)
    other = UNet(context.network, context.channels)
    average, other_average = (deepcopy(net).requires_grad_(False) for net in (network, other))
    auxiliary = nn.ModuleDict({"other": other, "average": average, "other_average": other_average})

    def loss(batch: Batch, step: int) -> dict[str, Tensor]:
        # before a step, so that a training that goes on from a checkpoint has the same averages
        decay = min(DECAY, (1 + step) / (10 + step))
        follow(average, network, decay)
        follow(other_average, other, decay)
        labels, known = pseudo_labels(batch, context.margin_organs, len(context.organs))
        region = taught_region(labels, batch.labelled, DILATION)
        weight = peer_weight(step, context.training.course_steps)
        terms = {}
        for suffix, net, peer in (("", network, other_average), ("_other", other, average)):
            scores, _ = net.run(batch.image, deep=context.network.deep_supervision)
            with torch.no_grad():
                said = margins(peer(batch.image).float())
            own = margins(scores[0].float())
            terms[f"supervised{suffix}"] = deep_supervised(scores, labels, known, context.training, own)
            terms[f"peer{suffix}"] = weight * peer_loss(own, said, region)
        return terms

    return Built(network, loss, PatchNeeds(logits=True), auxiliary)


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the weights of an average towards those of its network: w̄ ← decay · w̄ + (1 − decay) · w."""
    now = network.state_dict()
    for name, kept in average.state_dict().items():
        kept.lerp_(now[name], 1 - decay)


def taught_region(labels: Tensor, labelled: Tensor, voxels: int) -> Tensor:
    """Return where an organ without ground truth may be: its pseudo-label, dilated along every axis.

    Args:
        labels: Study values, pseudo-labels included, 255 = judged by nobody, (B, X, Y, Z).
        labelled: Organs that each case's dataset labels, bool (B, K).
        voxels: Reach of the dilation.

    Returns:
        Bool (B, K, X, Y, Z).
    """
    values = torch.arange(1, labelled.shape[1] + 1, dtype=labels.dtype, device=labels.device).view(1, -1, 1, 1, 1)
    wide = ((labels[:, None] == values) & ~labelled[:, :, None, None, None]).float()
    for axis in range(3):  # one axis after another: 3 · 7 instead of 7³ comparisons per voxel
        size = [1, 1, 1]
        size[axis] = 2 * voxels + 1
        wide = functional.max_pool3d(wide, tuple(size), 1, tuple(n // 2 for n in size))
    return (wide > 0) & (labels != IGNORE)[:, None]


def peer_loss(own: Tensor, said: Tensor, region: Tensor) -> Tensor:
    """Return the Bernoulli KL to a peer's soft labels, mean over each organ's region, summed, mean over the batch.

    Args:
        own: Margins (B, K, X, Y, Z).
        said: Margins of the peer's average; no gradient flows into them.
        region: Voxels that count, bool (B, K, X, Y, Z); an empty one gives 0.
    """
    return masked_mean(bernoulli_kl(said, own), region).sum(1).mean()


def peer_weight(step: int, steps: int) -> float:
    """Return λ(t) = exp(−5 (1 − t)²), t from 0 to 1 over the first quarter of the training, then 1."""
    t = min(1.0, step / max(1.0, RAMP_SHARE * steps))
    return exp(-5 * (1 - t) ** 2)
