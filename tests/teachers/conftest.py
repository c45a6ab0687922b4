"""A tiny nnU-Net v2, really trained, and an environment that holds it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from . import nnunet
from .phantoms import PhantomCase, write_scans

PYTHON = "MSKD_NNUNET_PYTHON"


@dataclass(frozen=True)
class TrainedNnUNet:
    """A model, and what it was trained on."""

    python: Path
    folder: Path
    cases: list[PhantomCase]


@pytest.fixture(scope="session")
def nnunet_python() -> Path:
    """The interpreter of an environment with nnunetv2."""
    if not os.environ.get(PYTHON):
        pytest.skip(f"{PYTHON} names no interpreter with nnunetv2; `make test-teachers` makes one")
    return Path(os.environ[PYTHON])


@pytest.fixture(scope="session")
def trained(nnunet_python: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainedNnUNet:
    """A network that nnU-Net's own commands trained on phantoms, on a spacing of its own."""
    root = tmp_path_factory.mktemp("nnunet")
    cases = write_scans(root / "phantoms", "liver", 6)
    return TrainedNnUNet(nnunet_python, nnunet.train(nnunet_python, root, cases, "liver", spacing_mm=(9, 7, 7)), cases)
