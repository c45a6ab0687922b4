"""Unit costs: what one step, one window, one million voxels costs on a machine; measured there, or read from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from mskd.config.study import Study
from mskd.errors import ConfigError
from mskd.provenance import content_key
from mskd.storage import write_text


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TrainingUnits(_Record):
    """One training (of a teacher, or of a row of the tables).

    Attributes:
        step_s: Seconds per optimiser step, patches and augmentation included.
        fixed_s: Seconds for what happens once: building, plotting, saving.
        memory_mib: Peak memory of the process, without the volumes that it keeps (`training.ram_cache_gib`).
        gpu_memory_mib: Peak memory on the GPU.
    """

    step_s: float
    fixed_s: float
    memory_mib: float
    gpu_memory_mib: float


class InferenceUnits(_Record):
    """One network over a volume.

    Attributes:
        window_s: Seconds per window.
        mvoxel_s: Seconds per million voxels for the rest: reading, blending, resampling, compressing, writing.
        memory_mib: Peak memory of the process, without what grows with the volume.
        mvoxel_mib: Memory per million voxels.
        gpu_memory_mib: Peak memory on the GPU.
    """

    window_s: float
    mvoxel_s: float
    memory_mib: float
    mvoxel_mib: float
    gpu_memory_mib: float


class VolumeUnits(_Record):
    """Work on volumes without a network.

    Attributes:
        start_s: Seconds until such a process has started.
        phantom_s: Dataset → seconds per million voxels of its synthetic scans; for datasets that are made in code.
        prepare_s: Seconds per million voxels of the raw scan and of its field of view on the study grid together.
        read_s: Seconds of scoring per million raw voxels, whatever the organs.
        organ_s: Seconds of scoring per million raw voxels and organ.
        memory_mib: Peak memory of a process, without what grows with the volume.
        phantom_mib: Memory of making a scan per million voxels.
        prepare_mib: Memory of preparing per million voxels, raw and study grid together.
        evaluate_mib: Memory of scoring per million raw voxels.
        phantom_bytes: Bytes of a synthetic scan with its label maps on disk, per raw voxel.
        prepared_bytes: Bytes of a prepared store, per voxel of it.
        prediction_bytes: Bytes of a predicted label map, per raw voxel.
        body_share: Share of the field of view, per axis, that the body's box takes in a synthetic scan.
    """

    start_s: float
    phantom_s: dict[str, float]
    prepare_s: float
    read_s: float
    organ_s: float
    memory_mib: float
    phantom_mib: float
    prepare_mib: float
    evaluate_mib: float
    phantom_bytes: float
    prepared_bytes: float
    prediction_bytes: float
    body_share: tuple[float, float, float]


class Units(_Record):
    """Unit costs of a study on a machine.

    Attributes:
        format: Format of the file.
        fits: Digest of the configuration leaves that the costs depend on.
        device: Device of the networks, as torch calls it.
        machine: Processor or GPU and number of cores.
        gpu_memory: Whether GPU memory was measured, or estimated from the sizes of activations.
        scaled: How much larger the study's patch or window is than the one that was timed; 1 where it was timed itself.
        start_s: Seconds until a process has started that computes with a network.
        volumes: Work on volumes.
        training: `teacher/<name>` and `method/<row>` → cost of their trainings.
        cache: A teacher over a volume, its targets written.
        cache_bytes: Bytes of a teacher's targets on disk per voxel, as a teacher of few steps gives them.
        predict: A network over a volume, its label map written.
        parameters: `teacher/<name>` and `method/<row>` → number of parameters.
    """

    format: Literal["mskd-units-1"] = "mskd-units-1"
    fits: str
    device: str
    machine: str
    gpu_memory: Literal["measured", "estimated"]
    scaled: float
    start_s: float
    volumes: VolumeUnits
    training: dict[str, TrainingUnits]
    cache: InferenceUnits
    cache_bytes: float
    predict: InferenceUnits
    parameters: dict[str, int]


def units_leaves(study: Study) -> str:
    """Return a digest of what unit costs depend on; numbers of steps, cases and seeds do not count."""
    sizes = {"patch_size", "batch_size", "loss", "mixed_precision", "augmentation", "threads", "workers", "optimiser"}
    trainings = {f"teacher/{name}": study.teacher_training(name) for name in study.trained_teachers}
    trainings |= {f"method/{name}": study.method_training(name) for name in study.methods}
    return content_key(
        organs=study.organs,
        network=study.network,
        preprocessing=study.preprocessing,
        window=study.window,
        inference=study.inference,
        cache=study.cache.model_dump(mode="json", exclude={"splits"}),
        phantoms=[name for name, dataset in study.datasets.items() if dataset.phantom],
        trainings={name: section.model_dump(mode="json", include=sizes) for name, section in trainings.items()},
        teachers={name: study.teacher_organs(name) for name in study.teachers},
        kinds={name: study.method_kind(name) for name in study.methods},
    )


def measured_or_read(study: Study, *, device: str, source: Path | None, target: Path | None) -> Units:
    """Return unit costs: read from a file where one is named, else measured on this machine.

    Args:
        study: The study.
        device: Where networks compute, for measuring.
        source: File that `write_units` wrote, or None to measure.
        target: File to write them to, or None.

    Raises:
        ConfigError: If the file cannot be read, or was measured for another network, patch, preprocessing or rows.
    """
    if source is not None:
        units = read_units(source, study)
    else:
        from mskd.plan.measuring import measure_units

        units = measure_units(study, device)
    if target is not None:
        write_text(target, units.model_dump_json(indent=1) + "\n")
    return units


def read_units(path: Path, study: Study) -> Units:
    """Read unit costs.

    Raises:
        ConfigError: As `measured_or_read`.
    """
    hint = "write it anew with `mskd plan STUDY --write-units FILE` on the machine that you plan for"
    try:
        units = Units.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--units {path}: {error.strerror or error}; {hint}") from error
    except ValidationError as error:
        raise ConfigError(f"--units {path} holds no unit costs ({error.error_count()} problems); {hint}") from None
    if units.fits != units_leaves(study):
        raise ConfigError(
            f"--units {path} was measured for another study: network, patches, preprocessing, teachers or methods "
            f"differ; {hint}"
        )
    return units
