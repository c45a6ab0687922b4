"""How teachers and students are trained; the same keys for both, so that a comparison is fair."""

from __future__ import annotations

from math import gcd
from typing import Literal

from pydantic import model_validator

from mskd.config.faults import Fault, FaultsError
from mskd.config.section import Section, default_of, key


class Augmentation(Section):
    """Random changes of a patch; spatial ones move image, labels and targets alike."""

    flip_axes: list[Literal["x", "y", "z"]] = key(
        list, "axes that may be flipped; leave x out once left and right are separate organs", example=["y", "z"]
    )
    quarter_turns: bool = key(False, "random quarter turns about z (needs square patches in x and y)")
    affine_probability: float = key(0.4, "share of patches that are rotated and scaled", ge=0, le=1)
    rotation_deg: float = key(15.0, "largest rotation about each axis", unit="degrees", ge=0, le=180)
    scale: tuple[float, float] = key((0.8, 1.25), "smallest and largest zoom")
    elastic_probability: float = key(0.2, "share of patches that are deformed elastically", ge=0, le=1)
    elastic_mm: float = key(6.0, "standard deviation of the deformation at its control points", unit="mm", ge=0)
    elastic_grid_mm: float = key(60.0, "distance of the control points", unit="mm", gt=0)
    noise_probability: float = key(0.2, "share of patches with added Gaussian noise", ge=0, le=1)
    noise_std: float = key(0.1, "largest standard deviation of the noise", unit="of the [-1, 1] range", ge=0)
    blur_probability: float = key(0.15, "share of patches that are blurred", ge=0, le=1)
    blur_mm: float = key(3.0, "largest standard deviation of the blur", unit="mm", ge=0)
    contrast_probability: float = key(0.3, "share of patches whose contrast and brightness change", ge=0, le=1)
    contrast: tuple[float, float] = key((0.75, 1.25), "smallest and largest contrast factor")
    brightness: float = key(0.1, "largest shift of the intensity", unit="of the [-1, 1] range", ge=0)
    gamma_probability: float = key(0.2, "share of patches with a gamma change", ge=0, le=1)
    gamma: tuple[float, float] = key((0.7, 1.4), "smallest and largest gamma")

    @model_validator(mode="after")
    def _ordered(self) -> Augmentation:
        faults = []
        for name in ("scale", "contrast", "gamma"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                better = default_of(type(self).model_fields[name])
                faults.append(Fault(name, [low, high], "[low, high] with 0 < low ≤ high", {name: better}))
        if faults:
            raise FaultsError(*faults)
        return self


class Training(Section):
    """Optimisation, sampling and logging."""

    steps: int = key(20_000, "optimiser steps", unit="steps", ge=1)
    batch_size: int = key(2, "patches per step, over all GPUs together", unit="patches", ge=1)
    patch_size: tuple[int, int, int] = key(
        (96, 96, 96),
        "patch in voxels of the study grid; a multiple of the network's coarsest stride",
        unit="voxels",
    )
    optimiser: Literal["sgd", "adamw"] = key("sgd", "sgd: Nesterov momentum 0.99 as nnU-Net; adamw: for short budgets")
    learning_rate: float = key(0.01, "peak learning rate", gt=0)
    weight_decay: float = key(3e-5, "weight decay", ge=0)
    schedule: Literal["poly", "cosine", "constant"] = key("poly", "course of the learning rate; poly has exponent 0.9")
    schedule_steps: int | None = key(
        None,
        "steps over which the schedule falls; default: `steps`. Written down, as many as ever may be wanted, it lets "
        "`steps` be raised later: a finished training goes on, without a jump of the learning rate",
        unit="steps",
        example=20_000,
        ge=1,
    )
    warmup_steps: int = key(0, "linear warm-up of the learning rate", unit="steps", ge=0)
    gradient_clip: float = key(12.0, "largest norm of the gradient; 0: no limit", ge=0)
    ema_decay: float = key(
        0.0, "decay of the moving average of the weights that is validated and saved; 0: off", ge=0, lt=1
    )
    foreground_share: float = key(0.5, "share of patches centred on a labelled organ", ge=0, le=1)
    loss: Literal["organ_wise", "marginal"] = key(
        "organ_wise",
        "form of cross-entropy: one-vs-rest per organ, summed; or one CE with unlabelled organs merged into the "
        "background. Both add soft Dice per labelled organ",
    )
    dice_weight: float = key(1.0, "weight of the soft Dice term", ge=0)
    mixed_precision: bool = key(True, "bfloat16 on GPUs; CPUs always compute in float32")
    validate_every: int = key(500, "steps between validations; the last step is always validated", unit="steps", ge=1)
    validation_cases: int = key(8, "validation cases per dataset that are scored at most", unit="cases", ge=0)
    keep: Literal["best", "last"] = key("best", "which weights become the model: best validation Dice, or the last")
    checkpoint_every: int = key(500, "steps between checkpoints for resume", unit="steps", ge=1)
    log_every: int = key(20, "steps between log rows", unit="steps", ge=1)
    threads: int = key(
        2, "CPU threads of each training process (part of the result: sums depend on it)", unit="threads", ge=1
    )
    workers: int = key(0, "processes that read patches beside each training process", unit="processes", ge=0)
    gpus: int = key(
        1,
        "GPUs of a training job: as many processes share each step's patches, so it divides `batch_size`",
        unit="GPUs",
        ge=1,
    )
    ram_cache_gib: float = key(2.0, "decoded volumes kept in memory per reading process", unit="GiB", ge=0)
    augmentation: Augmentation = key(Augmentation, "random changes of patches")

    @property
    def course_steps(self) -> int:
        """Return the steps that courses (of the learning rate, of weights) are stretched over."""
        return self.schedule_steps or self.steps

    @model_validator(mode="after")
    def _gpus_share_evenly(self) -> Training:
        if self.batch_size % self.gpus:
            allowed = f"a divisor of batch_size, which is {self.batch_size}: every GPU has as many patches of a step"
            raise FaultsError(Fault("gpus", self.gpus, allowed, {"gpus": gcd(self.gpus, self.batch_size)}))
        return self

    @model_validator(mode="after")
    def _turns_need_squares(self) -> Training:
        if self.augmentation.quarter_turns and self.patch_size[0] != self.patch_size[1]:
            allowed = "[n, n, any] for augmentation.quarter_turns: turns about z need square patches in x and y"
            better = [max(self.patch_size[:2])] * 2 + [self.patch_size[2]]
            raise FaultsError(Fault("patch_size", self.patch_size, allowed, {"patch_size": better}))
        return self
