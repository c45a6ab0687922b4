"""The command line: help with examples, nothing heavy before it is needed, errors without a traceback."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
import typer.main
from typer.testing import CliRunner

from mskd import __version__
from mskd.cli.app import app
from mskd.cli.joint_work import check_parts
from mskd.config.loading import load_study
from mskd.errors import ConfigError

REPOSITORY = Path(__file__).parents[2]
HEAVY = {"torch", "zarr", "pandas", "scipy", "matplotlib", "nibabel", "snakemake"}
CONTRACT = {
    "init",
    "check-data",
    "export",
    "prepare",
    "train-teacher",
    "cache",
    "train-student",
    "predict",
    "evaluate",
    "tabulate",
    "phantom",
    "plan",
}


def commands(group: click.Command, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], click.Command]:
    """Return every command by its words."""
    found = {}
    for name, command in getattr(group, "commands", {}).items():
        found[*path, name] = command
        found |= commands(command, (*path, name))
    return found


COMMANDS = commands(typer.main.get_command(app))


def mskd(*words: str, folder: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mskd", *words], capture_output=True, text=True, check=False, cwd=folder
    )


def modules_after(code: str) -> set[str]:
    """Return the heavy modules that a piece of code loads."""
    script = f"import sys\n{code}\nprint(*{HEAVY!r} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    return set(done.stdout.splitlines()[-1].split()) if done.stdout.strip() else set()


def help_of(words: tuple[str, ...]) -> str:
    """Return the help of a command, line breaks undone."""
    done = mskd(*words, "--help")
    assert done.returncode == 0, done.stderr
    return " ".join(done.stdout.split())


def test_help_names_every_command() -> None:
    text = help_of(())
    assert "Not for clinical use" in text
    assert "Example: snakemake --configfile" in text
    tops = {words[0] for words in COMMANDS}
    assert tops >= CONTRACT
    for name in tops:
        assert f" {name} " in text


def test_version() -> None:
    assert mskd("--version").stdout == f"mskd {__version__}\n"


@pytest.mark.parametrize(
    "words", [words for words, command in COMMANDS.items() if not hasattr(command, "commands")], ids=" ".join
)
def test_help_shows_an_example_of_the_command(words: tuple[str, ...]) -> None:
    done = CliRunner().invoke(app, [*words, "--help"])
    assert done.exit_code == 0
    text = " ".join(done.stdout.split())
    example = text.partition("Example: ")[2]
    assert f"mskd {' '.join(words)} " in example
    known = {option for parameter in COMMANDS[words].params for option in parameter.opts}
    own = [part for part in re.split(r"(?=\bmskd )", example) if part.startswith(f"mskd {' '.join(words)} ")]
    used = {option for part in own for option in re.findall(r"(?<=\s)--?[a-z][\w-]*", part)}
    assert used <= known, f"the example uses {used - known}, which the command does not have"
    assert COMMANDS[words].help


@pytest.mark.parametrize("words", [("cache",)])
def test_help_of_a_group_lists_its_commands(words: tuple[str, ...]) -> None:
    text = help_of(words)
    for other in COMMANDS:
        if other[:-1] == words:
            assert f" {other[-1]} " in text


def test_nothing_heavy_is_imported() -> None:
    assert modules_after("import mskd") == set()
    assert modules_after("import mskd.cli.app") == set()
    assert modules_after("import mskd.config.loading, mskd.dag, mskd.leaves, mskd.cases") == set()
    assert modules_after("import zarr") != set()  # that the question is a good one


def test_help_imports_nothing_heavy() -> None:
    run = "import sys; sys.argv = ['mskd', {words}'--help']\n"
    run += "try:\n    from mskd.cli import main\n    main()\nexcept SystemExit: pass"
    assert modules_after(run.format(words="")) == set()
    assert modules_after(run.format(words="'train-student', ")) == set()


def test_reading_a_study_imports_nothing_heavy() -> None:
    code = "from pathlib import Path; from mskd.config.loading import load_study; from mskd.dag import Graph\n"
    assert modules_after(code + "Graph(load_study(Path('config/demo.yaml'))).metrics()") == set()


BAD = {
    "typing error": ("trainig: {steps: 3}\n", ["error: ", "trainig", "allowed: ", "training: {steps: 3}"]),
    "no YAML": ("study: [a\n", ["error: ", "not valid YAML"]),
    "empty": ("", ["error: ", "is empty"]),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize(
    "words",
    [
        ("status", "STUDY"),
        ("prepare", "--study", "STUDY", "--dataset", "liver", "--block", "b00"),
        ("tabulate", "--study", "STUDY", "--show"),
    ],
    ids=lambda words: words[0],
)
def test_a_bad_study_is_explained(name: str, words: tuple[str, ...], tmp_path: Path) -> None:
    text, said = BAD[name]
    (tmp_path / "bad.yaml").write_text(text)
    done = mskd(*(str(tmp_path / "bad.yaml") if word == "STUDY" else word for word in words))
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    for part in [*said, "bad.yaml"]:
        assert part in done.stderr


def test_a_missing_study_is_explained() -> None:
    done = mskd("status", "config/dmo.yaml")
    assert done.returncode == 1
    assert done.stderr == "error: no study file config/dmo.yaml; expected a YAML file such as config/demo.yaml\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("predict",), "mskd predict needs -m MODEL -i INPUT -o OUTPUT"),
        (("evaluate",), "mskd evaluate needs --reference DIR"),
        (
            ("evaluate", "--reference", "a", "--prediction", "b", "--output", "c", "--labels", '{"a": 1, "a": 2}'),
            "--labels: ['a'] occur twice",
        ),
        (("phantom",), "mskd phantom needs --study FILE --dataset NAME, or --output FOLDER"),
        (
            ("evaluate", "--reference", "a", "--prediction", "b", "--output", "c", "--labels", "{x"),
            "--labels: not valid",
        ),
        (("evaluate", "--reference", "a", "--prediction", "b", "--output", "c", "--labels", "[1]"), "--labels: found"),
    ],
)
def test_missing_and_wrong_options_are_explained(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    done = mskd(*words, folder=tmp_path)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("stage", "parts", "said"),
    [
        ("evaluate", ("mskd", "fold0-seed0", ""), "--dataset: is missing; the study has liver, spleen"),
        ("evaluate", ("mskd", "fold0-seed0", "nope"), "--dataset: no dataset 'nope'; the study has liver"),
        ("evaluate", ("mskd", "foo", "liver"), "--run: no run 'foo'; the study has fold0-seed0"),
        ("evaluate", ("nope", "fold0-seed0", "liver"), "--method: no method 'nope'; the study has individual"),
        ("train_teacher", ("nope", "fold0-seed0"), "--teacher: no teacher 'nope'; the study has liver"),
        ("predict", ("mskd", "fold0-seed0", "liver", ""), "--block: is missing"),
    ],
)
def test_names_that_a_study_does_not_have_are_refused(stage: str, parts: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_parts(load_study(REPOSITORY / "config/demo.yaml"), stage, parts)
    assert said in str(caught.value)


def test_an_unknown_command_is_a_usage_error() -> None:
    done = mskd("train")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
