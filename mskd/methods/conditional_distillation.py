"""Conditional distillation (CondDist): teachers' probabilities on condition that a voxel is no labelled organ.

P. Wang, C. Shen, W. Wang, et al., *ConDistFL: conditional distillation for federated learning from partially annotated
data*, DeCaF at MICCAI 2023 (arXiv 2308.04070). With the organs S that a case's dataset labels, z the teachers' scores
(background 0, organs their margins) and s the student's:

    p_c = exp(z_c / τ) / Σ_{d ∉ S} exp(z_d / τ),   q_c = exp(s_c / τ) / Σ_{d ∉ S} exp(s_d / τ),   c ∉ S
    L = λ_sup (marginal CE + Dice on S)  +  λ Σ_c ( 1 − 2 Σ p q / (Σ p² + Σ q²) )

the sums over voxels where neither ground truth nor the teachers' best class is in S. There the teacher is the global
model of a federation, here the single-organ nets, whose margins become one softmax. Squares in the denominator let
equal soft maps have distance 0; classes are summed, as in every method's loss, where the authors take their mean.

Of `distillation` it reads temperature, logit_weight (λ), supervised_weight, ramp_steps and combine. The paper's τ = 2
is this method's default, whatever the study's section says; a row may change it. Like every row's it has to lie in
`cache.temperatures`, for which the cache bounds the error of its margins.
"""

from __future__ import annotations

from torch import Tensor

from mskd.losses.conditional import conditional_loss
from mskd.methods.base import Built, MethodContext, deep_supervised
from mskd.networks.unet import UNet
from mskd.regions import combine_teachers
from mskd.training.patches import Batch, PatchNeeds

TITLE = "conditional distillation"
TRAINS = True
NEEDS = ["targets", "distillation"]
DISTILLATION = {"temperature": 2.0}


def build(context: MethodContext) -> Built:
    """Return the network and its loss: merged supervision by labels, conditional distillation of the other organs."""
    settings = context.distillation
    network = UNet(context.network, context.channels)
    training = context.training.model_copy(update={"loss": "marginal"})

    def loss(batch: Batch, step: int) -> dict[str, Tensor]:
        if batch.margins is None:
            raise ValueError("conditional distillation needs the teachers' margins")
        scores, _ = network.run(batch.image, deep=context.network.deep_supervision)
        supervised = deep_supervised(scores, batch.labels, batch.labelled, training)
        margin, taught, _ = combine_teachers(
            batch.margins,
            context.margin_organs,
            len(context.organs),
            settings.combine,
            spoken=batch.spoken,
            weights=context.voice_weights,
        )
        distance = conditional_loss(
            scores[0].float(), margin, taught, batch.labels, batch.labelled, temperature=settings.temperature
        )
        ramp = min(1.0, (step + 1) / settings.ramp_steps) if settings.ramp_steps else 1.0
        return {
            "supervised": settings.supervised_weight * supervised,
            "conditional": ramp * settings.logit_weight * distance,
        }

    return Built(network, loss, PatchNeeds(logits=True))
