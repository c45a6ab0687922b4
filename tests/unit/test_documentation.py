"""The generated pages follow the code, every key is described, and every example is a study that parses."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml
from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

from mskd.config import documentation
from mskd.config.allowed import allowed_values
from mskd.config.dataset_page import example_study
from mskd.config.loading import parse_study
from mskd.config.section import default_of, is_section, key, members, sections, unit_of
from mskd.config.study import Study
from mskd.datasets.listing import adapter_facts, adapter_names

REPOSITORY = Path(__file__).parents[2]
KEYS = [
    pytest.param(path, name, field, id=".".join([*path, name]))
    for path, section in sections(Study)
    for name, field in section.model_fields.items()
]
UNITS = {"mm": "mm", "hu": "HU", "deg": "degrees", "gib": "GiB", "steps": "steps", "cases": "cases", "bits": "bits"}
# numbers that are counts of nothing, shares, weights, factors, or names of random streams
PLAIN = re.compile(
    r"seeds?|folds|level|scale|contrast|gamma|weight_decay|learning_rate|gradient_clip|ema_decay|overlap|temperatures?|"
    r"\w*_(fraction|share|probability|weight)|label_map|withheld_label_map|hu_slope"
)


def test_pages_follow_the_code() -> None:
    found = documentation.differences()
    assert not found, f"{found}\n\nto repair: {documentation.REPAIR}"


def test_check_prints_the_difference_and_the_repair(tmp_path: Path) -> None:
    for path in documentation.generated_files():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / path, tmp_path / path)
    command = [sys.executable, "-m", "mskd.config.documentation", "--root", str(tmp_path)]
    page = tmp_path / "docs" / "configuration.md"

    def check() -> tuple[int, str]:
        done = subprocess.run([*command, "--check"], capture_output=True, text=True, check=False, cwd=REPOSITORY)
        return done.returncode, done.stdout

    assert check() == (0, "")
    page.write_text(page.read_text().replace("| `steps` | `20000` |", "| `steps` | `10` |"))
    code, text = check()
    assert code == 1
    assert "-| `steps` | `10` |" in text
    assert "+| `steps` | `20000` |" in text
    assert text.rstrip().endswith("python -m mskd.config.documentation")
    (tmp_path / "config" / "study.schema.json").unlink()
    assert check()[0] == 1
    subprocess.run(command, check=True, cwd=REPOSITORY)
    assert check() == (0, "")


@pytest.mark.parametrize(("path", "name", "field"), KEYS)
def test_every_key_is_described(path: tuple[str, ...], name: str, field: FieldInfo) -> None:
    assert not field.is_required()
    assert field.description
    suffix = name.rpartition("_")[2]
    if suffix in UNITS:
        assert unit_of(field) == UNITS[suffix]
    numeric = re.search(r"\b(integers?|numbers?)\b", allowed_values(field))
    if numeric and not any(is_section(part) for part in members(field.annotation)) and not PLAIN.fullmatch(name):
        assert unit_of(field), f"{'.'.join(path)}.{name} is a number without a unit"


@pytest.mark.parametrize(("path", "name", "field"), KEYS)
def test_every_key_shows_a_value(path: tuple[str, ...], name: str, field: FieldInfo) -> None:
    if default_of(field) in (None, "", [], {}):
        assert field.examples, f"{'.'.join(path)}.{name}: the default shows nothing; give it an example"
    for example in field.examples or []:
        TypeAdapter(field.annotation).validate_python(example)


def test_every_key_has_a_row() -> None:
    page = documentation.configuration_page()
    rows = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert rows == [name for _, section in sections(Study) for name in section.model_fields]
    assert "# yaml-language-server: $schema=study.schema.json" in page
    assert "| `learning_rate` | `0.01` |  | number > 0 | peak learning rate |" in page
    assert "| `noise_hu` | `12.0` | HU | number ≥ 0 |" in page
    anchors = set(re.findall(r"\(#(\S+)\)", page))
    titles = re.findall(r"^###? (.*)$", page, re.MULTILINE)
    assert anchors == {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles} - {"sections"}


def test_sections_walk_reaches_the_deepest() -> None:
    found = [".".join(path) for path, _ in sections(Study)]
    assert len(found) == len(set(found))
    assert {"", "training.augmentation", "datasets.<name>.phantom.scanner", "methods.<name>"} <= set(found)


@pytest.mark.parametrize("text", [30, 0.5])
def test_allowed_values_in_words(text: float) -> None:
    field: FieldInfo = key(1, "d", ge=text, lt=100)
    field.annotation = int
    assert allowed_values(FieldInfo.from_annotated_attribute(int, field)) == f"integer ≥ {text:g} and < 100"


@pytest.mark.parametrize("path", sorted((REPOSITORY / "config").glob("*.yaml")), ids=lambda path: path.stem)
def test_studies_fit_the_schema(path: Path) -> None:
    schema = json.loads(documentation.study_schema())
    jsonschema.Draft202012Validator.check_schema(schema)
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# yaml-language-server: $schema=study.schema.json\n")
    study = json.loads(json.dumps(yaml.safe_load(text)))  # keys as text, as an editor sees them
    jsonschema.validate(study, schema)
    for wrong in (
        {**study, "trainig": {}},
        {**study, "training": {"steps": 0}},
        {**study, "methods": {"mskd": {"training": {"learning_rat": 1}}}},
        {**study, "methods": {"mskd": {"distillation": {"form": "other"}}}},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)


def yaml_blocks(path: Path) -> list[str]:
    return re.findall(r"^```yaml\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    ("file", "count"), [("config/README.md", 2), ("README.md", 1), ("docs/datasets.md", len(adapter_names()))]
)
def test_every_yaml_block_is_a_study(file: str, count: int) -> None:
    blocks = yaml_blocks(REPOSITORY / file)
    assert len(blocks) >= count
    for block in blocks:
        study = parse_study(yaml.safe_load(block), source=file)
        assert study.teachers


def test_the_smallest_study_of_the_readme() -> None:
    study = parse_study(yaml.safe_load(yaml_blocks(REPOSITORY / "config" / "README.md")[0]))
    assert study.organs == ["liver", "spleen"]
    assert [study.teacher_organs(name) for name in study.teachers] == [["liver"], ["spleen"]]


def test_the_message_that_the_readme_shows_is_the_one_that_comes() -> None:
    from mskd.errors import ConfigError

    text = (REPOSITORY / "config" / "README.md").read_text(encoding="utf-8")
    [shown] = re.findall(r"^```text\nerror: (.*?)\n```", text, re.MULTILINE | re.DOTALL)
    data = yaml.safe_load(yaml_blocks(REPOSITORY / "config" / "README.md")[0])
    data["datasets"]["liver"]["label_map"][2] = "livr"
    with pytest.raises(ConfigError) as caught:
        parse_study(data, source="config/liver_spleen.yaml")
    assert str(caught.value) == shown


@pytest.mark.parametrize("adapter", adapter_names())
def test_examples_of_adapters(adapter: str) -> None:
    facts = adapter_facts(adapter)
    assert facts.text
    study = parse_study(yaml.safe_load(example_study(facts)))
    [dataset] = study.datasets.values()
    assert dataset.adapter == adapter
    assert dataset.labelled_organs == study.organs
    page = (REPOSITORY / "docs" / "datasets.md").read_text(encoding="utf-8")
    chapter = page.partition(f"### {adapter}\n")[2].partition("\n### ")[0]
    for text in (facts.layout, facts.licence, example_study(facts), *facts.options, *facts.options.values()):
        assert text in chapter


@pytest.mark.parametrize("file", ["docs/concepts.md", "docs/datasets.md", "docs/configuration.md", "config/README.md"])
def test_links_lead_somewhere(file: str) -> None:
    path = REPOSITORY / file
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target


def test_honest_words() -> None:
    text = " ".join((REPOSITORY / "docs" / "concepts.md").read_text(encoding="utf-8").split())
    for words in ("arXiv 2108.02559", "equations are not available to us", "Not for clinical use"):
        assert words in text
