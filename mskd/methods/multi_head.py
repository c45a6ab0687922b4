"""Multi-head: one network, a head for each dataset; a sample teaches the head of its own dataset alone.

S. Chen, K. Ma, Y. Zheng, *Med3D: transfer learning for 3D medical image analysis*, 2019 (arXiv 1904.00625), whose
branches share an encoder; with the decoder shared too and a segmentation layer per dataset as in C. Ulrich et al.,
*MultiTalent*, MICCAI 2023, so that the network is as large as those of the other rows. For a sample of a dataset that
labels the organs S, with s^S the scores of that dataset's head (background and S):

    L = CE(softmax(s^S), y) + Dice(softmax(s^S), y)

in the form that `training.loss` says. Inference is one forward pass; the heads are merged as the nets of `individual`
are: organ k gets its margin in the head that has it, or the mean where several have, background 0. Datasets that label
the same organs share a head: its labels mean the same. No head learns where other heads' organs are.
"""

from __future__ import annotations

from torch import Tensor

from mskd.methods.base import Built, MethodContext, own_head_loss
from mskd.networks.multi_head import MultiHead
from mskd.training.patches import Batch

TITLE = "multi-head"
TRAINS = True
NEEDS = ["organ_sets"]


def build(context: MethodContext) -> Built:
    """Return the network and its loss: supervision of every sample through its dataset's head."""
    network = MultiHead(context.network, context.organ_sets, context.channels)

    def loss(batch: Batch, step: int) -> dict[str, Tensor]:
        scores, _ = network.run(batch.image, deep=context.network.deep_supervision)
        supervised = own_head_loss(scores, network.first_channels, batch, context.organ_sets, context.training)
        return {"supervised": supervised}

    return Built(network, loss)
