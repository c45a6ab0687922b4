"""MS-KD: region-wise distillation from one teacher per dataset, by logits and by features.

Reconstructed from the description in arXiv 2108.02559 (its equations are not available); every open choice is a key of
`distillation` and is ablated. Loss = supervision on the labelled organs + λ logits-wise + λ feature-wise terms, the
last two in the organ region of each teacher and in the background on which all teachers agree. No teacher is loaded:
everything comes from the cached targets.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from mskd.config.distillation import Distillation
from mskd.errors import ConfigError
from mskd.losses.distillation import feature_loss, logit_loss, region_at_level
from mskd.margins import margins
from mskd.methods.base import Built, MethodContext, deep_supervised
from mskd.networks.unet import UNet
from mskd.regions import Regions, find_regions
from mskd.training.patches import Batch, PatchNeeds

TITLE = "MS-KD"
TRAINS = True
NEEDS = ["targets", "features", "distillation"]


def build(context: MethodContext) -> Built:
    """Return the network, its loss, and the projections φ that are thrown away after training."""
    settings = context.distillation
    network = UNet(context.network, context.channels)
    taps = _feature_taps(context)
    projections = nn.ModuleDict(
        {
            _name(teacher, tap): nn.Conv3d(network.tap_channels(tap), channels[tap], 1)
            for teacher, channels in context.tap_channels.items()
            for tap in taps
            if tap in channels
        }
    )

    def loss(batch: Batch, step: int) -> dict[str, Tensor]:
        scores, features = network.run(batch.image, list(taps), deep=context.network.deep_supervision)
        finest = scores[0].float()
        student = margins(finest)
        terms = {}
        if settings.supervised_weight:
            supervised = deep_supervised(scores, batch.labels, batch.labelled, context.training, student)
            terms["supervised"] = settings.supervised_weight * supervised
        regions = _regions(batch, context)
        ramp = min(1.0, (step + 1) / settings.ramp_steps) if settings.ramp_steps else 1.0
        if settings.logit_weight:
            organs = None if settings.distil_labelled else ~batch.labelled
            for name, term in _logit_terms(finest, student, regions, settings, organs).items():
                terms[name] = ramp * settings.logit_weight * term
        if taps:
            for name, term in _feature_terms(features, batch, regions, projections, context, taps).items():
                terms[name] = ramp * settings.feature_weight * term
        return terms

    align = tuple(max([1, *(stride[axis] for stride in taps.values())]) for axis in range(3))
    needs = PatchNeeds(logits=True, taps=taps, align=(align[0], align[1], align[2]))
    return Built(network, loss, needs, projections)


def _regions(batch: Batch, context: MethodContext) -> Regions:
    if batch.margins is None:
        raise ValueError("MS-KD needs the teachers' margins")
    settings = context.distillation
    return find_regions(
        batch.margins,
        context.margin_organs,
        batch.labels,
        batch.labelled,
        n_organs=len(context.organs),
        source=settings.region_source,
        conflict=settings.conflict,
        combine=settings.combine,
        spoken=batch.spoken,
        weights=context.voice_weights,
        disagreement=settings.settled_by,
        veto_share=settings.veto_share,
    )


def _logit_terms(
    scores: Tensor, student: Tensor, regions: Regions, settings: Distillation, organs: Tensor | None
) -> dict[str, Tensor]:
    return logit_loss(
        scores,
        regions,
        temperature=settings.temperature,
        form=settings.form,
        hard=settings.hard_targets,
        use=settings.logit_regions,
        organ_weight=settings.organ_region_weight,
        background_weight=settings.background_region_weight,
        normalisation=settings.normalisation,
        dice_weight=settings.dice_weight,
        organs=organs,
        student=student,
    )


def _feature_terms(
    features: dict[str, Tensor],
    batch: Batch,
    regions: Regions,
    projections: nn.ModuleDict,
    context: MethodContext,
    taps: dict[str, tuple[int, int, int]],
) -> dict[str, Tensor]:
    """Return one term per tap, the sum over teachers."""
    settings = context.distillation
    terms: dict[str, Tensor] = {}
    standardised = settings.feature_normalisation == "channel"
    for tap, stride in taps.items():
        total = batch.image.new_zeros(())
        teachers = _featured(context, tap)
        for teacher, projected in zip(teachers, _project(features[tap], projections, teachers, tap), strict=True):
            mask = region_at_level(regions, context.owned[teacher], stride, settings.feature_regions)
            total = total + feature_loss(
                projected.float(),
                batch.features[teacher, tap],
                mask,
                kept=batch.kept.get((teacher, tap)),
                distance=settings.feature_distance,
                normalisation="joint"
                if standardised and (teacher, tap) in context.components
                else settings.feature_normalisation,
            )
        terms[f"feature_{tap}"] = total
    return terms


def _featured(context: MethodContext, tap: str) -> list[str]:
    """Return the teachers whose features of a tap are cached; those that exist already have none."""
    return [teacher for teacher in context.owned if tap in context.tap_channels.get(teacher, {})]


def _project(feature: Tensor, projections: nn.ModuleDict, teachers: list[str], tap: str) -> list[Tensor]:
    """Return φ of every teacher, computed as one convolution."""
    layers = cast(list[nn.Conv3d], [projections[_name(teacher, tap)] for teacher in teachers])
    weight, bias = (torch.cat([getattr(layer, name) for layer in layers]) for name in ("weight", "bias"))
    joined = functional.conv3d(feature, weight, bias)
    return list(torch.split(joined, [layer.out_channels for layer in layers], 1))


def _feature_taps(context: MethodContext) -> dict[str, tuple[int, int, int]]:
    if context.distillation.feature_weight == 0:
        return {}
    wanted = context.distillation.feature_taps
    if missing := set(wanted or []) - set(context.tap_strides):
        raise ConfigError(
            f"distillation.feature_taps names {', '.join(sorted(missing))}, which the cache does not hold; "
            f"write `cache: {{taps: [{', '.join([*context.tap_strides, *sorted(missing)])}]}}`"
        )
    return {tap: s for tap, s in context.tap_strides.items() if wanted is None or tap in wanted}


def _name(teacher: str, tap: str) -> str:
    return f"{teacher}-{tap}".replace(".", "%")  # torch allows no dot, study files no percent sign
