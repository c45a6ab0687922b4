"""A study file with a comment at every choice."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from mskd.cases import check_study_cases
from mskd.config.loading import parse_study
from mskd.draft.study_draft import DatasetDraft, StudyDraft
from mskd.errors import ConfigError
from mskd.organs import ORGANS
from mskd.storage import write_text

Size = Literal["small", "full"]
SIZES: tuple[Size, ...] = ("small", "full")
ANISOTROPIC = 2.0  # slices so many times thicker than pixels are wide: the first step down leaves z alone


@dataclass(frozen=True)
class _Scale:
    """Network and training of a size."""

    why: str
    spacing_mm: tuple[float, float, float]
    features: list[int]
    strides: list[list[int]] | None
    patch_size: list[int]
    steps: int
    tap: str
    workers: int


def next_commands(file: Path) -> list[str]:
    """Return what one does with a new study file."""
    path = shlex.quote(str(file))
    return [f"mskd check-data {path}", f"mskd plan {path}", f"snakemake --configfile {path} --cores 2"]


def write_study_file(draft: StudyDraft, file: Path, size: Size, *, force: bool = False) -> None:
    """Write a study file, once it is sure that it can be read and its cases be split.

    Args:
        draft: What it says of data.
        file: File to write; its stem becomes the study's name.
        size: small or full.
        force: Replace a file that exists.

    Raises:
        ConfigError: If the file exists, or the study that it would hold cannot be used.
    """
    if file.exists() and not force:
        raise ConfigError(f"{file} exists; write --force to replace it, or another -o FILE")
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", file.stem).strip("_.-") or "my_study"
    text = study_file(draft, name, size, file)
    faulty = {"on_bad_case": "skip"}  # cases whose files are not as they should be are for check-data to name
    check_study_cases(parse_study({**yaml.safe_load(text), **faulty}, source=str(file)))
    write_text(file, text)


def study_file(draft: StudyDraft, name: str, size: Size, file: Path) -> str:
    """Return the YAML of a study.

    Args:
        draft: What it says of data.
        name: Its name.
        file: Where it will lie, for the commands in its comment.
        size: small: for two CPU cores and a first look; full: for a GPU.
    """
    scale = _scale(draft, size)
    tested = [organ for organ in draft.organs if organ in ORGANS and not ORGANS[organ].paired]
    lines = [
        f"# {name}: drafted by `mskd init`. Every key that is not here has its default: docs/configuration.md.",
        "# Look at the data, learn the cost, run it (on a cluster: docs/slurm.md):",
        *(f"#   {command}" for command in next_commands(file)),
        f"study: {_value(name)}",
        f"title: {_value(', '.join(draft.organs) + ' from ' + _count(len(draft.datasets), 'dataset'))}",
        "",
        "# What one network will segment. Left and right are one organ; to part them, name both here and below.",
        f"organs: {_value(list(draft.organs))}",
        "",
        "# Read in place: nothing is copied, moved or renamed.",
        "datasets:",
        *(line for dataset in draft.datasets for line in _dataset(dataset)),
        "",
        "# Rows of the tables; docs/methods.md has the others.",
        "methods:",
        "  individual: {}      # one network per dataset, together: what there is without distillation",
        "  self_training: {}   # one network, from the others' hard predictions",
        "  mskd: {}            # one network, distilled from all of them",
        "",
        "runs:",
        "  seeds: [0]          # [0, 1, 2] for tables that one can trust",
        "",
        f"# {scale.why}",
        "preprocessing:",
        f"  spacing_mm: {_value([*scale.spacing_mm])}   # the scans' median is {_value(_rounded(draft.spacing_mm, 2))}",
        "  hu_clip: [-325.0, 325.0]",
        *(["  antialias: true"] if size == "small" else []),
        "",
        "network:",
        f"  features: {_value(scale.features)}",
        *([f"  strides: {_value(scale.strides)}"] if scale.strides else []),
        "",
        "training:",
        f"  steps: {scale.steps}",
        f"  patch_size: {_value(scale.patch_size)}   # voxels",
        *([f"  workers: {scale.workers}          # processes that read patches"] if scale.workers else []),
        "",
        "cache:",
        f"  taps: [{scale.tap}]   # features that the student is compared at",
    ]
    if tested:
        lines += ["", "evaluation:", f"  largest_component: {_value(tested)}   # organs of one piece"]
    return "\n".join(lines) + "\n"


def _dataset(dataset: DatasetDraft) -> list[str]:
    found = dataset.found
    lines = [
        f"  {_value(dataset.name)}: # {found.adapter.title}; {_count(len(found.cases), 'case')}"
        + (f", and {_count(len(found.problems), 'fault')}: see `mskd check-data`" if found.problems else ""),
        f"    adapter: {found.adapter.name}",
        f"    path: {_value(str(found.root))}",
    ]
    if found.adapter.licence:
        note = "; no commercial use" if found.adapter.non_commercial else ""
        lines.insert(1, f"    # licence, where it is the public dataset: {found.adapter.licence}{note}")
    if dataset.role == "external":
        lines.append("    role: external   # only tested on; `train` gives it a teacher of its own")
    structures = [key for key in dataset.names if isinstance(key, str)]
    if structures and "structures" in found.adapter.options:
        lines.append(f"    options: {_value({'structures': ','.join(structures)})}")
    lines.append("    structures:" if structures else "    label_map: # value in the label files")
    lines += [
        f"      {_value(key)}: {_value(organ)}" + (f"   # {dataset.names[key]}" if dataset.names[key] != organ else "")
        for key, organ in dataset.meaning.items()
    ]
    if dataset.role == "train":
        lines.append(f"    split: {_value(dict(dataset.split))}")
    return lines


def _scale(draft: StudyDraft, size: Size) -> _Scale:
    if size == "small":
        return _Scale(
            why="Size: for a first look on two CPU cores (`mskd init --size full` writes what a GPU is for).",
            spacing_mm=_rounded(tuple(max(3.0, mm) for mm in draft.spacing_mm), 1),
            features=[16, 32, 64, 128],
            strides=None,
            patch_size=[64, 64, 64],
            steps=3000,
            tap="decoder1",
            workers=0,
        )
    flat = draft.spacing_mm[2] >= ANISOTROPIC * max(draft.spacing_mm[:2])
    return _Scale(
        why="Size: for a GPU (`mskd init --size small` writes what two CPU cores can do).",
        spacing_mm=_rounded(draft.spacing_mm, 2),
        features=[32, 64, 128, 256, 320],
        strides=[[1, 1, 1], [2, 2, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2]] if flat else None,
        patch_size=[160, 160, 64] if flat else [128, 128, 128],
        steps=60_000,
        tap="decoder2",
        workers=6,
    )


def _rounded(spacing_mm: tuple[float, ...], digits: int) -> tuple[float, float, float]:
    x, y, z = (round(mm, digits) for mm in spacing_mm)
    return x, y, z


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _value(value: Any) -> str:
    """Return a value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**9)
    return text.removesuffix("...\n").strip()
