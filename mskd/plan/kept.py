"""How much data trainings read: what stays decoded in memory."""

from __future__ import annotations

from math import prod

from mskd.cache.settings import cache_settings
from mskd.config.study import Study
from mskd.dag import Graph
from mskd.methods.registry import method_facts
from mskd.plan.volumes import ScanSize

PREPARED_BYTES = 3  # per voxel that a training reads: image int16, labels uint8


def kept_gib(graph: Graph, sizes: dict[str, ScanSize], body_share: tuple[float, ...]) -> dict[str, float]:
    """Return how much decoded data each `teacher/<name>` and `method/<row>` reads, in GiB.

    Args:
        graph: Cases of the study.
        sizes: Size of every scan by case id.
        body_share: Share of the field of view, per axis, that is prepared.
    """
    study = graph.study
    voxels = {
        name: sum(
            prod(sizes[case.id].prepared(study, body_share)) for case in graph.cases(name) if case.split == "train"
        )
        for name in graph.training
    }
    found = {
        f"teacher/{name}": PREPARED_BYTES * voxels[study.teacher_dataset(name)] / 2**30
        for name in study.trained_teachers
    }
    for name in study.methods:
        needs = method_facts(study.method_kind(name)).needs
        per_voxel = PREPARED_BYTES + sum(target_bytes(study, teacher, needs) for teacher in study.teachers)
        found[f"method/{name}"] = per_voxel * sum(voxels.values()) / 2**30
    return found


def fits_ram(graph: Graph, sizes: dict[str, ScanSize], body_share: tuple[float, ...]) -> dict[str, bool]:
    """Return for every training whether its volumes stay decoded in memory."""
    study, found = graph.study, {}
    for name, gib in kept_gib(graph, sizes, body_share).items():
        kind, _, row = name.partition("/")
        section = study.teacher_training(row) if kind == "teacher" else study.method_training(row)
        found[name] = gib <= section.ram_cache_gib
    return found


def target_bytes(study: Study, teacher: str, needs: frozenset[str]) -> float:
    """Return the bytes of a teacher's targets in memory per voxel of the study grid.

    Args:
        study: The study.
        teacher: Its number of organs is its number of margins.
        needs: "targets" for the margins, "features" for the taps.
    """
    settings = cache_settings(study.cache)
    features = 0.0
    for level in map(study.network.tap_level, settings.taps):
        channels = study.network.features[level]
        kept = min(channels, settings.feature_channels or channels)
        features += kept / prod(study.network.level_strides[level])
    featured = "features" in needs and not study.teachers[teacher].given
    feature_bytes = features * _number_bytes(settings.feature_bits) if featured else 0.0
    margins = len(study.teacher_organs(teacher)) if "targets" in needs else 0
    return margins * _number_bytes(settings.margin_bits) + feature_bytes


def _number_bytes(bits: int) -> int:
    return max(8, bits) // 8
