"""A student's step from the cache, beside one without distillation and one with the teachers online."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.speed import cache, training
from benchmarks.speed.data import ORGANS
from benchmarks.speed.networks import network_settings, our_network
from benchmarks.speed.options import Options
from benchmarks.speed.pairing import Answer, Check, Pair
from benchmarks.speed.sides import Work

EVERY = list(range(len(ORGANS)))


def pairs(options: Options) -> list[Pair]:
    """Return the rows."""
    work = f"a student's step from the cache ({cache.TEACHERS} teachers, {training.steps(options)} steps)"
    note = "logits-wise distillation; features are not compared"
    return [
        Pair("student_alone", work, "cached", "alone", "the same step without distillation", (), 1.10, _check, note),
        Pair("student_online", work, "cached", "online", "the same step, teachers online", (), 0.6, _check, note),
    ]


def set_up(folder: Path, options: Options) -> None:
    """Make the teachers and their cache."""
    cache.set_up(folder, options)
    cache.SIDES["ours"](folder, options).run()


def distilled(folder: Path, options: Options, *, cached: bool, count: int = cache.TEACHERS) -> Work:
    """Return work that trains a student some steps with so many teachers, from the cache or online."""
    from mskd.config.distillation import Distillation
    from mskd.methods.base import MethodContext
    from mskd.methods.mskd import build
    from mskd.training.patches import PatchNeeds

    teachers = [f"teacher{number}" for number in range(count)]
    context = MethodContext(
        organs=list(ORGANS),
        network=network_settings(options),
        training=training.training_settings(options),
        distillation=Distillation(feature_weight=0),
        owned=dict.fromkeys(teachers, EVERY),
        organ_sets=[EVERY],
    )
    torch.manual_seed(0)
    built = build(context)
    targets: dict[str, str | Path] = {name: folder / f"cached{n}.zarr" for n, name in enumerate(teachers)}
    case = training.one_case(folder / cache.STORE, targets=targets if cached else {})
    voices = dict.fromkeys(teachers, len(ORGANS))
    given = training.batches(case, options, built.needs if cached else PatchNeeds(), voices)
    batches = given if cached else _asked(folder, options, given, teachers)
    return training.stepping(batches, built.network, built.loss, options, built.auxiliary)


@torch.no_grad()
def _said(networks: list[Any], batch: Any) -> Any:
    from mskd.margins import margins

    return torch.cat([margins(network(batch.image)) for network in networks], 1)


def _asked(folder: Path, options: Options, given: Iterator[Any], teachers: list[str]) -> Iterator[Any]:
    """Yield batches to which every teacher was asked."""
    device = torch.device(options.device)
    networks = [our_network(options, folder / f"{name}.safetensors").eval().to(device) for name in teachers]
    for batch in given:
        there = batch.to(device)
        yield replace(there, margins=_said(networks, there))


def _check(ours: Answer, theirs: Answer) -> list[Check]:
    finite = [float(np.isfinite(answer["losses"]).all()) for answer in (ours, theirs)]
    return [
        Check("parameters of the two students, difference", float(abs(ours["parameters"] - theirs["parameters"])), 0),
        Check("sides whose losses are finite", sum(finite), 2, ">="),
    ]


SIDES = {
    "cached": lambda folder, options: distilled(folder, options, cached=True),
    "online": lambda folder, options: distilled(folder, options, cached=False),
    "alone": lambda folder, options: training.supervised(folder / cache.STORE, options),
}
