"""Datasets: where the scans are, what their files' values mean, and how cases are split."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import field_validator, model_validator

from mskd.config.faults import Fault, FaultsError
from mskd.config.phantom import PhantomDataset
from mskd.config.section import Section, key

SplitKind = Literal["native", "builtin", "file", "hash", "all"]

IGNORE = "ignore"
BACKGROUND = "background"
_VARIABLE = re.compile(r"\$\{(\w+)\}")


class Split(Section):
    """How the cases of a dataset are divided into training, validation and test."""

    kind: SplitKind = key(
        "hash",
        "native: what the layout itself says; builtin: the split the field uses for this public dataset; "
        "file: a table of case and split; hash: seeded, by hash of the case id; all: every case into `into`",
    )
    name: str = key(
        "", "builtin: which one (liver, kidney, pancreas, spleen); empty: the dataset's own name", example="liver"
    )
    path: Path | None = key(None, "file: a TSV or CSV with the columns case and split", example="splits.tsv")
    allow_missing: bool = key(
        False,
        "builtin and file: names in the table that are not on disk are left out; otherwise they are an error",
    )
    val_fraction: float = key(0.1, "share of cases (builtin: of training cases) kept for validation", ge=0, lt=1)
    test_fraction: float = key(0.2, "hash: share of cases kept for testing", ge=0, lt=1)
    seed: int = key(0, "hash and builtin: changes which cases fall where", ge=0)
    into: Literal["train", "val", "test"] = key("test", "all: the split that every case goes into")

    @model_validator(mode="after")
    def _complete(self) -> Split:
        if self.kind == "file" and self.path is None:
            allowed = "a table with the columns case and split, which kind: file needs"
            raise FaultsError(Fault("path", None, allowed, {"kind": "file", "path": "splits.tsv"}))
        if self.kind == "hash" and self.val_fraction + self.test_fraction >= 1:
            shares = {"val_fraction": self.val_fraction, "test_fraction": self.test_fraction}
            allowed = "val_fraction + test_fraction < 1, so that cases are left to train on"
            raise FaultsError(Fault("", shares, allowed, {"val_fraction": 0.1, "test_fraction": 0.2}))
        return self


class Dataset(Section):
    """One collection of scans with one labelling convention."""

    adapter: str = key(
        "msd", "layout of the files on disk, one of docs/datasets.md (a module of mskd/datasets/adapters)"
    )
    path: Path | None = key(
        None,
        "folder of the dataset, read in place; may name environment variables as ${NAME}; phantoms are written below "
        "results/",
        example="/data/Task03_Liver",
    )
    options: dict[str, str] = key(dict, "options of the adapter (see docs/datasets.md)", example={"unlabelled": "skip"})
    role: Literal["train", "external"] = key(
        "train", "train: has a teacher and gives training cases; external: is only tested on"
    )
    metrics_role: Literal["auto", "test", "external", "resubstitution"] = key(
        "auto", "role written to metrics.csv; auto: test for training datasets, external otherwise"
    )
    label_map: dict[int, str] = key(
        lambda: {1: "liver"},
        "value in the label file → organ of the study, `ignore` (voxels that nobody is judged on) or `background`; "
        "values that are not named are background",
    )
    structures: dict[str, str] = key(
        dict,
        "for layouts with a file per structure: structure → organ of the study; where files overlap the later wins",
        example={"kidney_left": "kidney", "kidney_right": "kidney"},
    )
    organs: list[str] | None = key(
        None,
        "organs that this dataset annotates in every case; default: the organs of its label_map (or structures)",
        example=["liver"],
    )
    withheld: bool = key(
        False,
        "full label maps lie in `withheld/` beside the data; read by the method full_labels and, where asked, "
        "by the evaluation alone",
    )
    withheld_label_map: dict[int, str] = key(dict, "label_map of the withheld files", example={1: "spleen", 6: "liver"})
    phantom: PhantomDataset | None = key(
        None,
        "make this dataset in code instead of reading it from `path`",
        example={"layout": "msd", "task": "Task03_Liver", "organs": ["liver"]},
    )
    split: Split = key(
        Split,
        "how its cases are divided; datasets whose role is external are all test, phantoms state their own split, "
        "and runs.folds > 1 takes the place of all others",
    )
    accept: dict[str, list[str]] = key(
        dict,
        "findings of `mskd check-data` that are meant: case name, or `*` for all, → codes (docs/datasets.md); they are "
        "shown as accepted and stop nothing",
        example={"spleen_8": ["anatomy.mirrored"]},
    )
    blocks: int | None = key(
        None,
        "number of buckets of cases; one job works on one bucket; default: one for 64 cases, at least 4",
        unit="blocks",
        example=16,
        ge=1,
        le=4096,
    )

    @field_validator("path", mode="before")
    @classmethod
    def _environment(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        missing = [name for name in _VARIABLE.findall(value) if name not in os.environ]
        if missing:
            allowed = f"variables that are set (run `export {missing[0]}=/folder/of/the/data`), or a path without any"
            write = value.replace(f"${{{missing[0]}}}", "/folder/of/the/data")
            raise FaultsError(Fault("", value, allowed, write, f"{missing[0]} is not set, found"))
        return _VARIABLE.sub(lambda match: os.environ[match[1]], value)

    @field_validator("label_map", "withheld_label_map")
    @classmethod
    def _no_zero(cls, value: dict[int, str]) -> dict[int, str]:
        if 0 in value and value[0] != BACKGROUND:
            better = {1 if v == 0 else v: organ for v, organ in value.items()}
            raise FaultsError(Fault("0", value[0], "background; file values of organs begin with 1", better))
        return value

    @model_validator(mode="after")
    def _has_source(self) -> Dataset:
        if self.path is None and self.phantom is None:
            allowed = "folder of the dataset (or `phantom:` to make it in code)"
            raise FaultsError(Fault("path", None, allowed, {"adapter": self.adapter, "path": "/data/Task03_Liver"}))
        return self

    @model_validator(mode="before")
    @classmethod
    def _structures_alone(cls, data: Any) -> Any:
        """A layout with a file per structure needs no label_map; its default would name an organ unasked."""
        if isinstance(data, dict) and data.get("structures") and "label_map" not in data:
            return {**data, "label_map": {}}
        return data

    @property
    def labelled_organs(self) -> list[str]:
        """Organs that every case of this dataset annotates."""
        if self.organs is not None:
            return list(self.organs)
        named = self.structures if self.structures else self.label_map
        found = [organ for organ in named.values() if organ not in (IGNORE, BACKGROUND)]
        return list(dict.fromkeys(found))
