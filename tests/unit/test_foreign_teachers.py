"""Networks that exist already as teachers: model folders, ONNX and torch.export say the same; what is refused."""

from __future__ import annotations

import json
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
import torch

from mskd.cases import Case
from mskd.config.model import Network, Preprocessing
from mskd.config.study import Study
from mskd.errors import ConfigError, MskdError
from mskd.export.folder import export_model
from mskd.layout import Layout
from mskd.models import save_model
from mskd.networks.unet import UNet
from mskd.preparation import prepare_arrays
from mskd.prepared import PreparedCase, write_prepared
from mskd.provenance import file_digest
from mskd.teachers.registry import class_names, load_teacher, model_files
from mskd.teachers.runner import Runner

CPU = torch.device("cpu")
NETWORK = {"features": [4, 6], "convolutions_per_level": 1}
PREPROCESSING = Preprocessing(spacing_mm=(2.0, 2.0, 3.0), hu_clip=(-150.0, 250.0), crop_to_body=False)
LABELS = {"left kidney": 1, "liver": 2, "right kidney": 3}
KIDNEYS = {"left kidney": "kidney", "right kidney": "kidney", "liver": "liver"}
SHAPE, AFFINE = (14, 12, 10), np.diag([-2.0, 2.0, 3.0, 1.0])


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One network as a model folder, as ONNX with its preprocessing, and by torch.export."""
    folder = tmp_path_factory.mktemp("nets")
    torch.manual_seed(0)
    network = UNet(Network.model_validate(NETWORK), 4).eval()
    save_model(
        folder / "model",
        network,
        labels=LABELS,
        preprocessing=PREPROCESSING,
        window=(8, 8, 8),
        overlap=0.5,
        stride=(2, 2, 2),
        key="k",
        provenance={"study": "s", "method": "mskd", "run": "fold0-seed0", "inputs": {"train": {}}},
    )
    export_model(folder / "model", folder / "onnx")
    (folder / "torch").mkdir()
    shutil.copy(folder / "onnx" / "preprocessing.json", folder / "torch")
    batch = torch.export.Dim("batch", min=1, max=64)
    example = torch.rand(2, 1, 8, 8, 8)
    program = torch.export.export(network, (example,), dynamic_shapes=({0: batch},))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of weights that share memory
        torch.export.save(program, folder / "torch/net.pt2")
    return folder


def study_of(folder: Path, **section: Any) -> Study:
    return Study.model_validate(
        {
            "results": folder,
            "organs": ["liver", "kidney"],
            "datasets": {"d": {"path": str(folder), "label_map": {1: "liver"}}},
            "teachers": {"given": {"classes": KIDNEYS, **section}},
            "network": NETWORK,
            "preprocessing": PREPROCESSING.model_dump(),
            "cache": {"taps": []},
            "methods": {"mskd": {}},
        }
    )


def asked(folder: Path, study: Study) -> npt.NDArray[Any]:
    """Return what the study's teacher says of a scan on the study's grid."""
    scan = np.random.default_rng(0).integers(-200, 300, SHAPE).astype(np.int16)
    image = folder / "scan.nii.gz"
    nib.save(nib.Nifti1Image(scan, AFFINE), image)
    arrays = prepare_arrays(scan, AFFINE, None, None, study.preprocessing)
    path = folder / "case.zarr"
    write_prepared(path, arrays, key="k", attributes={"case": "d/scan"})
    teacher = load_teacher(study, "given", "given", CPU)
    assert teacher.organs == ["liver", "kidney"]
    raw = Case("d", "scan", "b00", image, (), None, "train")
    return np.asarray(teacher.targets(PreparedCase(path, "d/scan"), raw).margins)


def trusted(path: Path) -> dict[str, Any]:
    return {"kind": "torch_export", "path": str(path), "trust": {file_digest(path): True}}


def test_a_model_folder_and_its_exports_say_the_same(nets: Path, tmp_path: Path) -> None:
    folder = study_of(tmp_path, kind="mskd", path=str(nets / "model"))
    onnx = study_of(tmp_path, kind="onnx", path=str(nets / "onnx/model.onnx"))
    exported = study_of(tmp_path, **trusted(nets / "torch/net.pt2"))
    expected = asked(tmp_path, folder)
    assert expected.shape == (2, *SHAPE)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(asked(tmp_path, onnx), expected, atol=1e-3)
    np.testing.assert_allclose(asked(tmp_path, exported), expected, atol=1e-3)


def test_a_model_of_this_study_says_what_it_says_as_a_trained_teacher(nets: Path, tmp_path: Path) -> None:
    same = {"left kidney": "kidney", "liver": "liver"}
    given = study_of(tmp_path, kind="mskd", path=str(nets / "model"), classes=same)
    shutil.copytree(nets / "model", Layout(given.root).teacher("d", "fold0-seed0"))
    trained = Study.model_validate(
        {
            **given.model_dump(exclude={"teachers", "organs", "datasets"}),
            "organs": ["left kidney", "liver", "right kidney"],
            "datasets": {"d": {"path": str(tmp_path), "label_map": {1: "liver", 2: "left kidney", 3: "right kidney"}}},
        }
    )
    margins = asked(tmp_path, given)
    case = PreparedCase(tmp_path / "case.zarr", "d/scan")
    raw = Case("d", "scan", "b00", tmp_path / "scan.nii.gz", (), None, "train")
    expected = load_teacher(trained, "d", "fold0-seed0", CPU).targets(case, raw).margins
    np.testing.assert_allclose(margins[1], expected[0], atol=1e-3)
    np.testing.assert_allclose(margins[0], expected[1], atol=1e-3)


def test_what_its_answers_depend_on(nets: Path, tmp_path: Path) -> None:
    onnx = study_of(tmp_path, kind="onnx", path=str(nets / "onnx/model.onnx")).teachers["given"]
    assert {path.name for path in model_files(onnx)} == {"model.onnx", "preprocessing.json"}
    assert class_names(onnx) == ["background", "left kidney", "liver", "right kidney"]


def test_classes_that_it_does_not_have(nets: Path, tmp_path: Path) -> None:
    study = study_of(tmp_path, kind="mskd", path=str(nets / "model"), classes={"Leber": "liver", 1: "kidney"})
    with pytest.raises(ConfigError) as caught:
        load_teacher(study, "given", "given", CPU)
    for part in ("Leber", "0: background, 1: left kidney, 2: liver, 3: right kidney", "liver, kidney"):
        assert part in str(caught.value)


def test_torch_export_is_refused_without_trust_and_after_a_change(nets: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    shutil.copy(nets / "torch/net.pt2", path)
    shutil.copy(nets / "torch/preprocessing.json", tmp_path)
    with pytest.raises(MskdError, match="can run any code") as caught:
        load_teacher(study_of(tmp_path, kind="torch_export", path=str(path)), "given", "given", CPU)
    assert file_digest(path) in str(caught.value)
    section = trusted(path)
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(MskdError, match="can run any code"):
        load_teacher(study_of(tmp_path, **section), "given", "given", CPU)


def test_a_checksum_is_that_of_sha256sum(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert file_digest(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_preprocessing_written_by_hand(nets: Path, tmp_path: Path) -> None:
    least = {
        "channels": ["background", "left kidney", "liver", "right kidney"],
        "spacing_mm": [2.0, 2.0, 3.0],
        "normalisation": {"low_hu": -150, "high_hu": 250},
        "sliding_window": {"window": [8, 8, 8], "stride": [2, 2, 2]},
        "body": {"crop": False},
    }
    spec = tmp_path / "own.json"
    spec.write_text(json.dumps(least))
    section = {"kind": "onnx", "path": str(nets / "onnx/model.onnx")}
    found = asked(tmp_path, study_of(tmp_path, **section, preprocessing=str(spec)))
    np.testing.assert_allclose(found, asked(tmp_path, study_of(tmp_path, **section)), atol=1e-5)
    spec.write_text(json.dumps({**least, "channels": ["background", "liver"]}))
    wrong = study_of(tmp_path, **section, preprocessing=str(spec), classes={"liver": "liver", 0: "kidney"})
    with pytest.raises(MskdError, match="gives 4 channels"):
        asked(tmp_path, wrong)
    for broken in ({**least, "sliding_window": {}}, {**least, "axes": {"orientation": "LPS"}}, []):
        spec.write_text(json.dumps(broken))
        with pytest.raises(MskdError, match="is no preprocessing of a network"):
            load_teacher(study_of(tmp_path, **section, preprocessing=str(spec)), "given", "given", CPU)


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"kind": "onnx", "path": "no.onnx"}, "no.onnx: no such file"),
        ({"kind": "nnunetv2", "path": "nowhere"}, "not one model of nnU-Net v2"),
        ({"kind": "monai_bundle", "path": "nowhere"}, "no inference configuration"),
        ({"kind": "mskd", "path": "nowhere"}, "nowhere"),
    ],
)
def test_files_that_are_not_there(section: dict[str, Any], expected: str, tmp_path: Path) -> None:
    section = {**section, "path": str(tmp_path / section["path"])}
    with pytest.raises(MskdError, match=expected):
        model_files(study_of(tmp_path, **section).teachers["given"])


def test_an_interpreter_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MskdError, match=r"does not start[\s\S]*teachers\.t\.python"):
        Runner("t", "onnx", {}, python=tmp_path / "python")


def test_an_interpreter_without_the_package(tmp_path: Path) -> None:
    bare = tmp_path / "python"  # an environment with nothing but the standard library
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -I "$@"\n')
    bare.chmod(0o755)
    with pytest.raises(MskdError, match=r"has no module numpy[\s\S]*-m pip install onnxruntime"):
        Runner("t", "onnx", {}, python=bare)


def test_a_child_that_dies_is_told(nets: Path, tmp_path: Path) -> None:
    dying = tmp_path / "python"
    dying.write_text("#!/bin/sh\nread line\nexit 3\n")
    dying.chmod(0o755)
    with pytest.raises(MskdError, match=r"its process ended \(exit code 3\)"):
        Runner("t", "onnx", {}, python=dying)
    with pytest.raises(MskdError, match=r"(?i)no such ?file|load model"):
        Runner("t", "onnx", {"file": "no.onnx", "threads": 1})
