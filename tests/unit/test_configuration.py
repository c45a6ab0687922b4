"""Study files that are right: what they mean, and that they survive being written and read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from mskd.config.data import Dataset
from mskd.config.loading import dump_study, load_study, parse_study
from mskd.config.study import Study
from mskd.dag import Graph
from mskd.plan.jobs import study_jobs

REPOSITORY = Path(__file__).parents[2]
STUDIES = sorted((REPOSITORY / "config").glob("*.yaml"))
TWO: dict[str, Any] = {
    "organs": ["liver", "spleen"],
    "datasets": {
        "a": {"path": "/d/a", "label_map": {1: "liver", 2: "liver"}},
        "b": {"path": "/d/b", "label_map": {1: "spleen", 3: "ignore"}},
        "c": {"path": "/d/c", "role": "external", "label_map": {1: "spleen", 6: "liver"}},
    },
}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSKD_DATA", "/data")


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_studies_that_come_with_it(path: Path) -> None:
    study = load_study(path)
    assert study.study == path.stem
    assert parse_study(yaml.safe_load(dump_study(study))) == study


def test_there_are_studies() -> None:
    assert {"demo", "paper", "phantom_benchmark", "real_ct"} <= {path.stem for path in STUDIES}


@pytest.mark.parametrize("path", [p for p in STUDIES if p.stem == "demo" or "phantom" in p.stem], ids=lambda p: p.stem)
def test_studies_of_phantoms_have_a_graph_of_jobs(path: Path) -> None:
    graph = Graph(load_study(path))
    assert {job.stage for job in study_jobs(graph)} >= {"train_teacher", "cache_targets", "train_student", "tabulate"}


def test_a_study_without_the_default_reference_row_is_read_again_as_jobs_read_it() -> None:
    study = parse_study({**TWO, "methods": {"individual": {}, "naive_union": {}}})
    assert parse_study(yaml.safe_load(dump_study(study))) == study


def test_paths_take_environment_variables() -> None:
    assert load_study(REPOSITORY / "config" / "paper.yaml").datasets["btcv"].path == Path("/data/BTCV")


def test_teachers_are_those_of_the_training_datasets() -> None:
    study = parse_study(TWO)
    assert {name: study.teacher_dataset(name) for name in study.teachers} == {"a": "a", "b": "b"}
    assert [study.teacher_organs(name) for name in ("a", "b")] == [["liver"], ["spleen"]]
    assert study.label_values == {"liver": 1, "spleen": 2}
    named = parse_study({**TWO, "teachers": {"first": {"dataset": "a"}}})
    assert list(named.teachers) == ["first"]


def test_overrides_merge_and_leave_the_rest() -> None:
    study = parse_study(
        {
            **TWO,
            "training": {"steps": 10, "augmentation": {"noise_std": 0.3, "blur_mm": 2.0}},
            "methods": {
                "mskd": {"training": {"learning_rate": 0.5, "augmentation": {"blur_mm": 1.0}}},
                "again": {"kind": "mskd", "distillation": {"logit_weight": 2.0}},
            },
            "teachers": {"a": {"training": {"steps": 7}}, "b": {}},
        }
    )
    own = study.method_training("mskd")
    assert (own.steps, own.learning_rate) == (10, 0.5)
    assert (own.augmentation.noise_std, own.augmentation.blur_mm) == (0.3, 1.0)
    assert study.method_training("again") == study.training
    weights = {name: study.method_distillation(name).logit_weight for name in ("mskd", "again")}
    assert weights == {"mskd": 1.0, "again": 2.0}
    assert [study.teacher_training(name).steps for name in ("a", "b")] == [7, 10]
    assert study.method_kind("again") == "mskd"


def test_windows_and_runs() -> None:
    study = parse_study({**TWO, "runs": {"seeds": [3, 1], "folds": 2}})
    assert study.window == study.training.patch_size == (96, 96, 96)
    assert study.run_names == ["fold0-seed3", "fold0-seed1", "fold1-seed3", "fold1-seed1"]
    assert parse_study({**TWO, "inference": {"window": [32, 48, 64]}}).window == (32, 48, 64)


def test_strides_and_taps() -> None:
    network = parse_study(
        {
            **TWO,
            "network": {"features": [4, 8, 16], "strides": [[1, 1, 1], [2, 2, 1], [2, 2, 2]]},
            "cache": {"taps": ["decoder1"]},
        }
    ).network
    assert network.level_strides == [(1, 1, 1), (2, 2, 1), (4, 4, 2)]
    assert network.taps == ["encoder0", "encoder1", "encoder2", "decoder0", "decoder1"]


def test_labelled_organs() -> None:
    section = Dataset.model_validate(
        {"path": "/d", "label_map": {1: "liver", 2: "liver", 3: "ignore", 4: "background"}}
    )
    assert section.labelled_organs == ["liver"]
    narrower = Dataset.model_validate({"path": "/d", "label_map": {1: "liver", 2: "spleen"}, "organs": ["spleen"]})
    assert narrower.labelled_organs == ["spleen"]


def test_a_layout_of_structures_needs_no_label_map() -> None:
    study = parse_study(
        {
            "organs": ["kidney"],
            "datasets": {
                "t": {
                    "adapter": "totalsegmentator",
                    "path": "/d",
                    "structures": {"kidney_left": "kidney", "kidney_right": "kidney"},
                }
            },
        }
    )
    assert study.teacher_organs("t") == ["kidney"]
    assert study.datasets["t"].label_map == {}
    assert parse_study(yaml.safe_load(dump_study(study))) == study


def test_a_dataset_in_code_needs_no_path_and_no_adapter_options() -> None:
    study = parse_study({"datasets": {"p": {"adapter": "single", "phantom": {"n_train": 3}}}})
    assert study.datasets["p"].path is None


def test_missing_names_are_an_error_unless_allowed() -> None:
    split = {"kind": "builtin", "name": "liver"}
    for text, expected in ({}, False), ({"allow_missing": True}, True), ({"allow_missing": False}, False):
        data = {"datasets": {"liver": {"path": "/d", "split": {**split, **text}}}}
        assert parse_study(data).datasets["liver"].split.allow_missing is expected


def test_a_study_cannot_be_changed_after_loading() -> None:
    study = parse_study(TWO)
    with pytest.raises(ValidationError, match="frozen"):
        study.training.steps = 3  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        study.organs = []  # type: ignore[misc]


def test_an_alias_of_yaml_may_repeat_a_mapping(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(
        "organs: [liver]\n"
        "datasets:\n"
        "  a: &one {path: /d, label_map: &map {1: liver}}\n"
        "  b: {<<: *one, path: /e}\n"
        "  c: {path: /f, label_map: *map}\n"
    )
    study = load_study(tmp_path / "s.yaml")
    assert [str(section.path) for section in study.datasets.values()] == ["/d", "/e", "/f"]
    assert isinstance(study, Study)
