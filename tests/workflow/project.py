"""A copy of this project in a folder of its own, with a tiny study, so that tests may change code and data."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import yaml

REPOSITORY = Path(__file__).parents[2]
ORGANS = {"liver": (0, 110.0), "spleen": (1, 140.0), "kidney": (2, 180.0)}
AFFINE = np.diag([8.0, 8.0, 8.0, 1.0])
SPLITS = ["train", "train", "test"]

STUDY: dict[str, Any] = {
    "study": "tiny",
    "organs": ["liver", "spleen"],
    "datasets": {},
    "methods": {"individual": {}, "naive_union": {}, "mskd": {}},
    "preprocessing": {"spacing_mm": [8, 8, 8], "crop_to_body": False},
    "network": {"features": [4, 8]},
    "training": {
        "steps": 6,  # enough that every case of three is drawn
        "batch_size": 1,
        "patch_size": [8, 8, 8],
        "threads": 1,
        "validation_cases": 0,
        "log_every": 2,
    },
    "cache": {"taps": ["decoder0"]},
    "inference": {"threads": 1},
}


@dataclass(frozen=True)
class Project:
    """A copy of the project.

    Attributes:
        root: Its folder, in which everything is run.
    """

    root: Path

    @property
    def study_file(self) -> Path:
        """The tiny study."""
        return self.root / "config" / "tiny.yaml"

    @property
    def results(self) -> Path:
        """Everything that the study produces."""
        return self.root / "results" / "tiny"

    def edit_study(self, change: Callable[[dict[str, Any]], object]) -> None:
        """Change the study file."""
        study = yaml.safe_load(self.study_file.read_text())
        change(study)
        self.study_file.write_text(yaml.safe_dump(study, sort_keys=False))

    def edit_code(self, module: str, old: str, new: str) -> None:
        """Replace text that a module holds once."""
        path = self.root / "mskd" / module
        text = path.read_text()
        assert text.count(old) == 1, f"{module} holds {old!r} {text.count(old)} times"
        path.write_text(text.replace(old, new))

    def snakemake(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the workflow with the copied code."""
        command = [sys.executable, "-m", "snakemake", "--configfile", "config/tiny.yaml", "--cores", "2", *arguments]
        return self.run(*command, check=check)

    def run(
        self, *command: str, check: bool = True, environment: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the project's folder."""
        own = {"PYTHONPATH": str(self.root), "PYTHONDONTWRITEBYTECODE": "1"}
        environment = {**os.environ, **own, **(environment or {})}
        done = subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
        return done

    def scheduled(self, *arguments: str) -> dict[str, int]:
        """Return how many jobs of each rule a dry run would start."""
        done = self.snakemake("--dry-run", *arguments)
        rows = re.findall(r"^(\w+) +(\d+) *$", done.stdout + done.stderr, re.MULTILINE)
        return {rule: int(count) for rule, count in rows if rule not in ("total", "all")}

    def artefacts(self) -> dict[str, tuple[int, int]]:
        """Return every artefact of the study with what changes when it is made again (inode and time of writing)."""
        found = {}
        for pattern in ARTEFACTS:
            for path in self.results.glob(pattern):
                status = path.stat()
                found[_name(path.relative_to(self.results))] = status.st_ino, status.st_mtime_ns
        return found

    def predictions(self) -> dict[str, bytes]:
        """Return the content of every predicted label map."""
        paths = self.results.glob("predictions/*/*/*/*/*.nii.gz")
        return {_name(path.relative_to(self.results)): path.read_bytes() for path in paths}


ARTEFACTS = [
    "prepared/*/*/*.zarr/zarr.json",
    "models/**/model.safetensors",
    "cache/*/*/*/*/*.zarr/zarr.json",
    "predictions/*/*/*/*/*.nii.gz",
    "scores/*/*/*/*/*.json",
    "metrics.csv",
]


def _name(path: Path) -> str:
    """Return `prepared/liver/liver_0`: an artefact's path without runs, blocks and suffixes."""
    parts = [part for part in path.parts if not re.fullmatch(r"b\d\d|fold0-seed0|zarr.json|model.safetensors", part)]
    return "/".join(parts).removesuffix(".zarr").removesuffix(".nii.gz").removesuffix(".json")


def write_dataset(root: Path, organ: str, n_cases: int = 3) -> None:
    """Write a dataset in the MSD layout: cubes of the organ in noise."""
    for index in range(n_cases):
        write_case(root / organ, organ, index)


def write_case(folder: Path, organ: str, index: int, *, shift: float = 0.0, shape: int = 16) -> None:
    """Write one scan and its label."""
    rng = np.random.default_rng(sum(map(ord, organ)) + index)
    image = rng.normal(40 + shift, 10, (shape, shape, shape)).astype(np.int16)
    image[:, -4:-2] -= 140  # fat, and air beyond it: what the checks know a CT by
    image[:, -2:] = -1000
    label = np.zeros(image.shape, np.uint8)
    for name, (place, hu) in ORGANS.items():
        box = (slice(5 * place, 5 * place + 4), slice(4, 10), slice(4, 10))
        image[box] += np.int16(hu)
        if name == organ:
            label[box] = 1
    for kind, array in (("imagesTr", image), ("labelsTr", label)):
        path = folder / kind / f"{organ}_{index}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, AFFINE), path)


def dataset_section(organ: str) -> dict[str, Any]:
    """Return the study's section of a dataset."""
    return {
        "adapter": "msd",
        "path": f"data/{organ}",
        "label_map": {1: organ},
        "split": {"kind": "file", "path": f"data/{organ}.tsv", "val_fraction": 0},
        "blocks": 2,
    }


def write_splits(root: Path, organ: str, splits: list[str]) -> None:
    """Write which case falls into which split."""
    rows = [f"{organ}_{index}\t{split}" for index, split in enumerate(splits)]
    (root / "data" / f"{organ}.tsv").write_text("\n".join(["case\tsplit", *rows]) + "\n")


def make_project(root: Path) -> Project:
    """Copy the code and write two datasets and the study."""
    project = Project(root)
    for name in ("mskd", "workflow", "profiles"):
        shutil.copytree(REPOSITORY / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    project.study_file.parent.mkdir()
    study = {**STUDY, "datasets": {}}
    for organ in study["organs"]:
        write_dataset(root / "data", organ)
        write_splits(root, organ, SPLITS)
        study["datasets"][organ] = dataset_section(organ)
    project.study_file.write_text(yaml.safe_dump(study, sort_keys=False))
    return project


def copy_of(project: Project, folder: Path) -> Project:
    """Copy a project with all its results and their times of writing."""
    shutil.copytree(project.root, folder / "project", symlinks=True)
    return Project(folder / "project")
