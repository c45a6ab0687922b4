"""Scans of a person's own through a model folder: label maps, and what else is asked for, beside each other.

No part of a study: nothing but the model folder is needed. Each scan leaves a record `<name>.json`; a scan whose record
and files stand is not computed again. Several processes, on one machine or several, may work on one folder: each scan
is locked while it is worked on.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from mskd.console import log, progress
from mskd.device import pick_device
from mskd.dicom import Series
from mskd.dicom_segmentation import write_segmentation, write_series
from mskd.errors import ConfigError, DataError, MskdError
from mskd.inference import Precision
from mskd.leaves import stage_code
from mskd.measurements import COLUMNS, organ_measurements
from mskd.models import Model, load_model
from mskd.prediction import Prediction, predict_scan
from mskd.provenance import content_key, file_digest, made_by
from mskd.scans import read_scan, scan_digest, write_labels
from mskd.sources import ScanSource, opened_sources
from mskd.storage import atomic_path, write_json, write_text

STAGE = "predict_scans"
MEASUREMENTS = "measurements.csv"
LOCK = ".lock"


@dataclass(frozen=True)
class Wanted:
    """What is written for each scan beside `<name>.nii.gz`.

    Attributes:
        organ_files: `<name>/<organ>.nii.gz`, 0 or 1.
        probabilities: `<name>/<organ>_probability.nii.gz`, in steps of 1/255.
        dicom_seg: `<name>.seg.dcm`; for a scan that is no DICOM also the series that it refers to, `<name>_series/`.
        fast: Windows overlap by a quarter at most.
        precision: What the network computes in.
        force: Scans are taken whose intensities are not those of a CT.
    """

    organ_files: bool = False
    probabilities: bool = False
    dicom_seg: bool = False
    fast: bool = False
    precision: Precision = "float32"
    force: bool = False


def predict_scans(
    model_folder: Path, source: Path, output: Path, wanted: Wanted, devices: list[str], *, jobs: int = 1
) -> list[str]:
    """Predict every scan of a source; go on after one that cannot be predicted.

    Args:
        model_folder: `model.json` and `model.safetensors`.
        source: See `mskd.sources.opened_sources`.
        output: Folder for the results.
        wanted: What to write.
        devices: Where to compute; with several, each has its own process.
        jobs: Processes per device.

    Returns:
        Why scans could not be predicted, one text a scan; empty if all could.

    Raises:
        MskdError: If the model or the source cannot be used at all.
    """
    if source.is_dir() and source.resolve() == output.resolve():
        raise ConfigError(f"-o {output} is the folder of the scans: results would take their names; choose another")
    workers = [device for device in devices for _ in range(jobs)]
    problems: dict[str, str] = {}
    with opened_sources(source) as sources, progress("predict", len(sources)) as advance:
        order = [item.name for item in sources]
        for name, problem in _outcomes(model_folder, sources, output, wanted, workers):
            if problem:
                problems[name] = problem
                log(problem)
            advance(1, name)
    write_measurements(output)
    return [problems[name] for name in order if name in problems]


def write_measurements(output: Path) -> None:
    """Gather the measurements of every record of a folder into one table, scans and organs in order."""
    rows = []
    for path in sorted(output.glob("*.json")):
        record = _read_record(path)
        rows += [{"scan": record["scan"], **row} for row in record.get("measurements", [])]
    if rows:
        table = pd.DataFrame(rows, columns=["scan", *COLUMNS])
        write_text(output / MEASUREMENTS, table.to_csv(index=False, lineterminator="\n"))


def _outcomes(
    model_folder: Path, sources: list[ScanSource], output: Path, wanted: Wanted, devices: list[str]
) -> Iterator[tuple[str, str]]:
    """Yield each scan's name and why it failed (empty if it did not) as they are done."""
    if len(devices) == 1:
        worker = _Worker(model_folder, output, wanted, devices[0])
        for source in sources:
            yield source.name, worker.predict(source)
        return
    context = get_context("spawn")
    queue = context.Queue()
    for device in devices:
        queue.put(device)
    with ProcessPoolExecutor(
        len(devices),
        mp_context=context,
        initializer=_start,
        initargs=(model_folder, output, wanted, queue, len(devices)),
    ) as pool:
        running = {pool.submit(_predict, source): source.name for source in sources}
        try:
            for future in as_completed(running):
                yield running[future], future.result()
        except BrokenProcessPool as error:
            raise MskdError(
                f"a process died while it predicted below {output}: probably memory ran out\n"
                "  way out: the same command with fewer --jobs; what was finished is kept"
            ) from error


class _Worker:
    """One process's model and where its results go."""

    def __init__(self, model_folder: Path, output: Path, wanted: Wanted, device: str) -> None:
        self.device = pick_device(device)
        self.model: Model = load_model(model_folder, self.device)
        self.output, self.wanted = output, wanted

    def predict(self, source: ScanSource) -> str:
        """Predict a scan, unless its results stand or another process works on it; return why it cannot be done."""
        record = self.output / f"{source.name}.json"
        try:
            with _locked(self.output / f".{source.name}{LOCK}") as mine:
                if mine:
                    _predict_source(self.model, source, record, self.wanted, self.device)
        except MskdError as error:
            return str(error)
        except MemoryError:
            return f"case {source.name}: memory ran out\n  way out: fewer --jobs, or a machine with more"
        return ""


_WORKER: _Worker | None = None  # of a process of the pool


def _start(model_folder: Path, output: Path, wanted: Wanted, devices: Any, processes: int) -> None:
    """Load the model in a process of the pool; all together use the cores once."""
    global _WORKER
    torch.set_num_threads(max(1, torch.get_num_threads() // processes))
    _WORKER = _Worker(model_folder, output, wanted, devices.get())


def _predict(source: ScanSource) -> str:
    assert _WORKER is not None
    return _WORKER.predict(source)


def _predict_source(model: Model, source: ScanSource, record: Path, wanted: Wanted, device: torch.device) -> None:
    series = source.scan if isinstance(source.scan, Series) else None
    key = content_key(
        weights=model.card["weights_sha256"],
        largest_component=model.largest_component,
        wanted=asdict(replace(wanted, force=False)),
        scan=scan_digest(source.scan, source.name),
        code=stage_code(STAGE),
    )
    if _stands(record, key):
        return
    _refuse_foreign(record, source.name)
    scan_hu, affine = read_scan(source.scan, source.name)
    said = predict_scan(
        model,
        scan_hu,
        affine,
        source.name,
        probabilities=list(model.labels) if wanted.probabilities else (),
        fast=wanted.fast,
        precision=wanted.precision,
        force=wanted.force,
        device=device,
    )
    like = source.scan if isinstance(source.scan, Path) else None
    written = _write_maps(record.parent, source.name, said, model, wanted, affine, like)
    if wanted.dicom_seg:
        if series is None:
            folder = record.parent / f"{source.name}_series"
            series = write_series(folder, scan_hu, affine, source.name)
        path = record.parent / f"{source.name}.seg.dcm"
        with atomic_path(path) as part:
            write_segmentation(part, said.labels, affine, model.labels, series, source.name)
        written.append(path)
    write_json(
        record,
        {
            "key": key,
            "scan": source.name,
            "files": {str(path.relative_to(record.parent)): file_digest(path) for path in written},
            "labels": model.labels,
            "measurements": organ_measurements(said.labels, scan_hu, affine, model.labels),
            "weights_sha256": model.card["weights_sha256"],
            "made_by": made_by(),
            "notice": "Not for clinical use.",
        },
    )


def _write_maps(
    output: Path, name: str, said: Prediction, model: Model, wanted: Wanted, affine: Any, like: Path | None
) -> list[Path]:
    """Write the label map, organ files and probabilities; return what was written."""
    path = output / f"{name}.nii.gz"
    with atomic_path(path) as part:
        write_labels(part, said.labels, affine, model.labels, like=like)
    written = [path]
    for organ, value in model.labels.items():
        if wanted.organ_files:
            written.append(output / name / f"{organ}.nii.gz")
            with atomic_path(written[-1]) as part:
                write_labels(part, (said.labels == value).astype(np.uint8), affine, {organ: 1}, like=like)
        if wanted.probabilities:
            written.append(output / name / f"{organ}_probability.nii.gz")
            with atomic_path(written[-1]) as part:
                write_labels(part, said.probabilities[organ], affine, like=like, scale=1 / 255)
    return written


def _read_record(path: Path) -> dict[str, Any]:
    """Return what a record says; nothing if it is not one of ours."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) and {"key", "scan", "files"} <= record.keys() else {}


def _stands(path: Path, key: str) -> bool:
    record = _read_record(path)
    if record.get("key") != key:
        return False
    try:
        return all(file_digest(path.parent / name) == digest for name, digest in record["files"].items())
    except OSError:  # a file is gone
        return False


def _refuse_foreign(record: Path, name: str) -> None:
    """Refuse to replace a file that no record claims."""
    path = record.parent / f"{name}.nii.gz"
    if path.exists() and not _read_record(record):
        raise DataError(
            case=name,
            file=path,
            expected="no file, or one that mskd predict wrote",
            found="a file without a record beside it",
            fix="choose another folder with -o, or move the file away",
        )


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Hold a scan's lock; yield False at once if another process holds it. A process that dies leaves none."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("w")
    except OSError as error:
        raise MskdError(
            f"cannot write {path.parent}: {error.strerror or error}\n  way out: choose another folder with -o"
        ) from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            path.unlink(missing_ok=True)
