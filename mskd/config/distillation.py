"""How the student learns from the teachers' cached targets.

The paper's equations are not available; this is reconstructed from its description (arXiv 2108.02559),
and every open choice is a key.
"""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from mskd.config.faults import Fault, FaultsError
from mskd.config.section import Section, key


class Distillation(Section):
    """Region-wise supervision of the student by the cached targets (method mskd)."""

    logit_weight: float = key(1.0, "λ of the logits-wise term", ge=0)
    feature_weight: float = key(0.1, "λ of the feature-wise term", ge=0)
    temperature: float = key(
        1.0, "τ, acts on margins: σ(m / τ); rows of conditional_distillation have 2 unless they say otherwise", gt=0
    )
    form: Literal["margin", "raw", "assembled"] = key(
        "margin",
        "margin: one-vs-rest log-odds against the LSE of the student's other channels; raw: against its background "
        "channel alone; assembled: one softmax target with background 0 and the organs' margins",
    )
    targets: Literal["in_sample", "cross_fitted"] = key(
        "in_sample",
        "what a teacher says of its own training cases; cross_fitted: the margins come from a teacher that has not "
        "seen the case (see runs.parts); features stay the teacher's own, since a projection belongs to one network",
    )
    hard_targets: bool = key(False, "use the sign of the teachers' margins instead of their probability")
    logit_regions: Literal["organ", "background", "both"] = key("both", "where logits are compared")
    organ_region_weight: float = key(1.0, "weight of voxels of the organ region", ge=0)
    background_region_weight: float = key(1.0, "weight of voxels of the agreed background", ge=0)
    normalisation: Literal["supervised", "per_region"] = key(
        "supervised", "mean over all supervised voxels of a sample, or the sum of the two regions' own means"
    )
    dice_weight: float = key(1.0, "weight of the soft Dice term between student and teacher probabilities", ge=0)
    region_source: Literal["ground_truth_first", "teachers"] = key(
        "ground_truth_first", "organ regions from ground truth where there is one, or from teachers alone"
    )
    conflict: Literal["drop", "max_margin"] = key(
        "drop", "voxels that several organs claim: leave out, or give to the largest margin"
    )
    combine: Literal["mean", "most_confident", "validation_dice"] = key(
        "mean",
        "several teachers of one organ: mean margin; the most confident; or the mean weighted by each teacher's Dice "
        "on the validation cases whose dataset labels the organ (cache.splits has to hold val)",
    )
    disagreement: Literal["auto", "drop", "combined"] = key(
        "auto",
        "voxels on which teachers of one organ disagree in sign: leave out, or take the combined margin's word; auto: "
        "combined where combine is most_confident, which would have nothing to decide else, drop where it is another",
    )
    veto_share: float = key(
        0.8,
        "combine: validation_dice: teachers of an organ whose Dice is below this share of its best one's may disagree "
        "without making a voxel uncertain; 0: each has a veto",
        ge=0,
        le=1,
    )
    distil_labelled: bool = key(True, "distil an organ also on cases whose dataset labels it")
    feature_taps: list[str] | None = key(
        None, "taps that are compared; default: all that the cache holds", example=["decoder2"]
    )
    feature_regions: Literal["organ", "background", "both"] = key("both", "where features are compared")
    feature_distance: Literal["l2", "cosine"] = key("l2", "distance between features")
    feature_normalisation: Literal["none", "channel"] = key(
        "channel",
        "channel: both features are standardised per channel over the patch before they are compared, principal "
        "components by one deviation for all of them",
    )
    supervised_weight: float = key(1.0, "weight of ground truth on the labelled organs", ge=0)
    ramp_steps: int = key(0, "steps over which both λ grow from 0", unit="steps", ge=0)

    @property
    def settled_by(self) -> Literal["drop", "combined"]:
        """What happens to voxels on which teachers of one organ disagree."""
        if self.disagreement == "auto":
            return "combined" if self.combine == "most_confident" else "drop"
        return self.disagreement

    @model_validator(mode="after")
    def _assembled_is_one_softmax(self) -> Distillation:
        if self.form == "assembled" and self.hard_targets:
            allowed = "false, because form: assembled has soft targets by definition"
            raise FaultsError(Fault("hard_targets", True, allowed, {"form": "assembled", "hard_targets": False}))
        return self
