"""`mskd init`: layouts are recognised, names become organs, and the study file that comes out holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from mskd.cases import check_study_cases
from mskd.cli.app import app
from mskd.config.loading import load_study
from mskd.config.study import Study
from mskd.datasets.case import RawCase
from mskd.draft.labels import Labels, organ_map, organs_of
from mskd.draft.recognition import datasets_at, recognise
from mskd.draft.study_draft import split_of
from mskd.errors import ConfigError
from mskd.organs import read_label_name
from mskd.stages.check_data import check_data
from tests.made_layouts import LAYOUTS, N_CASES, write_layouts

ORGANS = {
    "abdomenatlas": {"liver", "spleen", "kidney"},
    "amos": {"liver", "spleen", "kidney", "pancreas"},
    "btcv": {"liver", "spleen", "kidney", "pancreas"},
    "flare22": {"liver", "spleen", "kidney", "pancreas"},
    "kits": {"kidney"},
    "lits": {"liver"},
    "msd": {"spleen"},
    "nih_pancreas": {"pancreas"},
    "nnunet": {"liver"},
    "table": {"spleen"},
    "totalsegmentator": {"liver", "spleen", "kidney"},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    assert write_layouts(root) == sorted(ORGANS)
    return root


def init(*words: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["init", *map(str, words)], catch_exceptions=True)
    said = done.output + (str(done.exception) if done.exception else "")
    assert (done.exit_code == 0) == (code == 0), said
    return said


def place(data: Path, layout: str) -> Path:
    return data / layout / "cases.tsv" if layout == "table" else data / layout


def draft(tmp_path: Path, *words: object) -> Study:
    file = tmp_path / "mine.yaml"
    init(*words, "-o", file, "--yes", "--size", "small")
    return load_study(file)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_becomes_a_study_that_passes_the_checks(data: Path, tmp_path: Path, layout: str) -> None:
    organs = ",".join(sorted(ORGANS[layout]))
    study = draft(tmp_path, place(data, layout), "--organs", organs)
    (name,) = study.datasets
    assert study.datasets[name].adapter == layout
    assert set(study.organs) == set(study.datasets[name].labelled_organs) == ORGANS[layout]
    counts = check_study_cases(study)[name]
    assert sum(counts.values()) == N_CASES
    assert counts["train"]
    assert counts["test"]
    study = Study.model_validate({**study.model_dump(), "results": tmp_path / "results"})
    assert not check_data(study, (), 1).errors


def test_folders_of_one_folder(data: Path, tmp_path: Path) -> None:
    study = draft(tmp_path, data, place(data, "table"))
    assert {d.adapter: d.role for d in study.datasets.values()} == {
        layout: "train" if len(organs) == 1 else "external" for layout, organs in ORGANS.items()
    }
    assert set(study.organs) == {"liver", "spleen", "kidney", "pancreas"}
    assert set(study.datasets) >= {"liver", "liver_2", "spleen", "spleen_2", "btcv"}
    assert study.datasets["btcv"].label_map[10] == "background"
    assert study.datasets["btcv"].label_map[2] == study.datasets["btcv"].label_map[3] == "kidney"


def test_what_the_user_says_comes_first(data: Path, tmp_path: Path) -> None:
    words = ["--role", "btcv=train", "--role", "n*=external", "--organs", "liver,aorta"]
    study = draft(tmp_path, data / "btcv", data / "nnunet", *words)
    assert {d.adapter: d.role for d in study.datasets.values()} == {"btcv": "train", "nnunet": "external"}
    assert study.organs == ["liver", "aorta"]


def test_the_file_says_what_each_value_is(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "a study.yaml"
    said = init(data / "kits", data / "btcv", "-o", file, "--yes")
    text = file.read_text()
    assert "2: kidney   # tumour" in text
    assert "no commercial use" in text
    assert f"mskd check-data '{file}'" in text
    assert f"mskd check-data '{file}'" in said.replace("\n", "")
    assert yaml.safe_load(text)["study"] == "a_study"


def test_a_file_that_exists_is_kept(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("mine")
    assert "--force" in init(data / "msd", "-o", file, code=1)
    assert file.read_text() == "mine"
    init(data / "msd", "-o", file, "--force")
    assert "spleen" in file.read_text()


def test_nothing_is_written_beside_the_data(data: Path, tmp_path: Path) -> None:
    before = sorted(data.rglob("*"))
    draft(tmp_path, data)
    assert sorted(data.rglob("*")) == before


def test_values_without_a_name_are_asked_for(tmp_path: Path) -> None:
    root = tmp_path / "mine"
    LAYOUTS["msd"](root)
    content = json.loads((root / "dataset.json").read_text())
    del content["labels"]
    (root / "dataset.json").write_text(json.dumps(content))
    said = init(root, "-o", tmp_path / "a.yaml", "--yes", code=1)
    assert "--label mine:1=ORGAN" in said
    study = draft(tmp_path, root, "--label", "mine:1=spleen")
    assert study.datasets["spleen"].label_map == {1: "spleen"}


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    said = init(tmp_path / "photos", "-o", tmp_path / "a.yaml", code=1)
    assert "cat.jpg" in said
    assert "--adapter photos=" in said
    assert "case,image,label" in said
    assert "nothing" in init(tmp_path / "nowhere", "-o", tmp_path / "a.yaml", code=1)
    assert not (tmp_path / "a.yaml").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--label", "msd:one=liver"], "FOLDER:VALUE=ORGAN"),
        (["--label", "msd:0=liver"], "value ≥ 1"),
        (["--role", "msd=test"], "train, external"),
        (["--role", "btcv=train"], "no dataset of this name"),
        (["--adapter", "msd"], "--adapter Task03_Liver=msd"),
        (["--adapter", "msd=kits"], "case_00000"),
        (["--organs", "heart"], "the datasets label spleen"),
        (["--size", "huge"], "small, full"),
    ],
)
def test_options_that_cannot_be_used(data: Path, tmp_path: Path, words: list[str], expected: str) -> None:
    said = init(data / "msd", "-o", tmp_path / "a.yaml", *words, code=1)
    assert expected in said
    assert not (tmp_path / "a.yaml").exists()


def test_faulty_cases_are_left_to_the_checks(tmp_path: Path) -> None:
    LAYOUTS["msd"](tmp_path / "data")
    (tmp_path / "data/labelsTr/spleen_0.nii.gz").unlink()
    study = draft(tmp_path, tmp_path / "data")
    assert "and 1 fault" in (tmp_path / "mine.yaml").read_text()
    study = Study.model_validate({**study.model_dump(), "results": tmp_path / "results"})
    assert [finding.code for finding in check_data(study, (), 1).errors] == ["listing.missing_label"]


def test_recognition(data: Path) -> None:
    assert recognise(data / "msd" / "imagesTr") is None
    (found,) = datasets_at(data / "lits", {})
    assert len(found.cases) == N_CASES  # not its two batches
    with pytest.raises(ConfigError, match="photos"):
        datasets_at(data.parent / "photos", {})


def test_full_size_follows_the_scans(data: Path, tmp_path: Path) -> None:
    init(data / "msd", "-o", tmp_path / "a.yaml", "--size", "full")
    study = load_study(tmp_path / "a.yaml")
    assert study.preprocessing.spacing_mm == (8.0, 8.0, 8.0)
    assert study.training.patch_size == (128, 128, 128)


def test_names_of_organs() -> None:
    assert read_label_name("Gall Bladder").organ == "gallbladder"
    assert read_label_name("kidney_left") == read_label_name("Left Kidney")
    assert read_label_name("liver").organ == read_label_name("Liver").organ == "liver"
    assert read_label_name("cancer").lesion
    assert read_label_name("cancer").organ == ""
    assert not read_label_name("pancreas").lesion


def test_lesions_and_sides() -> None:
    values = {1: "pancreas", 2: "cancer", 3: "left kidney", 4: "kidney tumor", 5: "ignore"}
    assert organ_map(values, ["pancreas", "kidney"]) == {
        1: "pancreas",
        2: "ignore",  # of which organ is not clear
        3: "kidney",
        4: "kidney",
        5: "ignore",
    }
    assert organ_map({1: "pancreas", 2: "cancer"}, ["pancreas"]) == {1: "pancreas", 2: "pancreas"}
    assert organ_map({1: "pancreas", 2: "cancer"}, ["liver"]) == {1: "background", 2: "background"}
    assert organs_of(Labels(values=values)) == ["pancreas", "kidney"]


def test_splits() -> None:
    def cases(*names: str) -> list[RawCase]:
        return [RawCase(name, Path(name)) for name in names]

    assert split_of("spleen", cases("only")) == {"kind": "all", "into": "train"}
    assert split_of("x", cases("a", "b", "c"))["kind"] == "hash"
    spleen = [2, 3, 6, 8, 9, 10, 12, 13, 14, 16, 17, 18, 19, 20, 21, 22, 24, 25, 26, 27, 28, 29, 31, 32, 33, 38, 40]
    spleen += [41, 44, 45, 46, 47, 49, 52, 53, 56, 59, 60, 61, 62, 63]
    assert split_of("milz", cases(*(f"spleen_{n}" for n in spleen))) == {"kind": "builtin", "name": "spleen"}
