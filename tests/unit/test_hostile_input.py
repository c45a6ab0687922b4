"""What comes from outside runs nothing: no pickles, no modules of its own choice, no words for a shell."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from mskd.config.loading import load_study
from mskd.config.model import Network, Preprocessing
from mskd.errors import ConfigError, MissingArtefactError
from mskd.models import CARD, load_model, read_card, save_model
from mskd.networks.unet import UNet
from mskd.storage import write_json

REPOSITORY = Path(__file__).parents[2]
PYTHON = sorted((REPOSITORY / "mskd").rglob("*.py"))
RULES = [REPOSITORY / "workflow" / "Snakefile", *sorted((REPOSITORY / "workflow" / "rules").glob("*.smk"))]

# calls that can run what a file says, by the last names of the call
UNSAFE = {
    "torch.load",
    "pickle.load",
    "pickle.loads",
    "pd.read_pickle",
    "pandas.read_pickle",
    "joblib.load",
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
    "marshal.loads",
    "shelve.open",
    "eval",
    "exec",
    "os.system",
}


def name_of(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def unsafe_calls(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
            found += [name for name in names if name.split(".")[0] in {"pickle", "dill", "cloudpickle", "joblib"}]
        if isinstance(node, ast.Call):
            name = name_of(node.func)
            options = {word.arg: word.value for word in node.keywords}
            allowed = options.get("allow_pickle")
            if name in UNSAFE or (isinstance(allowed, ast.Constant) and allowed.value is True):
                found.append(name)
            shell = options.get("shell")
            if isinstance(shell, ast.Constant) and shell.value is True:
                found.append(f"{name}(shell=True)")
    return found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import torch\ntorch.load('x')",
        "np.load('x', allow_pickle=True)",
        "run('x', shell=True)",
        "eval('1')",
    ],
)
def test_the_search_finds_what_it_looks_for(source: str) -> None:
    assert unsafe_calls(source)


# what is read in spite of it, each for a reason that a test of its own shows
ALLOWED = {
    "mskd/config/loading.py": ["yaml.load"],  # with a loader of its own, tested below
    # checkpoints of other tools: tensors alone unless the study trusts their checksum (test_foreign_teachers.py)
    "mskd/teachers/runners/monai_bundle.py": ["pickle", "torch.load"],  # UnpicklingError is caught
    "mskd/teachers/runners/nnunetv2.py": ["pickle"],
}


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_no_file_is_read_that_could_run_something(path: Path) -> None:
    allowed = ALLOWED.get(path.relative_to(REPOSITORY).as_posix(), [])
    assert unsafe_calls(path.read_text(encoding="utf-8")) == allowed


def test_a_study_file_runs_nothing(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    study = tmp_path / "study.yaml"
    study.write_text(
        f"study: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{marker}']]"
    )
    with pytest.raises(ConfigError):
        load_study(study)
    assert not marker.exists()


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.name)
def test_every_word_of_a_shell_command_is_quoted(path: Path) -> None:
    commands = re.findall(r"    shell:\n((?:        .*\n)+)", path.read_text(encoding="utf-8"))
    assert commands or path.name == "Snakefile"
    for command in commands:
        words = set(re.findall(r"\{([^}]+)\}", command)) - {"MSKD", "threads"}  # ours, and a number
        assert words
        assert all(word.endswith(":q") for word in words), command


@pytest.mark.parametrize("kind", ["..training.loop", "unet.__loader__", "os", "", 7, ["unet"], None])
def test_a_model_names_no_module_of_its_own_choice(tmp_path: Path, kind: object) -> None:
    save_model(
        tmp_path / "m",
        UNet(Network(features=[2, 3], convolutions_per_level=1), 2),
        labels={"liver": 1},
        preprocessing=Preprocessing(),
        window=(8, 8, 8),
        overlap=0.5,
        stride=(2, 2, 2),
        key="k",
        provenance={},
    )
    card = read_card(tmp_path / "m")
    card["network"]["kind"] = kind
    write_json(tmp_path / "m" / CARD, card)
    with pytest.raises(MissingArtefactError, match=r"damaged|kind of network"):
        load_model(tmp_path / "m")


@pytest.mark.parametrize("organ", ["../liver", "a/b", "a\\b", ".liver", "", "liv\ner", "\x1b[31m"])
def test_a_model_writes_no_file_where_it_likes(tmp_path: Path, organ: str) -> None:
    """Names of labels become names of files with `mskd predict --organ-files`."""
    save_model(
        tmp_path / "m",
        UNet(Network(features=[2, 3], convolutions_per_level=1), 2),
        labels={"liver": 1},
        preprocessing=Preprocessing(),
        window=(8, 8, 8),
        overlap=0.5,
        stride=(2, 2, 2),
        key="k",
        provenance={},
    )
    card = read_card(tmp_path / "m")
    card["labels"] = {organ: 1}
    write_json(tmp_path / "m" / CARD, card)
    with pytest.raises(MissingArtefactError, match="names of files"):
        load_model(tmp_path / "m")
