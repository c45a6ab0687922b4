"""Stage: write a dataset of synthetic scans in a public layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mskd.cases import data_root
from mskd.config.faults import faults_of
from mskd.config.phantom import PhantomDataset
from mskd.config.study import Study
from mskd.console import progress
from mskd.errors import ConfigError
from mskd.layout import Layout
from mskd.leaves import phantom_leaves, stage_code
from mskd.manifest import Manifest
from mskd.phantom.population import write_dataset
from mskd.provenance import content_key

STAGE = "make_phantoms"


def make_phantoms(study: Study, dataset: str) -> None:
    """Write every case of a dataset that is made in code; cases that stand are kept.

    Raises:
        ConfigError: If the dataset has no `phantom` section.
    """
    spec = study.datasets[dataset].phantom
    if spec is None:
        raise ConfigError(
            f"datasets.{dataset} has no `phantom:` section; its scans are read from {data_root(study, dataset)}"
        )
    key = content_key(leaves=phantom_leaves(study, dataset), code=stage_code(STAGE))
    total = spec.n_train + spec.n_val + spec.n_test
    with progress(f"phantoms {dataset}", total) as advance:
        written = write_dataset(data_root(study, dataset), spec, key=key, progress=lambda _: advance())
    entries = {f"{dataset}/{name}": {"key": key, **digests} for name, digests in written.items()}
    Manifest(STAGE, entries).write(Layout(study.root).manifest(STAGE, dataset))


def make_dataset(root: Path, spec: dict[str, Any]) -> None:
    """Write a dataset of synthetic scans outside any study.

    Args:
        root: Folder to write into.
        spec: Keys of a `phantom:` section.

    Raises:
        ConfigError: If a key or value is not allowed.
    """
    try:
        dataset = PhantomDataset.model_validate(spec)
    except ValidationError as error:
        raise ConfigError("phantom:\n" + "\n".join(map(str, faults_of(error, PhantomDataset)))) from None
    total = dataset.n_train + dataset.n_val + dataset.n_test
    leaves = dataset.model_dump(mode="json", exclude={"n_train", "n_val", "n_test"})
    key = content_key(leaves=leaves, code=stage_code(STAGE))
    with progress(f"phantoms {root}", total) as advance:
        write_dataset(root, dataset, key=key, progress=lambda _: advance())
