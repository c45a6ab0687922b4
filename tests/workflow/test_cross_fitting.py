"""Cross-fitted targets: what a teacher says of its own training cases comes from one that has not seen them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import zarr

from mskd.cache.store import LOGITS, TargetStore
from mskd.datasets.splits import hash_fraction
from mskd.training.cases import TrainingCase

from .project import Project, copy_of

pytestmark = pytest.mark.xdist_group("cross_fitting")  # one worker, so that the module's study is made once

PARTS = 2
RUN = "fold0-seed0"
ORGANS = ("liver", "spleen")


@pytest.fixture(scope="module")
def cross_fitted(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, set[str]]:
    """Return the finished study with a row that learns from cross-fitted targets, and what that row made."""
    project = copy_of(finished, tmp_path_factory.mktemp("cross"))
    before = project.artefacts()

    def change(study: dict[str, Any]) -> None:
        study["methods"]["cross"] = {"kind": "mskd", "distillation": {"targets": "cross_fitted"}}
        study["runs"] = {"parts": PARTS}

    project.edit_study(change)
    project.snakemake()
    after = project.artefacts()
    return project, {name for name, made in after.items() if before.get(name) != made}


def test_exactly_the_teachers_of_parts_and_the_row_are_made(cross_fitted: tuple[Project, set[str]]) -> None:
    _, made = cross_fitted
    cases = [f"{organ}/{organ}_{index}" for organ in ORGANS for index in (0, 1)]
    first = {o: min((f"{o}/{o}_{i}" for i in (0, 1)), key=lambda case: hash_fraction(case, 0, "part")) for o in ORGANS}
    parts = {case: int(case != first[case.split("/")[0]]) for case in cases}
    stores = {f"cache/{case.split('/')[0]}/{RUN}-part{part}/{case}" for case, part in parts.items()}
    assert len({(store.split("/")[1], store.split("/")[2]) for store in stores}) == 4
    assert {name for name in made if name.startswith("cache/")} == stores
    teachers = {name for name in made if name.startswith("models/teachers/")}
    assert teachers == {f"models/teachers/{store.split('/')[1]}/{store.split('/')[2]}" for store in stores}
    rest = made - stores - teachers
    assert {name for name in rest if "cross" not in name} == {"metrics.csv"}


def test_no_teacher_of_a_part_has_seen_the_cases_it_is_asked_about(cross_fitted: tuple[Project, set[str]]) -> None:
    project, _ = cross_fitted
    stores = sorted(project.results.glob(f"cache/*/{RUN}-part*/*/*/*.zarr"))
    assert len(stores) == 4
    for store in stores:
        teacher, run, dataset, _, name = store.relative_to(project.results / "cache").parts
        card = json.loads((project.results / "models" / "teachers" / teacher / run / "model.json").read_text())
        case = f"{dataset}/{name.removesuffix('.zarr')}"
        assert case not in card["provenance"]["inputs"]["train"]
        assert len(card["provenance"]["inputs"]["train"]) == 1
        assert TargetStore(store, case).strides == {}  # logits alone


def test_the_audit_takes_teachers_that_have_not_learned_from_a_case(cross_fitted: tuple[Project, set[str]]) -> None:
    project, _ = cross_fitted
    for _ in range(2):  # a second one replaces the first
        project.run(sys.executable, "-m", "mskd", "audit", "config/tiny.yaml")
    table = pd.read_csv(project.results / "audit/cases.csv")
    assert set(table["case"]) == {f"{organ}/{organ}_{index}" for organ in ORGANS for index in (0, 1)}
    assert set(table["held_out"]) == {"yes"}
    for row in table.to_dict("records"):
        dataset, name = str(row["case"]).split("/")
        (part,) = project.results.glob(f"cache/{dataset}/{RUN}-part*/{dataset}/*/{name}.zarr")
        margin = TargetStore(part, str(row["case"])).read(LOGITS)[0]
        (prepared,) = project.results.glob(f"prepared/{dataset}/*/{name}.zarr")
        truth = np.asarray(zarr.open_group(prepared, mode="r")["labels"]) == 1 + ORGANS.index(dataset)
        together = int(truth.sum()) + int((margin > 0).sum())
        assert row["dice"] == pytest.approx(2 * int((truth & (margin > 0)).sum()) / together, abs=1e-3)
    figures = list((project.results / "audit/figures").glob("*.png"))
    assert len(figures) == int((table["score"] > 0).sum())


def test_the_student_reads_margins_of_the_part_and_features_of_the_whole(
    cross_fitted: tuple[Project, set[str]],
) -> None:
    project, _ = cross_fitted
    card = json.loads((project.results / "models" / "cross" / RUN / "model.json").read_text())
    inputs = card["provenance"]["inputs"]
    assert set(inputs["cross_fitted/liver"]) == {"liver/liver_0", "liver/liver_1"}
    assert set(inputs["targets/liver"]) == {"liver/liver_0", "liver/liver_1", "spleen/spleen_0", "spleen/spleen_1"}
    (whole,) = project.results.glob(f"cache/liver/{RUN}/liver/*/liver_0.zarr")
    (part,) = project.results.glob(f"cache/liver/{RUN}-part*/liver/*/liver_0.zarr")
    case = TrainingCase(
        case="liver/liver_0",
        dataset="liver",
        prepared_path=Path("unused"),
        labelled=[1],
        targets={"liver": whole},
        contents={"liver": inputs["targets/liver"]["liver/liver_0"]},
        cross_fitted={"liver": (part, inputs["cross_fitted/liver"]["liver/liver_0"])},
    )
    tap = next(iter(TargetStore(whole, "liver/liver_0").strides))
    box = ((0, 0, 0), (8, 8, 8))
    of_part, of_whole = TargetStore(part, "liver/liver_0"), TargetStore(whole, "liver/liver_0")
    read = case.target_patch("liver", LOGITS, *box)
    np.testing.assert_array_equal(read, of_part.read(LOGITS)[:, :8, :8, :8])
    assert not np.array_equal(read, of_whole.read(LOGITS)[:, :8, :8, :8])
    np.testing.assert_array_equal(case.target_patch("liver", tap, *box), of_whole.read(tap)[:, :8, :8, :8])


def test_verify_knows_the_stores_of_parts_and_a_second_run_has_nothing_to_do(
    cross_fitted: tuple[Project, set[str]],
) -> None:
    project, _ = cross_fitted
    assert project.scheduled() == {}
    (part,) = project.results.glob(f"cache/liver/{RUN}-part*/liver/*/liver_0.zarr")
    shard = next(path for path in part.glob("logits/**/*") if path.is_file() and path.name != "zarr.json")
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(bytes(data))
    done = project.run(sys.executable, "-m", "mskd", "cache", "verify", "config/tiny.yaml", check=False)
    assert done.returncode != 0
    assert "liver/liver_0" in done.stdout + done.stderr
    assert "-part" in done.stdout + done.stderr


def test_a_single_training_case_is_refused_with_the_way_out(finished: Project, tmp_path: Path) -> None:
    project = copy_of(finished, tmp_path)

    def change(study: dict[str, Any]) -> None:
        study["distillation"] = {"targets": "cross_fitted"}
        study["runs"] = {"parts": 2}
        study["datasets"]["liver"]["split"] = {"kind": "file", "path": "one.tsv", "val_fraction": 0}

    project.edit_study(change)
    (project.root / "one.tsv").write_text("case\tsplit\nliver_0\ttrain\nliver_1\ttest\nliver_2\ttest\n")
    done = project.snakemake("--dry-run", check=False)
    assert done.returncode != 0
    assert "cross_fitted needs at least two training cases of datasets.liver, found 1" in done.stdout + done.stderr
