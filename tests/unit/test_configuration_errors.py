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
RENAMED = {
    *("trainig", "training.step", "learning_rate", "training.colour", "datasets.liver.options.unlabeled"),
    *("methods.msdk", "methods", "methods.mskd.training.learning_rat", "methods.mskd.training.augmentation.noise"),
}
UNFINISHED = {"organs", "datasets", "datasets.liver"}  # the YAML shows the form; what it holds is the user's to say
CASES: list[dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("wrong_studies.yaml").read_text(encoding="utf-8"))


def changed(case: dict[str, Any]) -> dict[str, Any]:
    """Return the good study with the change of a case."""
    data = copy.deepcopy(GOOD)
    *above, last = case["change"].split("/")
    section = data
    for part in above:
        section = section.setdefault(part, {})
    if "to" in case:
        section[last] = case["to"]
    else:
        del section[last]
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


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['key']}={case.get('to')}")
def test_complaint(case: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_study(changed(case), source="my.yaml")
    assert re.match(r"my\.yaml: \d+ problems?\n", str(caught.value))
    said = complaints(str(caught.value))
    assert case["key"] in said, str(caught.value)
    found, allowed, write = said[case["key"]]
    assert case["found"] in found
    assert case["allowed"] in allowed
    assert write == case["write"]


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if case["key"] not in UNFINISHED and case["change"] != "methods/full_labels"],
    ids=lambda case: f"{case['key']}={case.get('to')}",
)
def test_the_proposed_yaml_mends_the_study(case: dict[str, Any]) -> None:
    # a key or row of another name takes the place of the wrong one; other values are pasted over it
    parse_study(merged(GOOD if case["key"] in RENAMED else changed(case), case["write"]))


def test_every_problem_is_named_at_once() -> None:
    data = changed({"change": "training/steps", "to": 0})
    data["network"] = {"features": "wide"}
    with pytest.raises(ConfigError, match="2 problems") as caught:
        parse_study(data)
    assert set(complaints(str(caught.value))) == {"training.steps", "network.features"}
    data = changed({"change": "methods/full_labels", "to": {}})
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
