"""Stage: predict the test cases of a block, in the geometry of their raw scans."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from mskd.cases import by_block
from mskd.config.study import Study
from mskd.console import progress
from mskd.device import set_up
from mskd.errors import DataError, MskdError
from mskd.inference import Windows, study_windows
from mskd.layout import Layout
from mskd.leaves import predict_leaves, stage_code
from mskd.manifest import Manifest, read_manifest
from mskd.models import Model, load_model, update_card
from mskd.prediction import predict_labels
from mskd.preparation import prepare_arrays
from mskd.prepared import PreparedCase
from mskd.provenance import content_key, file_digest, made_by
from mskd.scans import read_scan, write_labels
from mskd.stages.inputs import cases_of, prepared_manifest
from mskd.storage import atomic_path, write_json

STAGE = "predict"


def predict(study: Study, method: str, run: str, dataset: str, block: str, device: torch.device) -> None:
    """Predict the test cases of a block; what stands under its key is kept."""
    layout = Layout(study.root)
    cases = by_block(cases_of(study, [dataset], run, ["test"])).get(block, [])
    prepared = prepared_manifest(study, cases).entries
    weights = read_manifest(layout.manifest("train_student", method, run)).entries[method]["weights"]
    set_up(device, study.inference.threads)
    model: Model | None = None
    entries = {}
    with progress(f"predict {method} {run} {dataset}/{block}", len(cases)) as advance:
        for case in cases:
            path = layout.prediction(method, run, dataset, block, case.name)
            image = prepared[case.id]["image"]
            key = content_key(leaves=predict_leaves(study), code=stage_code(STAGE), weights=weights, image=image)
            content = _stored(path, key)
            if content is None:
                if model is None:
                    model = load_model(layout.student(method, run), device)
                    update_card(layout.student(method, run), largest_component=study.evaluation.largest_component)
                content = _predict_case(
                    study, model, PreparedCase(layout.prepared(dataset, block, case.name), case.id), path
                )
                record = {
                    "key": key,
                    "sha256": content,
                    "case": case.id,
                    "labels": model.labels,
                    "weights_sha256": weights,
                }
                write_json(_record(path), {**record, "made_by": made_by(), "notice": "Not for clinical use."})
            entries[case.id] = {"key": key, "content": content}
            advance(1, case.name)
    Manifest(STAGE, entries).write(layout.manifest(STAGE, method, run, dataset, block))


def _predict_case(study: Study, model: Model, case: PreparedCase, path: Path) -> str:
    labels = predict_labels(
        model,
        case.read("image"),
        case.read("body"),
        case.geometry,
        study_windows(study),
        largest_component=study.evaluation.largest_component,
        device=next(model.network.parameters()).device,
    )
    with atomic_path(path) as part:
        write_labels(part, labels, np.asarray(case.geometry.raw_affine))
    return file_digest(path)


def _record(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".nii.gz") + ".json")


def _stored(path: Path, key: str) -> str | None:
    try:
        record = json.loads(_record(path).read_text(encoding="utf-8"))
        stands = record["key"] == key and record["sha256"] == file_digest(path)
        return str(record["sha256"]) if stands else None
    except (OSError, ValueError, KeyError):
        return None


def predict_files(model_folder: Path, source: Path, output: Path, device: torch.device) -> None:
    """Segment a scan, or every scan of a folder, with a model folder.

    Args:
        model_folder: `model.json` and `model.safetensors`.
        source: NIfTI file, or a folder of them.
        output: Folder for `<name of the scan>.nii.gz`.
        device: Where to compute.

    Raises:
        MskdError: If scans cannot be read; names them, after the others are done.
    """
    model = load_model(model_folder, device)
    scans = [source] if source.is_file() else sorted(p for p in source.glob("*.nii*") if not p.name.startswith("."))
    if not scans:
        raise MskdError(f"no scan found: {source}\n  expected: a .nii or .nii.gz file, or a folder of them")
    windows = Windows(model.window, model.overlap, model.stride)
    problems = []
    with progress("predict", len(scans)) as advance:
        for path in scans:
            name = path.name.removesuffix(".gz").removesuffix(".nii")
            try:
                scan, affine = read_scan(path, name)
                prepared = prepare_arrays(scan, affine, None, None, model.preprocessing)
                labels = predict_labels(model, prepared.image, prepared.body, prepared.geometry, windows, device=device)
                with atomic_path(output / f"{name}.nii.gz") as part:
                    write_labels(part, labels, affine)
            except DataError as error:
                problems.append(str(error))
            advance(1, name)
    if problems:
        raise MskdError(f"{len(problems)} of {len(scans)} scans cannot be predicted:\n" + "\n".join(problems))
