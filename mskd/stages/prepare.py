"""Stage: raw scans → prepared stores (canonical axes, study spacing, clipped HU, study labels)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mskd.cases import Case, by_block, list_cases
from mskd.config.study import Study
from mskd.console import log, progress
from mskd.errors import DataError, MskdError
from mskd.layout import Layout
from mskd.leaves import prepare_leaves, stage_code
from mskd.manifest import Manifest, read_manifest
from mskd.preparation import prepare_arrays
from mskd.prepared import stored_digests, write_prepared
from mskd.provenance import content_key
from mskd.reference import read_case_labels, read_withheld_labels
from mskd.scans import read_scan, scan_digest

STAGE = "prepare"


def prepare(study: Study, dataset: str, block: str) -> None:
    """Prepare the cases of a block; what stands under its key is kept.

    Raises:
        MskdError: If cases cannot be prepared; names all of them, after the others are done.
    """
    layout = Layout(study.root)
    cases = by_block(list_cases(study, dataset)).get(block, [])
    entries, skipped = {}, _left_out(layout, cases)
    with progress(f"prepare {dataset}/{block}", len(cases)) as advance:
        for case in cases:
            try:
                if case.id not in skipped:
                    entries[case.id] = _prepare_case(study, case, layout)
            except DataError as error:
                skipped[case.id] = str(error)
            advance(1, case.name)
    if skipped and study.on_bad_case == "stop":
        raise MskdError(
            f"{len(skipped)} of {len(cases)} cases cannot be prepared (`on_bad_case: skip` goes on without them):\n"
            + "\n".join(skipped.values())
        )
    Manifest(STAGE, entries, skipped).write(layout.manifest(STAGE, dataset, block))


def _left_out(layout: Layout, cases: list[Case]) -> dict[str, str]:
    """Return the cases that `check_data` found to be bad; none where it was not asked."""
    checked = layout.manifest("check_data", "study")
    found = read_manifest(checked).skipped if checked.is_file() else {}
    return {case.id: found[case.id] for case in cases if case.id in found}


def _prepare_case(study: Study, case: Case, layout: Layout) -> dict[str, object]:
    leaves = prepare_leaves(study, case.dataset)
    files = _input_digests(case)
    key = content_key(leaves=leaves, code=stage_code(STAGE), files=files)
    path = layout.prepared(case.dataset, case.block, case.name)
    digests = stored_digests(path, key)
    if digests is None:
        scan, affine = read_scan(case.image, case.id)
        labels = read_case_labels(case, leaves["label_map"], leaves["structures"], scan.shape, affine)
        withheld: npt.NDArray[np.uint8] | None = None
        if case.withheld is not None:
            withheld = read_withheld_labels(case, leaves["withheld"], scan.shape, affine)
        arrays = prepare_arrays(scan, affine, labels, withheld, study.preprocessing)
        attributes = {
            "case": case.id,
            "labelled": leaves["labelled"],
            "preprocessing": leaves["preprocessing"],
        }
        digests = write_prepared(path, arrays, key=key, attributes=attributes)
        log(f"prepared {case.id}: {arrays.geometry.raw_shape} → {arrays.geometry.shape}")
    return {"key": key, "scan": files["image"], **digests}


def _input_digests(case: Case) -> dict[str, str]:
    files = {"image": case.image, **{f.role: f.path for f in case.labels}}
    if case.withheld is not None:
        files["withheld"] = case.withheld
    digests = {}
    for name, path in files.items():
        digests[name] = scan_digest(path, case.id)
    return digests
