"""A model that nnU-Net trained says here what its own predictor says."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from mskd.errors import ConfigError, MskdError
from mskd.provenance import file_digest

from . import nnunet
from .conftest import TrainedNnUNet
from .made import load, on_raw_grid, prepared, spacing_mm, study_of

CHECKPOINT = {"checkpoint": "checkpoint_best.pth"}


def section(trained: TrainedNnUNet, **changes: Any) -> dict[str, Any]:
    return {
        "kind": "nnunetv2",
        "path": str(trained.folder),
        "python": str(trained.python),
        **CHECKPOINT,
        **changes,
    }


@pytest.fixture(scope="session")
def own(trained: TrainedNnUNet, tmp_path_factory: pytest.TempPathFactory) -> dict[str, npt.NDArray[Any]]:
    """Classes and probabilities that its own predictor gives for a scan, in the order of the file's axes."""
    out = tmp_path_factory.mktemp("own") / "said.npz"
    script = Path(__file__).parent / "own_nnunet.py"
    subprocess.run(
        [str(trained.python), str(script), str(trained.folder), str(trained.cases[0].image), str(out)], check=True
    )
    with np.load(out) as found:
        return dict(found)


def test_it_says_what_its_own_predictor_says(
    trained: TrainedNnUNet, own: dict[str, npt.NDArray[Any]], tmp_path: Path
) -> None:
    case = trained.cases[0]
    study = study_of(tmp_path, "liver", section(trained), spacing_mm(case.image))
    scan, raw = prepared(tmp_path, study, case)
    margins = on_raw_grid(load(study).targets(scan, raw).margins, scan)[0]
    assert own["classes"].any()  # it has learned something
    assert np.mean((margins > 0) == (own["classes"] == 1)) >= 0.999
    share = own["probabilities"].astype(np.float64)[1]
    known = (share > 1e-4) & (share < 1 - 1e-4)  # beyond, one minus a float32 is not known to 1e-2
    assert known.sum() > 1000
    expected = np.log(share[known] / (1 - share[known]))
    np.testing.assert_allclose(margins[known], expected, atol=1e-2)


def test_an_exported_zip_is_the_same_model(trained: TrainedNnUNet, tmp_path: Path) -> None:
    archive = tmp_path / "model.zip"
    with zipfile.ZipFile(archive, "w") as target:  # as nnUNetv2_export_model_to_zip lays it out
        for path in sorted(trained.folder.rglob("*")):
            if path.name in ("plans.json", "dataset.json", "dataset_fingerprint.json", "checkpoint_best.pth"):
                target.write(path, path.relative_to(trained.folder.parents[1]))
    case = trained.cases[1]
    study = study_of(tmp_path, "liver", section(trained, mirroring=False), spacing_mm(case.image))
    zipped = study_of(tmp_path, "liver", section(trained, mirroring=False, path=str(archive)), spacing_mm(case.image))
    scan, raw = prepared(tmp_path, study, case)
    np.testing.assert_array_equal(load(study).targets(scan, raw).margins, load(zipped).targets(scan, raw).margins)


def test_classes_that_do_not_fit_are_refused_with_both_lists(trained: TrainedNnUNet, tmp_path: Path) -> None:
    study = study_of(tmp_path, "liver", section(trained, classes={"milt": "liver"}), (5, 5, 5))
    with pytest.raises(ConfigError) as caught:
        load(study)
    assert all(part in str(caught.value) for part in ("milt", "0: background, 1: liver", "organs: liver"))


def test_an_environment_without_it_is_told_how_to_get_it(trained: TrainedNnUNet, tmp_path: Path) -> None:
    study = study_of(tmp_path, "liver", section(trained, python=sys.executable), (5, 5, 5))
    with pytest.raises(MskdError, match="pip install nnunetv2"):
        load(study)


def changed(trained: TrainedNnUNet, target: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """Copy the model with other plans."""
    shutil.copytree(trained.folder, target)
    plans = json.loads((target / "plans.json").read_text())
    change(plans)
    (target / "plans.json").write_text(json.dumps(plans))
    return target


def test_plans_that_run_a_file_of_their_makers_are_refused(trained: TrainedNnUNet, tmp_path: Path) -> None:
    folder, marker = tmp_path / trained.folder.name, tmp_path / "marker"
    evil = {
        "network_class_name": "torch.hub.load",
        "arch_kwargs": {"repo_or_dir": str(folder), "model": "net", "source": "local"},
        "_kw_requires_import": [],
    }
    changed(trained, folder, lambda plans: plans["configurations"][nnunet.CONFIGURATION].update(architecture=evil))
    (folder / "hubconf.py").write_text(f"import pathlib\npathlib.Path({str(marker)!r}).touch()\n")
    wanted = section(trained, path=str(folder))
    with pytest.raises(MskdError, match=r"torch\.hub\.load[\s\S]*can run any code") as caught:
        load(study_of(tmp_path, "liver", wanted, (5, 5, 5)))
    digest = file_digest(folder / "plans.json")
    assert f"trust: {{{digest}: true}}" in str(caught.value)
    assert not marker.exists()
    with pytest.raises(MskdError):  # trusted, it is run, and is no network
        load(study_of(tmp_path, "liver", wanted | {"trust": {digest: True}}, (5, 5, 5)))
    assert marker.exists()


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("preprocessor_name", "PlansManager"),
        ("normalization_schemes", ["ABC"]),
        ("resampling_fn_data", "recursive_find_python_class"),
    ],
)
def test_parts_that_are_not_of_nnunet_are_refused(key: str, name: Any, trained: TrainedNnUNet, tmp_path: Path) -> None:
    def change(plans: dict[str, Any]) -> None:
        plans["configurations"][nnunet.CONFIGURATION][key] = name

    folder = changed(trained, tmp_path / trained.folder.name, change)
    with pytest.raises(MskdError, match=key):
        load(study_of(tmp_path, "liver", section(trained, path=str(folder)), (5, 5, 5)))


def test_a_cascade_in_a_folder_of_another_name(trained: TrainedNnUNet, tmp_path: Path) -> None:
    def change(plans: dict[str, Any]) -> None:
        plans["configurations"]["first"] = plans["configurations"][nnunet.CONFIGURATION]
        plans["configurations"][nnunet.CONFIGURATION] = {"inherits_from": "first", "previous_stage": "first"}

    folder = changed(trained, tmp_path / "mine", change)
    with pytest.raises(MskdError, match="second stage of a cascade"):
        load(study_of(tmp_path, "liver", section(trained, path=str(folder)), (5, 5, 5)))


def test_a_pickle_in_a_zip_is_named_by_its_member(trained: TrainedNnUNet, tmp_path: Path) -> None:
    archive = tmp_path / "model.zip"
    evil = io.BytesIO()
    torch.save({"network_weights": {}, "trainer_name": Path("x")}, evil)
    with zipfile.ZipFile(archive, "w") as target:
        for name in ("plans.json", "dataset.json"):
            target.write(trained.folder / name, f"D/{trained.folder.name}/{name}")
        target.writestr(f"D/{trained.folder.name}/fold_0/checkpoint_best.pth", evil.getvalue())
    with pytest.raises(MskdError, match=r"model\.zip: D/nnUNet\w+/fold_0/checkpoint_best\.pth is not loaded"):
        load(study_of(tmp_path, "liver", section(trained, path=str(archive)), (5, 5, 5)))
