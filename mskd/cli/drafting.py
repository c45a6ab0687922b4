"""What `mskd init` asks and shows."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from mskd.config.data import BACKGROUND, IGNORE
from mskd.console import printable
from mskd.draft.study_draft import ROLES, Answers, Candidate, Role, StudyDraft
from mskd.draft.study_file import SIZES, Size, next_commands
from mskd.errors import ConfigError


def answers_from(organs: str, adapters: Sequence[str], labels: Sequence[str], roles: Sequence[str]) -> Answers:
    """Return what the options say.

    Raises:
        ConfigError: If an option is not of its form.
    """
    answers = Answers(organs=[organ.strip() for organ in organs.split(",") if organ.strip()])
    answers.adapters = dict(_pair("adapter", text, "Task03_Liver=msd") for text in adapters)
    for text in labels:
        where, organ = _pair("label", text, "mine:1=liver")
        folder, _, value = where.rpartition(":")
        if not folder or not re.fullmatch(r"[1-9][0-9]{0,8}", value):
            raise ConfigError(f"--label {text}: write FOLDER:VALUE=ORGAN with a value ≥ 1, such as mine:1=liver")
        answers.labels.setdefault(folder, {})[int(value)] = organ
    for text in roles:
        folder, name = _pair("role", text, "BTCV=external")
        answers.roles[folder] = _role(name)
    return answers


def size_from(text: str) -> Size:
    """Return a size; auto looks for a GPU's driver.

    Raises:
        ConfigError: If there is no such size.
    """
    if text == "auto":
        return "full" if shutil.which("nvidia-smi") else "small"
    for size in SIZES:
        if text == size:
            return size
    raise ConfigError(f"--size {text}: allowed are auto, {', '.join(SIZES)}")


def ask_for_names(candidates: Sequence[Candidate]) -> None:
    """Ask what the values mean of which nothing says it."""
    for candidate in candidates:
        for value in candidate.unnamed:
            question = f"{candidate.found.root}: value {value} in its label files is (an organ, {IGNORE}, {BACKGROUND})"
            candidate.labels.values[value] = typer.prompt(question).strip()


def show_draft(draft: StudyDraft, file: Path) -> None:
    """Print what was found, and what to do next."""
    table = Table(title=f"{file}: {', '.join(draft.organs)}", title_justify="left")
    for column in ("dataset", "layout", "role", "cases", "labels", "split"):
        table.add_column(column, overflow="fold")
    for dataset in draft.datasets:
        counts = Counter(dataset.meaning.values())
        labels = [organ + (f" ({counts[organ]} values)" if counts[organ] > 1 else "") for organ in dataset.organs]
        faults = f", {len(dataset.found.problems)} faulty" if dataset.found.problems else ""
        table.add_row(
            dataset.name,
            dataset.found.adapter.name,
            dataset.role,
            f"{len(dataset.found.cases)}{faults}",
            ", ".join(labels),
            str(dataset.split.get("kind", "all test")),
        )
    Console().print(table, markup=False)
    typer.echo("Next:\n" + "\n".join(f"  {printable(command)}" for command in next_commands(file)))


def _pair(option: str, text: str, example: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    if not key.strip() or not value.strip():
        raise ConfigError(f"--{option} {text}: write for example --{option} {example}")
    return key.strip(), value.strip()


def _role(name: str) -> Role:
    for role in ROLES:
        if name == role:
            return role
    raise ConfigError(f"--role …={name}: allowed are {', '.join(ROLES)}")
