"""DoDNet: a head that is made on demand, from the task and the image.

J. Zhang, Y. Xie, Y. Xia, C. Shen, *DoDNet: learning to segment multi-organ and tumors from multiple partially labeled
datasets*, CVPR 2021 (arXiv 2011.10217). With F the bottleneck, M the decoder's features brought to 8 channels, t the
one-hot code of the task and ω the weights of three 1 × 1 × 1 convolutions (ReLU between them):

    ω = controller(GAP(F) ‖ t),   s^t = ((M * ω₁) * ω₂) * ω₃,   L = CE(softmax(s^t), y) + Dice(softmax(s^t), y)

in the form that `training.loss` says. A task is a set of organs that datasets label (datasets with the same organs
share it). Where the paper has two sigmoids per task, organ and tumour, ω₃ has background and the organs of the largest
set, and a smaller set uses the first of them: with one organ, 162 parameters as there. Inference is one backbone pass
and a head per task, merged as the nets of `individual` are. There is no deep supervision: only the finest level has a
head. Our backbone ends in InstanceNorm where the paper's has GroupNorm, so GAP(F) says less about the image than there.
"""

from __future__ import annotations

from torch import Tensor

from mskd.methods.base import Built, MethodContext, head_of, own_head_loss
from mskd.networks.dodnet import DoDNet
from mskd.training.patches import Batch

TITLE = "DoDNet"
TRAINS = True
NEEDS = ["organ_sets"]


def build(context: MethodContext) -> Built:
    """Return the network and its loss: supervision of every sample through the head of its dataset's task."""
    network = DoDNet(context.network, context.organ_sets, context.channels)

    def loss(batch: Batch, step: int) -> dict[str, Tensor]:
        features, pooled = network.describe_image(batch.image)
        scores = network.head(features, pooled, head_of(batch.labelled, context.organ_sets))
        starts = [0] * len(context.organ_sets)
        return {"supervised": own_head_loss([scores], starts, batch, context.organ_sets, context.training)}

    return Built(network, loss)
