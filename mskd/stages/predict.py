"""Stage: predict the test cases of a block, in the geometry of their raw scans."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from mskd import processes
from mskd.cases import by_block
from mskd.config.study import Study
from mskd.console import progress
from mskd.device import set_up
from mskd.inference import study_windows
from mskd.layout import Layout
from mskd.leaves import predict_leaves, stage_code
from mskd.manifest import Manifest, read_manifest
from mskd.models import Model, load_model, update_card
from mskd.prediction import predict_prepared
from mskd.prepared import PreparedCase
from mskd.provenance import content_key, file_digest, made_by
from mskd.scans import write_labels
from mskd.stages.inputs import cases_of, prepared_cases
from mskd.storage import atomic_path, write_json

STAGE = "predict"


def predict(study: Study, method: str, run: str, dataset: str, block: str, device: torch.device) -> None:
    """Predict the test cases of a block; what stands under its key is kept. Several processes share the cases."""
    layout = Layout(study.root)
    cases, manifest = prepared_cases(study, by_block(cases_of(study, [dataset], run, ["test"])).get(block, []))
    prepared = manifest.entries
    weights = read_manifest(layout.manifest("train_student", method, run)).entries[method]["weights"]
    set_up(device, study.inference.threads)
    model: Model | None = None
    mine, made = processes.share(cases), []
    with progress(f"predict {method} {run} {dataset}/{block}", len(mine)) as advance:
        for case in mine:
            path = layout.prediction(method, run, dataset, block, case.name)
            image = prepared[case.id]["image"]
            key = content_key(leaves=predict_leaves(study), code=stage_code(STAGE), weights=weights, image=image)
            content = _stored(path, key)
            stood = content is not None
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
            made.append({"key": key, "content": content})
            advance(1, case.name, stood=stood)
    entries = {case.id: entry for case, entry in zip(cases, processes.gather(made), strict=True)}
    if processes.is_first():
        Manifest(STAGE, entries, manifest.skipped).write(layout.manifest(STAGE, method, run, dataset, block))


def _predict_case(study: Study, model: Model, case: PreparedCase, path: Path) -> str:
    labels = predict_prepared(
        model,
        case.read("image"),
        case.read("body"),
        case.geometry,
        study_windows(study),
        largest_component=study.evaluation.largest_component,
        device=next(model.network.parameters()).device,
    ).labels
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
