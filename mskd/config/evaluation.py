"""How volumes are predicted and scored, and what differences between scores are worth."""

from __future__ import annotations

from typing import Literal

from mskd.config.section import Section, key


class Inference(Section):
    """Sliding window over a prepared volume; the same for teachers' targets and for predictions."""

    window: tuple[int, int, int] | None = key(
        None,
        "window in voxels of the study grid; default: the training patch",
        unit="voxels",
        example=(96, 96, 96),
    )
    overlap: float = key(0.5, "share of the window that neighbours have in common", ge=0, lt=1)
    batch_size: int = key(2, "windows per forward pass", unit="windows", ge=1)
    precision: Literal["float32", "bfloat16"] = key(
        "float32",
        "what networks compute in for targets and predictions; bfloat16 takes about half the time on CPUs that have it "
        "(AVX-512 BF16, AMX) and is meant for GPUs, but takes three times as long on other CPUs",
    )
    threads: int = key(2, "CPU threads of each process of an inference job", unit="threads", ge=1)
    gpus: int = key(
        1,
        "GPUs of a job that caches or predicts: as many processes share the cases of its block",
        unit="GPUs",
        ge=1,
    )


class Evaluation(Section):
    """Scores on the raw grid."""

    nsd_tolerance_mm: float | dict[str, float] = key(
        2.0, "tolerance of the normalised surface Dice, one for all or per organ", unit="mm"
    )
    hd95: Literal["max_directed", "pooled"] = key(
        "max_directed",
        "larger of the two directed 95th percentiles (as MONAI), or percentile of the pooled distances (as MedPy)",
    )
    largest_component: list[str] = key(
        list, "organs of which only the largest connected component is kept", example=["liver"]
    )
    withheld: bool = key(False, "score training datasets' test cases also on organs whose labels were withheld")


class Statistics(Section):
    """Intervals and tests of the tables, over cases; runs are averaged per case first."""

    reference: str = key("mskd", "row that the others are tested against", example="self_training")
    resamples: int = key(9999, "resamples of the bootstrap", unit="resamples", ge=999)
    seed: int = key(0, "seed of the bootstrap", ge=0)
