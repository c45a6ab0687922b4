"""Datasets: where the scans are, what their files' values mean, and how cases are split."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import field_validator, model_validator

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
    name: str = key("", "builtin: which one (liver, kidney, pancreas, spleen); empty: the dataset's own name")
    path: Path | None = key(None, "file: a TSV or CSV with the columns case and split")
    val_fraction: float = key(
        0.1, "share of cases (builtin: of training cases) kept for validation", ge=0, lt=1
    )
    test_fraction: float = key(0.2, "hash: share of cases kept for testing", ge=0, lt=1)
    seed: int = key(0, "hash and builtin: changes which cases fall where", ge=0)
    into: Literal["train", "val", "test"] = key("test", "all: the split that every case goes into")

    @model_validator(mode="after")
    def _file_needs_path(self) -> Split:
        if self.kind == "file" and self.path is None:
            raise ValueError("kind: file needs `path: splits.tsv` (columns case and split)")
        return self


class Dataset(Section):
    """One collection of scans with one labelling convention."""

    adapter: str = key("msd", "layout of the files on disk: a module of mskd/datasets/adapters")
    path: Path | None = key(
        None,
        "folder of the dataset, read in place; may name environment variables as ${NAME}; phantoms are written below "
        "results/",
    )
    options: dict[str, str] = key(dict, "options of the adapter (see its page in docs/datasets.md)")
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
    )
    organs: list[str] | None = key(
        None,
        "organs that this dataset annotates in every case; default: the organs of its label_map (or structures)",
    )
    withheld: bool = key(
        False,
        "full label maps lie in `withheld/` beside the data; read by the method full_labels and, where asked, "
        "by the evaluation alone",
    )
    withheld_label_map: dict[int, str] = key(dict, "label_map of the withheld files")
    phantom: PhantomDataset | None = key(None, "make this dataset in code instead of reading it from `path`")
    split: Split = key(Split, "how its cases are divided")
    blocks: int = key(4, "number of buckets of cases; one job works on one bucket", ge=1, le=4096)

    @field_validator("path", mode="before")
    @classmethod
    def _environment(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        missing = [name for name in _VARIABLE.findall(value) if name not in os.environ]
        if missing:
            raise ValueError(
                f"{value} names the environment variable {missing[0]}, which is not set; run "
                f"`export {missing[0]}=/folder/of/the/data`, or write `path: /folder/of/the/dataset`"
            )
        return _VARIABLE.sub(lambda match: os.environ[match[1]], value)

    @field_validator("label_map", "withheld_label_map")
    @classmethod
    def _no_zero(cls, value: dict[int, str]) -> dict[int, str]:
        if 0 in value and value[0] != BACKGROUND:
            raise ValueError(f"file value 0 is the background, found `0: {value[0]}`")
        return value

    @model_validator(mode="after")
    def _has_source(self) -> Dataset:
        if self.path is None and self.phantom is None:
            raise ValueError(
                "a dataset needs `path: /folder/of/the/dataset` (or `phantom:` to make it in code)"
            )
        return self

    @property
    def labelled_organs(self) -> list[str]:
        """Organs that every case of this dataset annotates."""
        if self.organs is not None:
            return list(self.organs)
        named = self.structures if self.structures else self.label_map
        found = [organ for organ in named.values() if organ not in (IGNORE, BACKGROUND)]
        return list(dict.fromkeys(found))
