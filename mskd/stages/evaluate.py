"""Stage: score a method's predictions of a dataset's test cases on the raw grid."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from mskd.cases import Case, by_block, fold_of_run, seed_of_run
from mskd.config.study import Study
from mskd.console import progress
from mskd.errors import DataError
from mskd.evaluation.frames import concatenate, scan_diagonal_mm, score_frame, write_metrics
from mskd.evaluation.metrics import OrganScore, score_case
from mskd.layout import Layout
from mskd.leaves import evaluate_leaves, stage_code
from mskd.manifest import merge, read_manifest
from mskd.provenance import content_key, file_digest
from mskd.reference import read_reference
from mskd.scans import read_labels, read_scan_grid
from mskd.stages.inputs import cases_of, made_cases
from mskd.storage import write_json

STAGE = "evaluate"


def evaluate(study: Study, method: str, run: str, dataset: str) -> None:
    """Write the scores of a dataset's test cases, one row per case and organ; scores that stand are kept."""
    layout = Layout(study.root)
    cases = cases_of(study, [dataset], run, ["test"])
    leaves, code = evaluate_leaves(study, dataset), stage_code(STAGE)
    blocks = by_block(cases)
    predicted = merge([read_manifest(layout.manifest("predict", method, run, dataset, block)) for block in blocks])
    cases = made_cases(cases, predicted)
    frames = []
    with progress(f"evaluate {method} {run} {dataset}", len(cases)) as advance:
        for case in cases:
            content = predicted.entries[case.id]["content"]
            key = content_key(leaves=leaves, code=code, prediction=content, reference=_reference(case))
            path = layout.scores(method, run, dataset, case.block, case.name)
            stored = _stored(path, key)
            if stored is None:
                _check_prediction(layout, case, method, run, content)
                stored = _score(study, case, method, run)
                scores, diagonal_mm = stored
                rows = [asdict(score) for score in scores]
                write_json(path, {"key": key, "case": case.id, "scan_diagonal_mm": diagonal_mm, "scores": rows})
            scores, diagonal_mm = stored
            frames.append(
                score_frame(
                    scores,
                    study=study.study,
                    method=method,
                    fold=fold_of_run(run),
                    seed=seed_of_run(run),
                    dataset=dataset,
                    role=leaves["role"],
                    case=case.name,
                    scan_diagonal_mm=diagonal_mm,
                )
            )
            advance(1, case.name)
    write_metrics(concatenate(frames), layout.metrics(method, run, dataset))


def _reference(case: Case) -> list[str]:
    """Return roles and digests of the files that predictions are compared with."""
    digests = [f"{label.role} {file_digest(label.path)}" for label in case.labels]
    return digests + ([f"withheld {file_digest(case.withheld)}"] if case.withheld else [])


def _stored(path: Path, key: str) -> tuple[list[OrganScore], float] | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["key"] != key:
            return None
        return [OrganScore(**row) for row in record["scores"]], float(record["scan_diagonal_mm"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _check_prediction(layout: Layout, case: Case, method: str, run: str, content: str) -> None:
    path = layout.prediction(method, run, case.dataset, case.block, case.name)
    if not path.is_file() or file_digest(path) != content:
        raise DataError(
            case=case.id,
            file=path,
            expected="the prediction that its manifest names",
            found="another file, or none",
            fix=f"delete {layout.manifest('predict', method, run, case.dataset, case.block)} and run again",
        )


def _score(study: Study, case: Case, method: str, run: str) -> tuple[list[OrganScore], float]:
    leaves = evaluate_leaves(study, case.dataset)
    shape, affine = read_scan_grid(case.image, case.id)
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
    path = Layout(study.root).prediction(method, run, case.dataset, case.block, case.name)
    prediction = read_labels(path, case.id, {v: v for v in study.label_values.values()}, shape)
    reference, labelled = read_reference(case, leaves, study.label_values, shape, affine)
    if reference is None:
        return [], scan_diagonal_mm(shape, [float(s) for s in spacing_mm])
    scores = score_case(
        prediction,
        reference,
        [float(s) for s in spacing_mm],
        study.label_values,
        labelled,
        nsd_tolerance_mm=study.evaluation.nsd_tolerance_mm,
        hd95_definition=study.evaluation.hd95,
    )
    return scores, scan_diagonal_mm(shape, [float(s) for s in spacing_mm])
