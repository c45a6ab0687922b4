"""Every example of docs/teachers.md is a whole study that is accepted."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from mskd.config.loading import parse_study
from mskd.config.teachers import OF_KIND
from mskd.teachers.windowed import read_spec

PAGE = (Path(__file__).parents[2] / "docs/teachers.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("text", EXAMPLES)
def test_an_example_is_a_study(text: str) -> None:
    study = parse_study({"study": "example", **yaml.safe_load(text)})
    assert any(teacher.given for teacher in study.teachers.values())


def test_every_kind_has_an_example() -> None:
    shown = {
        teacher.get("kind", "trained") for text in EXAMPLES for teacher in yaml.safe_load(text)["teachers"].values()
    }
    assert shown == set(OF_KIND)


def test_the_preprocessing_by_hand(tmp_path: Path) -> None:
    [text] = re.findall(r"^```json\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    path = tmp_path / "preprocessing.json"
    path.write_text(json.dumps(json.loads(text)))
    assert read_spec(path).channels == ["background", "liver", "spleen"]
