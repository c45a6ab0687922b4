"""Which configuration leaves a stage depends on: exactly those that change its result."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from mskd import leaves
from mskd.config.loading import parse_study
from mskd.provenance import content_key

STUDY: dict[str, Any] = {
    "study": "tiny",
    "organs": ["liver", "spleen"],
    "datasets": {
        "liver": {"path": "/d/liver", "label_map": {1: "liver"}, "withheld_label_map": {1: "liver", 2: "spleen"}},
        "spleen": {"path": "/d/spleen", "label_map": {1: "spleen"}},
        "both": {"role": "external", "label_map": {1: "liver", 2: "spleen"}, "phantom": {"n_train": 0, "n_test": 3}},
    },
    "methods": {"individual": {}, "naive_union": {}, "mskd": {}},
}
PREPARE = {"prepare liver", "prepare spleen", "prepare both"}
TEACHERS = {"teacher liver", "teacher spleen"}
STUDENTS = {"student individual", "student naive_union", "student mskd"}
EVALUATE = {"evaluate liver", "evaluate spleen", "evaluate both"}
TARGETS = {"projection", "cache"}
NETWORKS = TEACHERS | STUDENTS

# path → value → stages whose leaves change
CHANGES: list[tuple[str, Any, set[str]]] = [
    ("methods/mskd/training", {"learning_rate": 0.5}, {"student mskd"}),
    ("methods/naive_union/training", {"steps": 7}, {"student naive_union"}),
    ("methods/mskd/distillation", {"logit_weight": 2.0}, {"student mskd"}),
    ("methods/mskd/table", "ablation", {"tabulate"}),
    ("teachers", {"liver": {"training": {"learning_rate": 0.5}}, "spleen": {}}, {"teacher liver"}),
    ("training/learning_rate", 0.5, NETWORKS),
    ("training/augmentation", {"noise_std": 0.3}, NETWORKS),
    ("training/threads", 5, NETWORKS),
    ("training/log_every", 3, set()),
    ("training/checkpoint_every", 3, set()),
    ("training/workers", 3, set()),
    ("training/ram_cache_gib", 0.5, set()),
    ("network/channels_last", False, NETWORKS),
    ("evaluation/nsd_tolerance_mm", 9.0, EVALUATE),
    ("evaluation/hd95", "pooled", EVALUATE),
    ("evaluation/withheld", True, EVALUATE),
    ("evaluation/largest_component", ["liver"], {"predict"}),
    ("preprocessing/crop_margin_mm", 3.0, PREPARE),
    ("preprocessing/foreground_voxels", 3, PREPARE),
    ("preprocessing/spacing_mm", [2, 2, 2], PREPARE | NETWORKS | {"compare"}),
    ("preprocessing/hu_clip", [-100, 100], PREPARE | NETWORKS | TARGETS | {"predict"}),
    ("cache/level", 1, {"cache"}),
    ("cache/margin_bits", 8, {"cache"}),
    ("cache/taps", ["decoder1"], TARGETS),
    ("cache/feature_channels", 2, TARGETS),
    ("cache/splits", ["train", "val"], {"compare"}),
    ("cache/preset", "balanced", set()),  # what the default says already
    ("cache/margin_bits", 4, set()),  # what the preset says already
    ("inference/overlap", 0.25, NETWORKS | TARGETS | {"predict"}),
    ("inference/window", [96, 96, 96], set()),  # the training patch, as without it
    ("inference/window", [64, 64, 64], NETWORKS | TARGETS | {"predict"}),
    ("inference/batch_size", 7, set()),
    ("inference/precision", "bfloat16", {"cache", "predict"}),
    ("inference/precision", "float32", set()),
    ("datasets/liver/label_map", {1: "liver", 2: "liver"}, {"prepare liver", "evaluate liver", "tabulate"}),
    ("datasets/liver/label_map", {1: "liver", 2: "ignore"}, {"prepare liver", "evaluate liver", "tabulate"}),
    ("datasets/liver/withheld", True, {"prepare liver"}),
    ("datasets/both/metrics_role", "resubstitution", {"evaluate both"}),
    ("datasets/liver/blocks", 9, set()),
    ("datasets/liver/split", {"test_fraction": 0.4}, set()),  # which cases: that is another parameter of the rules
    ("datasets/liver/path", "/elsewhere", set()),  # what is in the files counts, not where they lie
    ("datasets/both/phantom", {"n_train": 0, "n_test": 9}, set()),
    ("datasets/both/phantom", {"n_train": 0, "n_test": 3, "seed": 5}, {"phantom both"}),
    ("title", "A title", {"tabulate"}),
    ("study", "other", set()),
    ("results", "/elsewhere", set()),
    ("runs", {"seeds": [0, 1]}, set()),
]


def digests(data: dict[str, Any]) -> dict[str, str]:
    """Return stage → digest of its leaves, as the rules' params hold it."""
    study = parse_study(data)
    found: dict[str, Any] = {
        "projection": leaves.projection_leaves(study),
        "cache": leaves.cache_leaves(study, "liver", "fold0-seed0"),
        "compare": leaves.compare_leaves(study),
        "predict": leaves.predict_leaves(study),
        "tabulate": leaves.tabulate_leaves(study),
    }
    for name in study.datasets:
        found[f"phantom {name}"] = leaves.phantom_leaves(study, name)
        found[f"prepare {name}"] = leaves.prepare_leaves(study, name)
        found[f"evaluate {name}"] = leaves.evaluate_leaves(study, name)
    for name in study.teachers:
        found[f"teacher {name}"] = leaves.teacher_leaves(study, name)
    for name in study.methods:
        found[f"student {name}"] = leaves.student_leaves(study, name)
    return {stage: content_key(leaves=content) for stage, content in found.items()}


def changed_stages(data: dict[str, Any]) -> set[str]:
    """Return the stages of the study whose leaves a changed study changes."""
    before, after = digests(STUDY), digests(data)
    assert set(before) <= set(after)
    return {stage for stage in before if before[stage] != after[stage]}


def with_change(path: str, value: Any) -> dict[str, Any]:
    data = copy.deepcopy(STUDY)
    *above, last = path.split("/")
    section = data
    for part in above:
        section = section.setdefault(part, {})
    section[last] = value
    return data


@pytest.mark.parametrize(("path", "value", "expected"), CHANGES, ids=[f"{c[0]}={c[1]}" for c in CHANGES])
def test_a_change_concerns_exactly_these_stages(path: str, value: Any, expected: set[str]) -> None:
    assert changed_stages(with_change(path, value)) == expected


def test_every_stage_is_concerned_by_something() -> None:
    concerned = set().union(*(expected for _, _, expected in CHANGES))
    assert set(digests(STUDY)) - concerned == {"phantom liver", "phantom spleen"}  # read from disk: no leaves


def test_keys_that_change_no_result_are_keys() -> None:
    from mskd.config.training import Training

    assert set(Training.model_fields) >= leaves.UNSEEN


def test_a_new_dataset_with_a_known_organ() -> None:
    data = with_change("datasets/more", {"path": "/d/more", "label_map": {1: "liver"}})
    # methods that read teachers or targets have one teacher more; the others learn of it by their cases
    assert changed_stages(data) == {"student individual", "student mskd", "compare", "tabulate"}


def test_a_new_dataset_with_a_new_organ() -> None:
    data = with_change("datasets/kidney", {"path": "/d/kidney", "label_map": {1: "kidney"}})
    data["organs"] = ["liver", "spleen", "kidney"]
    assert changed_stages(data) == STUDENTS | {"compare", "predict", "tabulate"} | EVALUATE


def test_a_new_organ_in_front_renumbers_the_labels() -> None:
    data = with_change("datasets/kidney", {"path": "/d/kidney", "label_map": {1: "kidney"}})
    data["organs"] = ["kidney", "liver", "spleen"]
    assert changed_stages(data) >= PREPARE | TEACHERS


def test_a_new_external_dataset() -> None:
    data = with_change("datasets/more", {"path": "/d/more", "role": "external", "label_map": {1: "liver"}})
    assert changed_stages(data) == {"tabulate"}


def test_a_new_row() -> None:
    assert changed_stages(with_change("methods/again", {"kind": "mskd"})) == {"tabulate"}
    rows = digests(with_change("methods/again", {"kind": "mskd"}))
    assert rows["student again"] == rows["student mskd"]  # the same network, by another name
    assert rows["student again"] != rows["student naive_union"]


def test_withheld_labels_enter_no_network() -> None:
    data = with_change("datasets/liver/withheld", True)
    before = digests(data)
    data["datasets"]["liver"]["withheld_label_map"] = {5: "liver", 6: "spleen"}
    after = digests(data)
    assert {stage for stage in before if before[stage] != after[stage]} == {"prepare liver"}
    data["evaluation"] = {"withheld": True}
    before = digests(data)
    data["datasets"]["liver"]["withheld_label_map"] = {1: "liver", 2: "spleen"}
    after = digests(data)
    assert {stage for stage in before if before[stage] != after[stage]} == {"prepare liver", "evaluate liver"}


def test_values_in_study_labels() -> None:
    study = parse_study(with_change("datasets/both/label_map", {1: "spleen", 2: "liver", 3: "ignore", 4: "background"}))
    assert leaves.prepare_leaves(study, "both")["label_map"] == {1: 2, 2: 1, 3: 255, 4: 0}
    assert leaves.teacher_leaves(study, "spleen")["organs"] == {"spleen": 2}
    assert leaves.student_leaves(study, "mskd")["owned"] == {"liver": {"liver": 1}, "spleen": {"spleen": 2}}
    assert "owned" not in leaves.student_leaves(study, "naive_union")
    assert "distillation" not in leaves.student_leaves(study, "naive_union")


@pytest.mark.parametrize(
    ("role", "metrics_role", "expected"),
    [
        ("train", "auto", "test"),
        ("external", "auto", "external"),
        ("external", "resubstitution", "resubstitution"),
        ("train", "external", "external"),
    ],
)
def test_roles_in_the_metrics(role: str, metrics_role: str, expected: str) -> None:
    data = with_change("datasets/more", {"path": "/d", "role": role, "metrics_role": metrics_role})
    study = parse_study(data)
    assert leaves.evaluate_leaves(study, "more")["role"] == expected


def test_code_of_a_method_counts_for_that_method() -> None:
    assert leaves.stage_code("train_student", "mskd") == leaves.stage_code("train_student", "mskd")
    codes = {leaves.stage_code("train_student", name) for name in ("mskd", "naive_union", "individual")}
    assert len(codes) == 3
    assert leaves.stage_code("prepare") != leaves.stage_code("evaluate")
