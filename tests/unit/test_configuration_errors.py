"""Wrong study files: each complaint names key, value, what is allowed, and YAML that mends it."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from mskd.config.loading import load_study, parse_study
from mskd.errors import ConfigError

GOOD: dict[str, Any] = {
    "study": "s",
    "organs": ["liver", "spleen"],
    "datasets": {
        "liver": {"path": "/d/liver", "label_map": {1: "liver"}},
        "spleen": {"path": "/d/spleen", "label_map": {1: "spleen"}},
        "btcv": {"path": "/d/btcv", "adapter": "btcv", "role": "external", "label_map": {6: "liver", 1: "spleen"}},
    },
    "methods": {"mskd": {}},
}
REMOVE = object()
RENAMED = {
    *("trainig", "training.step", "learning_rate", "training.colour", "datasets.liver.options.unlabeled"),
    *("methods.msdk", "methods", "methods.mskd.training.learning_rat", "methods.mskd.training.augmentation.noise"),
}
UNFINISHED = {"organs", "datasets", "datasets.liver"}  # the YAML shows the form; what it holds is the user's to say
WITHHELD = {"datasets": {"liver": {"withheld": True, "withheld_label_map": {1: "liver", 2: "spleen"}}}}

# path to change, value, then what the complaint has to say: key, value, allowed, and the YAML that it proposes
CASES: list[tuple[str, Any, str, str, str, dict[str, Any]]] = [
    ("trainig", {"steps": 3}, "trainig", "{'steps': 3}", "preprocessing, network, training", {"training": {"steps": 3}}),
    ("training/step", 3, "training.step", "3", "steps, batch_size", {"training": {"steps": 3}}),
    ("learning_rate", 0.2, "learning_rate", "0.2", "a key of training", {"training": {"learning_rate": 0.2}}),
    ("training/colour", "red", "training.colour", "'red'", "steps, batch_size", {"training": {"steps": 20000}}),
    ("training/steps", "many", "training.steps", "'many'", "integer ≥ 1", {"training": {"steps": 20000}}),
    ("training/steps", 0, "training.steps", "0", "integer ≥ 1", {"training": {"steps": 20000}}),
    ("training/learning_rate", float("nan"), "training.learning_rate", "nan", "> 0", {"training": {"learning_rate": 0.01}}),
    ("training/ema_decay", 1.0, "training.ema_decay", "1.0", "≥ 0 and < 1", {"training": {"ema_decay": 0.0}}),
    ("training/optimiser", "adam", "training.optimiser", "'adam'", "sgd, adamw", {"training": {"optimiser": "adamw"}}),
    ("evaluation/hd95", "max", "evaluation.hd95", "'max'", "max_directed, pooled", {"evaluation": {"hd95": "max_directed"}}),
    ("training/patch_size", [50, 48, 48], "training.patch_size", "[50, 48, 48]", "[16, 16, 16]", {"training": {"patch_size": [48, 48, 48]}}),
    ("training/patch_size", [0, 48, 48], "training.patch_size", "[0, 48, 48]", "[16, 16, 16]", {"training": {"patch_size": [16, 48, 48]}}),
    ("training/patch_size", [48, 48], "training.patch_size", "[48, 48]", "[integer, integer, integer]", {"training": {"patch_size": [96, 96, 96]}}),
    ("inference/window", [40, 64, 64], "inference.window", "[40, 64, 64]", "[16, 16, 16]", {"inference": {"window": [32, 64, 64]}}),
    ("training/augmentation", {"gamma": [2, 1]}, "training.augmentation.gamma", "[2.0, 1.0]", "low ≤ high", {"training": {"augmentation": {"gamma": [0.7, 1.4]}}}),
    ("training", {"augmentation": {"quarter_turns": True}, "patch_size": [96, 80, 48]}, "training.patch_size", "[96, 80, 48]", "square", {"training": {"patch_size": [96, 96, 48]}}),
    ("cache/taps", ["decoder9"], "cache.taps", "'decoder9'", "encoder0, encoder1", {"cache": {"taps": ["decoder3"]}}),
    ("cache/temperatures", [2, 1], "cache.temperatures", "[2.0, 1.0]", "0 < low ≤ high", {"cache": {"temperatures": [1.0, 2.0]}}),
    ("cache/splits", ["val"], "cache.splits", "['val']", "a list with train", {"cache": {"splits": ["train", "val"]}}),
    ("network/strides", [[1, 1, 1]], "network.strides", "[[1, 1, 1]]", "each of the 5 levels", {"network": {"strides": [[1, 1, 1], *[[2, 2, 2]] * 4]}}),
    ("network/features", [32, 0], "network.features", "[32, 0]", "integers ≥ 1", {"network": {"features": [32, 64, 128, 256, 320]}}),
    ("network", 5, "network", "5", "architecture, features", {"network": {"architecture": "plain"}}),
    ("preprocessing/hu_clip", [5, 1], "preprocessing.hu_clip", "[5.0, 1.0]", "low < high", {"preprocessing": {"hu_clip": [-325, 325]}}),
    ("preprocessing/spacing_mm", [0, 1, -2], "preprocessing.spacing_mm", "[0.0, 1.0, -2.0]", "> 0", {"preprocessing": {"spacing_mm": [1.5, 1.0, 2.0]}}),
    ("runs/seeds", [1, 1], "runs.seeds", "[1, 1]", "distinct", {"runs": {"seeds": [1]}}),
    ("runs/seeds", [-1], "runs.seeds", "[-1]", "≥ 0", {"runs": {"seeds": [1]}}),
    ("study", "a b", "study", "'a b'", "letters, digits", {"study": "a_b"}),
    ("study", 2024, "study", "2024", "text", {"study": "2024"}),
    ("organs", "liver", "organs", "'liver'", "list of text", {"organs": ["liver"]}),
    ("organs", ["liver", "spleen", "ignore"], "organs", "'ignore'", "distinct names other than", {"organs": ["liver", "spleen"]}),
    ("organs", ["liver", "spleen", "kidney"], "organs", "'kidney'", "liver, spleen", {"datasets": {"kidney": {"adapter": "msd", "path": "/data/kidney", "label_map": {1: "kidney"}}}}),
    ("datasets", {}, "datasets", "{}", "at least one dataset", {"datasets": {"liver": {"adapter": "msd", "path": "/data/liver", "label_map": {1: "liver"}}}}),
    ("datasets", REMOVE, "datasets", "{}", "role is train", {"datasets": {"liver": {"adapter": "msd", "path": "/data/liver", "label_map": {1: "liver"}}}}),
    ("datasets/liver", 3, "datasets.liver", "3", "adapter, path", {"datasets": {"liver": {"adapter": "msd"}}}),
    ("datasets/liver/path", REMOVE, "datasets.liver.path", "nothing", "folder of the dataset", {"datasets": {"liver": {"adapter": "msd", "path": "/data/Task03_Liver"}}}),
    ("datasets/liver/path", "${MSKD_NOWHERE}/x", "datasets.liver.path", "'${MSKD_NOWHERE}/x'", "export MSKD_NOWHERE=", {"datasets": {"liver": {"path": "/folder/of/the/data/x"}}}),
    ("datasets/liver/adapter", "mds", "datasets.liver.adapter", "'mds'", "kits, lits, msd", {"datasets": {"liver": {"adapter": "msd"}}}),
    ("datasets/liver/options", {"unlabeled": "skip"}, "datasets.liver.options.unlabeled", "'skip'", "unlabelled: error (default)", {"datasets": {"liver": {"options": {"unlabelled": "skip"}}}}),
    ("datasets/liver/options", {"cases_from": 3}, "datasets.liver.options.cases_from", "3", "mapping of text → text", {"datasets": {"liver": {"options": {"cases_from": "3"}}}}),
    ("datasets/liver/label_map", {1: "livr"}, "datasets.liver.label_map.1", "'livr'", "liver, spleen, ignore, background", {"datasets": {"liver": {"label_map": {1: "liver"}}}}),
    ("datasets/btcv/label_map", {1: "lung"}, "datasets.btcv.label_map.1", "'lung'", "liver, spleen, ignore, background", {"datasets": {"btcv": {"label_map": {1: "background"}}}}),
    ("datasets/spleen/label_map", {1: "spleen", 2: "lung"}, "datasets.spleen.label_map.2", "'lung'", "liver, spleen, ignore", {"organs": ["liver", "spleen", "lung"]}),
    ("datasets/liver/label_map", {0: "liver"}, "datasets.liver.label_map.0", "'liver'", "background", {"datasets": {"liver": {"label_map": {1: "liver"}}}}),
    ("datasets/liver/label_map", {"one": "liver"}, "datasets.liver.label_map", "'one'", "mapping of integer → text", {"datasets": {"liver": {"label_map": {1: "liver"}}}}),
    ("datasets/liver/organs", ["spleen"], "datasets.liver.organs", "'spleen'", "its label_map", {"datasets": {"liver": {"organs": ["liver"]}}}),
    ("datasets/liver/split", {"kind": "builtin", "name": "livr"}, "datasets.liver.split.name", "'livr'", "liver, kidney, pancreas", {"datasets": {"liver": {"split": {"kind": "builtin", "name": "liver"}}}}),
    ("datasets/liver/split", {"kind": "random"}, "datasets.liver.split.kind", "'random'", "native, builtin, file, hash, all", {"datasets": {"liver": {"split": {"kind": "hash"}}}}),
    ("datasets/liver/split", {"kind": "file"}, "datasets.liver.split.path", "nothing", "columns case and split", {"datasets": {"liver": {"split": {"kind": "file", "path": "splits.tsv"}}}}),
    ("datasets/liver/split", {"test_fraction": 0.95}, "datasets.liver.split", "'test_fraction': 0.95", "< 1", {"datasets": {"liver": {"split": {"val_fraction": 0.1, "test_fraction": 0.2}}}}),
    ("datasets/liver/split", {"allow_missing": "maybe"}, "datasets.liver.split.allow_missing", "'maybe'", "true or false", {"datasets": {"liver": {"split": {"allow_missing": False}}}}),
    ("datasets/liver/role", "external", "organs", "'liver'", "spleen", {"datasets": {"liver": {"role": "train"}}}),
    ("datasets/liver/withheld", True, "datasets.liver.withheld_label_map", "{}", "value in the withheld files", {"datasets": {"liver": {"withheld_label_map": {1: "liver", 2: "spleen"}}}}),
    ("datasets/liver/phantom", {"n_train": 0}, "datasets.liver.phantom.n_train", "0", "≥ 1", {"datasets": {"liver": {"phantom": {"n_train": 8}}}}),
    ("datasets/liver/phantom", {"scanner": {"orientation": "XYZ"}}, "datasets.liver.phantom.scanner.orientation", "'XYZ'", "R/L, A/P, S/I", {"datasets": {"liver": {"phantom": {"scanner": {"orientation": "LPS"}}}}}),
    ("datasets/liver/phantom", {"organs": ["kidney", "left_kidney"]}, "datasets.liver.phantom.organs", "['kidney', 'left_kidney']", "kidney (both)", {"datasets": {"liver": {"phantom": {"organs": ["kidney"]}}}}),
    ("datasets/my data", {"path": "/d"}, "datasets", "'my data'", "letters, digits", {"datasets": {"my_data": {"path": "/d"}}}),
    ("datasets/unlabelled", {"path": "/d", "label_map": {}}, "teachers.unlabelled", "'unlabelled'", "name those alone", {"teachers": {"liver": {}, "spleen": {}}}),
    ("teachers", {"t": {"dataset": "btcv"}}, "teachers.t.dataset", "'btcv'", "liver, spleen", {"teachers": {"t": {"dataset": "liver"}}}),
    ("teachers", {"t": {"dataset": "spleeen"}}, "teachers.t.dataset", "'spleeen'", "liver, spleen", {"teachers": {"t": {"dataset": "spleen"}}}),
    ("teachers", {"liver": {"training": {"steps": 0}}}, "teachers.liver.training.steps", "0", "integer ≥ 1", {"teachers": {"liver": {"training": {"steps": 20000}}}}),
    ("methods/msdk", {}, "methods.msdk", "'msdk'", "mskd, naive_union", {"methods": {"mskd": {}}}),
    ("methods/row", {"kind": "self_trainig"}, "methods.row.kind", "'self_trainig'", "mskd, naive_union", {"methods": {"row": {"kind": "self_training"}}}),
    ("methods/teachers", {"kind": "mskd"}, "methods", "'teachers'", "any other name", {"methods": {"my_row": {"kind": "mskd"}}}),
    ("methods/full_labels", {}, "datasets.liver.withheld_label_map", "{}", "methods.full_labels", WITHHELD),
    ("methods/mskd/training", {"learning_rat": 3}, "methods.mskd.training.learning_rat", "3", "steps, batch_size", {"methods": {"mskd": {"training": {"learning_rate": 3}}}}),
    ("methods/mskd/training", {"learning_rate": -3}, "methods.mskd.training.learning_rate", "-3", "number > 0", {"methods": {"mskd": {"training": {"learning_rate": 0.01}}}}),
    ("methods/mskd/training", {"augmentation": {"noise": 1}}, "methods.mskd.training.augmentation.noise", "1", "noise_std", {"methods": {"mskd": {"training": {"augmentation": {"noise_std": 1}}}}}),
    ("methods/mskd/training", {"patch_size": [50, 50, 50]}, "methods.mskd.training.patch_size", "[50, 50, 50]", "[16, 16, 16]", {"methods": {"mskd": {"training": {"patch_size": [48, 48, 48]}}}}),
    ("methods/mskd/distillation", {"temperature": 9}, "methods.mskd.distillation.temperature", "9.0", "1 to 2", {"cache": {"temperatures": [1.0, 9.0]}}),
    ("distillation/temperature", 0.5, "distillation.temperature", "0.5", "1 to 2", {"cache": {"temperatures": [0.5, 2.0]}}),
    ("methods/mskd/distillation", {"feature_taps": ["decoder1"]}, "methods.mskd.distillation.feature_taps", "'decoder1'", "decoder2", {"methods": {"mskd": {"distillation": {"feature_taps": ["decoder2"]}}}}),
    ("methods/mskd/distillation", {"form": "assembled", "hard_targets": True}, "methods.mskd.distillation.hard_targets", "True", "false", {"methods": {"mskd": {"distillation": {"form": "assembled", "hard_targets": False}}}}),
    ("evaluation/nsd_tolerance_mm", [1], "evaluation.nsd_tolerance_mm", "[1]", "number or mapping", {"evaluation": {"nsd_tolerance_mm": 2.0}}),
    ("evaluation/nsd_tolerance_mm", {"liver": 1}, "evaluation.nsd_tolerance_mm", "{'liver': 1.0}", "liver, spleen", {"evaluation": {"nsd_tolerance_mm": {"liver": 1.0, "spleen": 2.0}}}),
    ("evaluation/largest_component", ["livr"], "evaluation.largest_component", "'livr'", "liver, spleen", {"evaluation": {"largest_component": ["liver"]}}),
]  # fmt: skip


def changed(path: str, value: Any) -> dict[str, Any]:
    """Return the good study with one change."""
    data = copy.deepcopy(GOOD)
    *above, last = path.split("/")
    section = data
    for part in above:
        section = section.setdefault(part, {})
    if value is REMOVE:
        del section[last]
    else:
        section[last] = value
    return data


def complaints(text: str) -> dict[str, tuple[str, str, Any]]:
    """Return key → (what was found, what is allowed, proposed YAML) of a message."""
    pattern = r"^  (\S.*?): (.*)\n    allowed: (.*)\n    write instead, for example:\n((?:      .*\n?)+)"
    found = re.findall(pattern, text, re.MULTILINE)
    return {key: (value, allowed, yaml.safe_load(write)) for key, value, allowed, write in found}


def merged(data: dict[str, Any], change: dict[Any, Any]) -> dict[str, Any]:
    """Return a study with the proposed YAML pasted over it."""
    result = dict(data)
    for key, value in change.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict) and not any(map(_is_int, value))
        result[key] = merged(result[key], value) if both else value
    return result


def _is_int(key: object) -> bool:
    return isinstance(key, int)


def test_the_good_study_is_good() -> None:
    assert parse_study(GOOD).teacher_organs("liver") == ["liver"]


@pytest.mark.parametrize(
    ("path", "value", "key", "found", "allowed", "write"),
    CASES,
    ids=[f"{number:02d}-{case[2]}" for number, case in enumerate(CASES)],
)
def test_complaint(path: str, value: Any, key: str, found: str, allowed: str, write: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_study(changed(path, value), source="my.yaml")
    assert re.match(r"my\.yaml: \d+ problems?\n", str(caught.value))
    said = complaints(str(caught.value))
    assert key in said, str(caught.value)
    assert found in said[key][0]
    assert allowed in said[key][1]
    if write:
        assert said[key][2] == write


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if case[2] not in UNFINISHED and case[0] != "methods/full_labels"],
    ids=lambda case: f"{case[2]} {case[1]}",
)
def test_the_proposed_yaml_mends_the_study(case: tuple[str, Any, str, str, str, dict[str, Any]]) -> None:
    path, value, key, _, _, write = case
    # a key or row of another name takes the place of the wrong one; other values are pasted over it
    parse_study(merged(GOOD if key in RENAMED else changed(path, value), write))


def test_every_problem_is_named_at_once() -> None:
    data = changed("training/steps", 0)
    data["network"] = {"features": "wide"}
    with pytest.raises(ConfigError, match="2 problems") as caught:
        parse_study(data)
    assert set(complaints(str(caught.value))) == {"training.steps", "network.features"}
    data = changed("methods/full_labels", {})
    data["cache"] = {"taps": ["decoder9"]}
    with pytest.raises(ConfigError, match="3 problems") as caught:
        parse_study(data)
    assert set(complaints(str(caught.value))) == {
        "cache.taps",
        "datasets.liver.withheld_label_map",
        "datasets.spleen.withheld_label_map",
    }


def test_names_may_hold_dots() -> None:
    data = copy.deepcopy(GOOD)
    data["methods"] = {"mskd.v1": {"kind": "mskd", "training": {"patch_size": [50, 48, 48]}}}
    with pytest.raises(ConfigError) as caught:
        parse_study(data)
    [(_, _, write)] = complaints(str(caught.value)).values()
    assert write == {"methods": {"mskd.v1": {"training": {"patch_size": [48, 48, 48]}}}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ["is empty", "study, title", "organs: [liver]"]),
        ("# only a comment\n", ["is empty", "datasets:"]),
        ("- a\n- b\n", ["holds ['a', 'b']", "study, title", "study: my_study"]),
        ("liver", ["holds 'liver'", "study: my_study"]),
        ("study: [a\n", ["not valid YAML", "line 2", "key: value", "study: my_study"]),
        ("study: a\n\torgans: [liver]\n", ["not valid YAML", "line 2", "without tabs"]),
        ("training: {steps: 1}\ntraining: {steps: 2}\n", ["'training' twice", "line 2", "write it once"]),
        ("training:\n  steps: 1\n  seed: 1\n  steps: 2\n", ["'steps' twice", "line 4"]),
    ],
)
def test_files_that_hold_no_study(tmp_path: Path, text: str, said: list[str]) -> None:
    file = tmp_path / "my.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_study(file)
    for words in [str(file), *said]:
        assert words in str(caught.value)


def test_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_bytes(b"study: \xff\xfe")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_study(tmp_path / "my.yaml")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"no study file .*demo\.yaml; expected a YAML file such as config/demo\.yaml"
    ):
        load_study(tmp_path / "nowhere" / "demo.yaml")
    (tmp_path / "liver_spleen.yaml").touch()
    (tmp_path / "other.yaml").touch()
    with pytest.raises(ConfigError, match=r"such as .*/liver_spleen\.yaml"):
        load_study(tmp_path / "liver_splen.yaml")
