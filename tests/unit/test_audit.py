"""What the audit sees: each kind of error is found and named, and clean data stays quiet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from mskd.config.loading import parse_study
from mskd.disagreement import coarse_scan, find_disagreement, largest_piece, robust_z, same_scans, unsure_share
from mskd.errors import MskdError
from mskd.stages.audit import COLUMNS, _ranked_cases, audit, audit_folder, audit_table
from mskd.stages.compare_teachers import reference_dice

SHAPE = (40, 30, 30)


def box(x: slice, y: slice = slice(8, 18), z: slice = slice(8, 20)) -> npt.NDArray[np.bool_]:
    mask = np.zeros(SHAPE, bool)
    mask[x, y, z] = True
    return mask


TRUTH = box(slice(26, 36))
BODY = box(slice(1, 39), slice(1, 29), slice(0, 30))
MARGIN = np.where(TRUTH, 5.0, -5.0).astype(np.float32)


def test_agreement_is_no_finding() -> None:
    found = find_disagreement(TRUTH, MARGIN, BODY)
    assert (found.kind, found.score, found.dice, found.voxels) == ("none", 0.0, 1.0, 0)


def test_doubt_is_no_contradiction() -> None:
    unsure = np.where(TRUTH, 1.0, -1.0)
    assert find_disagreement(box(slice(27, 33)), unsure, BODY).score == 0


@pytest.mark.parametrize(
    ("reference", "kind", "score"),
    [
        (box(slice(26, 36), z=slice(8, 14)), "missing part", 0.5),
        (np.zeros(SHAPE, bool), "missing organ", 1.0),
        (box(slice(4, 14)), "wrong side", 2.0),
        (TRUTH | box(slice(20, 26)), "leaked neighbour", 0.375),
        (TRUTH | box(slice(26, 36), z=slice(20, 26)), "too much", 1 / 3),
    ],
)
def test_each_kind_has_its_name(reference: npt.NDArray[np.bool_], kind: str, score: float) -> None:
    found = find_disagreement(reference, MARGIN, BODY, {"neighbour": box(slice(18, 26))})
    assert found.kind == kind
    assert found.score == pytest.approx(score)
    assert (reference ^ TRUTH)[found.position]


def test_voxels_that_nobody_judged_are_no_contradiction() -> None:
    """Ignored in the reference (255), where the teacher sees the organ: neither missing, nor in Dice and size."""
    judged = ~box(slice(31, 36))
    reference = TRUTH & judged
    assert find_disagreement(reference, MARGIN, BODY).kind == "missing part"
    found = find_disagreement(reference, MARGIN, BODY, judged=judged)
    assert (found.kind, found.score, found.dice) == ("none", 0.0, 1.0)


def test_dice_of_teachers_leaves_out_what_nobody_judged() -> None:
    labels = np.array([1, 1, 0, 255, 255, 2], np.uint8)
    assert reference_dice(labels, 1, np.array([1, 0, 0, 1, 1, 0], bool)) == pytest.approx(2 / 3)
    assert reference_dice(np.array([0, 255], np.uint8), 1, np.array([0, 1], bool)) == 1


def test_an_audit_without_rows_has_its_header(tmp_path: Path) -> None:
    """Teachers that know no organ of which there is a reference: nothing to compare."""
    table = _ranked_cases([])
    study = parse_study(
        {
            "study": "tiny",
            "results": str(tmp_path),
            "datasets": {"liver": {"blocks": 1, "phantom": {"n_train": 2, "n_val": 0, "n_test": 1}}},
            "methods": {"mskd": {}},
        }
    )
    folder = audit_folder(study)
    folder.mkdir(parents=True)
    table.to_csv(folder / "cases.csv", index=False)
    found = audit_table(study, 5)
    assert found is not None
    assert list(found.columns) == ["rank", *COLUMNS[:4], "z", *COLUMNS[4:]]
    assert found.empty


def test_the_largest_piece_counts_and_not_the_sum() -> None:
    mask = np.zeros((9, 9, 9), bool)
    mask[0:3, 0, 0] = True
    mask[6:8, 6:8, 6:8] = True
    assert largest_piece(mask)[0] == 8
    assert mask[largest_piece(mask)[1]]
    assert largest_piece(np.zeros((2, 2, 2), bool)) == (0, (0, 0, 0))


def test_unsure_teachers() -> None:
    sure = np.stack([MARGIN, np.full(SHAPE, -5, np.float32)])
    assert unsure_share(sure) == 0
    assert unsure_share(sure * 0.2) == 1  # 0.73 is not confident
    assert unsure_share(np.stack([MARGIN, MARGIN])) == 1  # two organs claim the same
    assert unsure_share(-np.abs(sure)) == 0  # nobody claims anything


def test_copies_are_found_however_they_were_saved() -> None:
    rng = np.random.default_rng(0)
    scans = {}
    for name in ("a", "b", "c"):
        low = rng.normal(0, 200, (8, 6, 6))
        scans[name] = np.kron(low, np.ones((5, 5, 5))).astype(np.int16)
    scans["a again"] = (scans["a"] * 0.9 + 30 + rng.normal(0, 10, SHAPE)).astype(np.int16)
    pairs = same_scans({name: coarse_scan(image, BODY) for name, image in scans.items()})
    assert [pair[:2] for pair in pairs] == [("a", "a again")]


def test_robust_distances() -> None:
    values = np.array([0.0, 0.1, 0.2, 0.1, 5.0])
    z = robust_z(values)
    assert np.argmax(z) == 4
    assert z[4] > 20
    assert abs(z[1]) < 1


def test_without_targets_it_says_what_to_do(tmp_path: Path) -> None:
    study = parse_study(
        {
            "study": "tiny",
            "results": str(tmp_path),
            "datasets": {"liver": {"blocks": 1, "phantom": {"n_train": 2, "n_val": 0, "n_test": 1}}},
            "methods": {"mskd": {}},
        }
    )
    with pytest.raises(MskdError, match="no targets are cached yet"):
        audit(study)
