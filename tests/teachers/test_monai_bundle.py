"""A MONAI bundle says here what its own parts say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mskd.errors import MskdError
from mskd.phantom.layouts import PhantomCase
from mskd.provenance import file_digest

from . import bundle
from .made import load, on_raw_grid, prepared, spacing_mm, study_of
from .phantoms import write_scans

pytestmark = bundle.QUIET


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[PhantomCase]:
    return write_scans(tmp_path_factory.mktemp("phantoms"), "liver", 3)


@pytest.fixture(scope="module")
def folder(cases: list[PhantomCase], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle.make(tmp_path_factory.mktemp("bundle") / "liver", cases, "liver", 40)


CODE = ("configs/inference.json", "configs/metadata.json")


def section(folder: Path, *trusted: str, **changes: Any) -> dict[str, Any]:
    trust = {file_digest(folder / name): True for name in trusted if (folder / name).exists()}
    return {"kind": "monai_bundle", "path": str(folder), "trust": trust, **changes}


def test_it_says_what_its_own_parts_say(folder: Path, cases: list[PhantomCase], tmp_path: Path) -> None:
    case = cases[0]
    study = study_of(tmp_path, "liver", section(folder, *CODE), spacing_mm(case.image))
    scan, raw = prepared(tmp_path, study, case)
    margins = on_raw_grid(load(study).targets(scan, raw).margins, scan)[0]
    logits = bundle.own_logits(folder, case.image).numpy()
    classes = logits.argmax(axis=0)
    assert 0 < classes.mean() < 0.5  # it has learned something
    assert np.mean((margins > 0) == (classes == 1)) >= 0.999
    inside = margins > -50  # beyond its grid, MONAI continues the border and we say background
    assert inside.mean() > 0.95
    np.testing.assert_allclose(margins[inside], (logits[1] - logits[0])[inside], atol=1e-2)


def test_its_configuration_is_code_and_must_be_trusted(folder: Path, tmp_path: Path) -> None:
    study = study_of(tmp_path, "liver", section(folder), (8, 8, 9))
    with pytest.raises(MskdError, match="names functions to call") as caught:
        load(study)
    assert f"trust: {{{', '.join(f'{file_digest(folder / name)}: true' for name in CODE)}}}" in str(caught.value)


class Payload:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (Path(self.marker),)


def test_a_pickle_that_runs_something_is_refused_and_not_run(folder: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    copied = tmp_path / "bundle"
    for name in ("configs/inference.json", "configs/metadata.json"):
        (copied / name).parent.mkdir(parents=True, exist_ok=True)
        (copied / name).write_bytes((folder / name).read_bytes())
    (copied / "models").mkdir()
    torch.save({"a": Payload(str(marker))}, copied / "models/model.pt")
    study = study_of(tmp_path, "liver", section(copied, *CODE), (8, 8, 9))
    with pytest.raises(MskdError, match="a pickle that holds more than tensors"):
        load(study)
    assert not marker.exists()


def changed(folder: Path, target: Path, files: dict[str, str], **configuration: Any) -> Path:
    """Copy a bundle with other parts of its configuration and other files."""
    shutil.copytree(folder, target)
    config = target / "configs/inference.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | configuration))
    for name, text in files.items():
        (target / name).parent.mkdir(exist_ok=True)
        (target / name).write_text(text)
    return target


MINE = "from monai.networks.nets.basic_unet import BasicUNet as Net\n"


def test_parts_in_other_files_of_the_bundle(folder: Path, tmp_path: Path) -> None:
    own = {**bundle.NETWORK, "_target_": "scripts.mine.Net"}
    common = "configs/common.json"
    for number, macro in enumerate((common, str(tmp_path / "1" / common))):
        files = {common: json.dumps({"net": own}), "scripts/__init__.py": "", "scripts/mine.py": MINE}
        copied = changed(folder, tmp_path / str(number), files, network_def=f"%{macro}::net")
        loaded = load(study_of(tmp_path, "liver", section(copied, *CODE, *files), (8, 8, 9)))
        assert set(loaded.runner.versions) == {"monai", "torch"}  # type: ignore[attr-defined]
        (copied / "scripts/mine.py").write_text(MINE + "raise SystemExit\n")
        with pytest.raises(MskdError, match=r"scripts/mine\.py is not loaded"):
            load(study_of(tmp_path, "liver", section(copied, *CODE, common, "scripts/__init__.py"), (8, 8, 9)))


def test_parts_from_files_outside_are_refused(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "common.json"
    outside.write_text(json.dumps({"net": bundle.NETWORK}))
    copied = changed(folder, tmp_path / "b", {}, network_def=f"%{outside}::net")
    with pytest.raises(MskdError, match=r"none of the files below its configs/"):
        load(study_of(tmp_path, "liver", section(copied, *CODE), (8, 8, 9)))


def test_names_that_do_not_fit_its_channels(folder: Path, cases: list[PhantomCase], tmp_path: Path) -> None:
    outputs = {"pred": {"channel_def": {"0": "liver"}}}
    metadata = {CODE[1]: json.dumps({"network_data_format": {"outputs": outputs}})}
    copied = changed(folder, tmp_path / "b", metadata)
    study = study_of(tmp_path, "liver", section(copied, *CODE), (8, 8, 9))
    scan, raw = prepared(tmp_path, study, cases[0])
    with pytest.raises(MskdError, match=r"2 channels: 0, 1[\s\S]*names 1: liver"):
        load(study).targets(scan, raw)


def test_torchscript_must_be_trusted(folder: Path, tmp_path: Path) -> None:
    parser_free = torch.jit.script(torch.nn.Conv3d(1, 2, 1))
    copied = tmp_path / "bundle"
    (copied / "configs").mkdir(parents=True)
    (copied / "models").mkdir()
    (copied / "configs/inference.json").write_bytes((folder / "configs/inference.json").read_bytes())
    parser_free.save(str(copied / "models/model.ts"))
    options = {"weights": "models/model.ts", "classes": {1: "liver"}}
    study = study_of(tmp_path, "liver", section(copied, *CODE, **options), (8, 8, 9))
    with pytest.raises(MskdError, match="TorchScript"):
        load(study)
    both = section(copied, *CODE, "models/model.ts", **options)
    assert load(study_of(tmp_path, "liver", both, (8, 8, 9))).organs == ["liver"]


def test_more_classes_than_channels_are_refused(folder: Path, cases: list[PhantomCase], tmp_path: Path) -> None:
    copied = tmp_path / "bundle"
    for name in ("configs/inference.json", "models/model.pt"):  # no metadata: only numbers are known
        (copied / name).parent.mkdir(parents=True, exist_ok=True)
        (copied / name).write_bytes((folder / name).read_bytes())
    wrong = section(copied, *CODE, classes={2: "liver"})
    study = study_of(tmp_path, "liver", wrong, (8, 8, 9))
    scan, raw = prepared(tmp_path, study, cases[0])
    with pytest.raises(MskdError, match=r"gives 2 channels"):
        load(study).targets(scan, raw)


def test_a_bundle_without_configuration(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    with pytest.raises(MskdError, match=r"configs/inference\.json"):
        load(study_of(tmp_path, "liver", {"kind": "monai_bundle", "path": str(tmp_path / "bundle")}, (8, 8, 9)))
