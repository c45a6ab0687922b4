"""Files of teachers of other tools: what counts as theirs, what must be trusted, and networks that do not fit."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import nibabel as nib
import numpy as np
import onnx
import pytest
import torch
import zarr
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

from mskd.cache.settings import cache_settings
from mskd.cases import Case
from mskd.config.study import Study
from mskd.errors import DataError, MissingArtefactError, MskdError
from mskd.layout import Layout
from mskd.manifest import read_manifest
from mskd.preparation import prepare_arrays
from mskd.prepared import PreparedCase, write_prepared
from mskd.provenance import file_digest
from mskd.stages.adopt_teacher import adopt_teacher
from mskd.stages.cache_targets import _loaded, _write
from mskd.teachers import nnunetv2
from mskd.teachers import trust as trust_module
from mskd.teachers.onnx_data import external_data
from mskd.teachers.registry import class_names, load_teacher, model_files
from mskd.teachers.runners.nnunetv2 import UntrustedError, require_own_names
from mskd.teachers.whole_scan import WholeScanTeacher

CPU = torch.device("cpu")
SHAPE, AFFINE = (10, 9, 8), np.diag([2.0, 2.0, 2.0, 1.0])
SPEC = {
    "channels": ["background", "liver"],
    "spacing_mm": [2.0, 2.0, 2.0],
    "normalisation": {"low_hu": -160, "high_hu": 240},
    "sliding_window": {"window": [8, 8, 8]},
    "body": {"crop": False},
}


def network(folder: Path, weights: list[float], *, batch: int | str = 1, location: str = "") -> Path:
    """Write a convolution of one voxel, a channel for each weight, which may lie in a file beside it."""
    folder.mkdir(exist_ok=True)
    values = np.asarray(weights, np.float32).reshape(-1, 1, 1, 1, 1)
    tensor = numpy_helper.from_array(values, "w")
    if location:
        set_external_data(tensor, location)
        tensor.ClearField("raw_data")
    node = helper.make_node("Conv", ["i", "w"], ["o"])
    grid = [8, 8, 8]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, n, *grid]) for name, n in (("i", 1), ("o", None))
    ]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [tensor])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    if location and ".." not in location:
        (folder / location).write_bytes(values.tobytes())
    (folder / "preprocessing.json").write_text(json.dumps(SPEC))
    return folder / "m.onnx"


def study_of(folder: Path, path: Path, kind: str = "onnx", **section: Any) -> Study:
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "one.nii.gz").touch()
    return Study.model_validate(
        {
            "results": folder / "results",
            "organs": ["liver"],
            "datasets": {
                "d": {"path": str(folder), "label_map": {1: "liver"}, "split": {"kind": "all", "into": "train"}}
            },
            "teachers": {"given": {"kind": kind, "path": str(path), "classes": {"liver": "liver"}, **section}},
            "preprocessing": {"spacing_mm": [2.0, 2.0, 2.0], "crop_to_body": False},
            "cache": {"taps": []},
            "methods": {"mskd": {}},
        }
    )


def prepared(folder: Path, study: Study) -> tuple[PreparedCase, Case]:
    scan = np.random.default_rng(0).integers(-200, 300, SHAPE).astype(np.int16)
    nib.save(nib.Nifti1Image(scan, AFFINE), folder / "scan.nii.gz")
    path = folder / "case.zarr"
    write_prepared(
        path, prepare_arrays(scan, AFFINE, None, None, study.preprocessing), key="k", attributes={"case": "d/scan"}
    )
    return PreparedCase(path, "d/scan"), Case("d", "scan", "b00", folder / "scan.nii.gz", (), None, "train")


def load(study: Study) -> Any:
    return load_teacher(study, "given", "given", CPU)


def test_a_network_of_one_window_at_a_time(tmp_path: Path) -> None:
    study = study_of(tmp_path, network(tmp_path / "net", [0.0, 1.0]))
    case, raw = prepared(tmp_path, study)
    assert load(study).targets(case, raw).margins.shape == (1, *SHAPE)


def test_adopting_writes_down_the_tool_and_caching_asks_the_same_files(tmp_path: Path) -> None:
    study = study_of(tmp_path, network(tmp_path / "net", [0.0, 1.0]))
    adopt_teacher(study, "given", CPU)
    entry = read_manifest(Layout(study.root).manifest("adopt_teacher", "given", "given")).entries["given"]
    assert set(entry["versions"]) == {"onnxruntime"}
    teacher = _loaded(study, "given", "given", CPU)
    case, raw = prepared(tmp_path, study)
    settings = cache_settings(study.cache, logits_alone=True)
    said, place = teacher.targets(case, raw), str(tmp_path / "store.zarr")
    _write(study, settings, teacher, case, said, {}, place, "key", ("given", "given"))
    assert zarr.open_group(place, mode="r").attrs["tool"] == entry["versions"]
    spec = tmp_path / "net/preprocessing.json"
    spec.write_text(spec.read_text() + "\n")
    with pytest.raises(MissingArtefactError, match="they changed since"):
        _loaded(study, "given", "given", CPU)


@pytest.mark.parametrize(
    ("weights", "expected"), [([0.0, float("nan")], "no numbers"), ([0.0, 1.0, 2.0], "gives 3 channels")]
)
def test_adopting_runs_a_window(weights: list[float], expected: str, tmp_path: Path) -> None:
    study = study_of(tmp_path, network(tmp_path / "net", weights))
    with pytest.raises(MskdError, match=expected):
        adopt_teacher(study, "given", CPU)


def test_what_fails_on_a_case_names_it(tmp_path: Path) -> None:
    study = study_of(tmp_path, network(tmp_path / "net", [0.0, float("inf")]))
    case, raw = prepared(tmp_path, study)
    with pytest.raises(DataError, match=r"case d/scan: .*scan.nii.gz[\s\S]*no numbers[\s\S]*way out:  correct `norm"):
        load(study).targets(case, raw)


def test_weights_beside_an_onnx_model_are_its_files(tmp_path: Path) -> None:
    path = network(tmp_path / "net", [0.0, 1.0], location="weights.bin")
    study = study_of(tmp_path, path)
    assert [file.name for file in model_files(study.teachers["given"])] == [
        "m.onnx",
        "preprocessing.json",
        "weights.bin",
    ]
    before = load(study)
    before.try_out()
    (tmp_path / "net/weights.bin").write_bytes(np.asarray([0.0, 2.0], np.float32).tobytes())
    assert load(study).digest != before.digest


def test_weights_elsewhere_or_missing_are_refused(tmp_path: Path) -> None:
    outside = network(tmp_path / "a", [0.0, 1.0], location="../weights.bin")
    with pytest.raises(MskdError, match=r"'\.\./weights\.bin'[\s\S]*in the folder of the model"):
        external_data(outside)
    missing = network(tmp_path / "b", [0.0, 1.0], location="w")
    (tmp_path / "b/w").unlink()
    with pytest.raises(MskdError, match=r"b/w: no such file"):
        external_data(missing)
    for number, text in enumerate((b"", b"PK\x03\x04 something", b"\x3a\xff\xff\xff\x7f")):
        broken = tmp_path / f"{number}.onnx"
        broken.write_bytes(text)
        with pytest.raises(MskdError, match="no model in ONNX"):
            external_data(broken)


def test_weights_of_inner_graphs_are_found(tmp_path: Path) -> None:
    tensor = numpy_helper.from_array(np.zeros(2, np.float32), "w")
    set_external_data(tensor, "deep.bin")
    inner = helper.make_graph([helper.make_node("Constant", [], ["c"], value=tensor)], "inner", [], [])
    node = helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)
    onnx.save_model(helper.make_model(helper.make_graph([node], "g", [], [])), tmp_path / "m.onnx")
    (tmp_path / "deep.bin").touch()
    assert external_data(tmp_path / "m.onnx") == [tmp_path / "deep.bin"]


def test_a_file_that_is_swapped_after_its_check_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = tmp_path / "net.pt2"
    net.write_bytes(b"seen")
    (tmp_path / "preprocessing.json").write_text(json.dumps(SPEC))
    study = study_of(tmp_path, net, "torch_export", trust={file_digest(net): True})
    monkeypatch.setattr(trust_module, "log", lambda _: net.write_bytes(b"evil"))
    with pytest.raises(MskdError, match=r"net\.pt2 changed while it was being loaded"):
        load(study)


def bundle(folder: Path) -> Path:
    texts = {
        "configs/inference.json": '{"network_def": "%configs/common.yaml::net"}',
        "configs/common.yaml": "net: {}",
        "scripts/mine.py": "",
        "scripts/__pycache__/mine.pyc": "",
        ".git/hooks.py": "",
        "docs/README.md": "",
        "models/model.pt": "",
    }
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{text}\n# {name}\n" if name.endswith(".py") else text)
    return folder


def test_every_configuration_and_module_of_a_bundle_must_be_trusted(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "bundle")
    section = study_of(tmp_path, folder, "monai_bundle").teachers["given"]
    found = [path.relative_to(folder).as_posix() for path in model_files(section)]
    assert found == ["configs/inference.json", "models/model.pt", "configs/common.yaml", "scripts/mine.py"]
    trusted = {file_digest(folder / "configs/inference.json"): True}
    with pytest.raises(MskdError, match="names functions to call") as caught:
        load(study_of(tmp_path, folder, "monai_bundle", trust=trusted))
    sums = [f"{file_digest(folder / name)}: true" for name in ("configs/common.yaml", "scripts/mine.py")]
    assert f"trust: {{{', '.join(sums)}}}" in str(caught.value)


GOOD = {
    "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
    "arch_kwargs": {"conv_op": "torch.nn.modules.conv.Conv3d", "nonlin": "torch.nn.LeakyReLU", "dropout_op": None},
    "_kw_requires_import": ["conv_op", "nonlin", "dropout_op"],
}


def test_names_in_plans_of_nnunet() -> None:
    require_own_names({"configurations": {"3d": {"architecture": GOOD}, "old": {}}})


@pytest.mark.parametrize(
    "name",
    ["torch.hub.load", "os.system", "torch.nn.functional.relu", "torch.nn.modules.module.OrderedDict", 7],
)
@pytest.mark.parametrize("key", ["network_class_name", "nonlin"])
def test_plans_of_nnunet_that_name_other_code_are_refused(name: Any, key: str) -> None:
    arguments = cast("dict[str, Any]", GOOD["arch_kwargs"])
    evil = {**GOOD, key: name} if key in GOOD else {**GOOD, "arch_kwargs": {**arguments, key: name}}
    with pytest.raises(UntrustedError, match=r"plans\.json"):
        require_own_names({"configurations": {"fine": {"architecture": GOOD}, "evil": {"architecture": evil}}})


def nnunet_zip(path: Path, plans: dict[str, Any], *, folder: str = "t__p__c") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"D/{folder}/plans.json", json.dumps(plans))
        archive.writestr(f"D/{folder}/dataset.json", json.dumps({"labels": {"background": 0, "liver": 1}}))
        archive.writestr(f"D/{folder}/fold_0/checkpoint_final.pth", "x")
    return path


def test_a_description_in_a_zip_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = study_of(tmp_path, nnunet_zip(tmp_path / "m.zip", {}), "nnunetv2")
    assert class_names(study.teachers["given"]) == ["background", "liver"]
    monkeypatch.setattr(nnunetv2, "MAX_DESCRIPTION", 20)
    with pytest.raises(MskdError, match="bytes are no description of a model"):
        class_names(study.teachers["given"])


def test_a_cascade_is_known_by_its_plans(tmp_path: Path) -> None:
    configurations = {"low": {}, "second": {"previous_stage": "low"}, "c": {"inherits_from": "second"}}
    study = study_of(tmp_path, nnunet_zip(tmp_path / "m.zip", {"configurations": configurations}), "nnunetv2")
    with pytest.raises(MskdError, match="second stage of a cascade"):
        load(study)


def test_an_untrusted_member_of_a_zip_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        def __init__(self, teacher: str, kind: str, model: dict[str, Any], *, files: Any, **_: Any) -> None:
            raise trust_module.refuse(teacher, [files[-1]], "a pickle")

    path = nnunet_zip(tmp_path / "m.zip", {"configurations": {}})
    monkeypatch.setattr("mskd.teachers.runner.Runner", Refusing)
    with pytest.raises(MskdError, match=rf"{path}: D/t__p__c/fold_0/checkpoint_final\.pth is not loaded"):
        load(study_of(tmp_path, path, "nnunetv2"))
    with pytest.raises(MskdError, match=r"no fold_3/checkpoint_final\.pth"):
        load(study_of(tmp_path, path, "nnunetv2", folds=[3]))


def test_names_that_do_not_fit_the_channels_are_refused_with_both_lists(tmp_path: Path) -> None:
    study = study_of(tmp_path, tmp_path)
    case, raw = prepared(tmp_path, study)

    def ask(request: dict[str, Any]) -> dict[str, Any]:
        np.save(request["out"], np.zeros((2, *SHAPE), np.float32))
        return {"to_grid": np.eye(4).tolist()}

    runner = SimpleNamespace(teacher="given", ask=ask, place=lambda suffix: tmp_path / f"x{suffix}", versions={})
    fits = WholeScanTeacher(cast("Any", runner), ["liver"], [[1]], "softmax", "d", ["background", "liver"])
    assert fits.targets(case, raw).margins.shape == (1, *SHAPE)
    wrong = WholeScanTeacher(cast("Any", runner), ["liver"], [[0]], "softmax", "d", ["liver"])
    with pytest.raises(DataError, match=r"case d/scan[\s\S]*2 channels: 0, 1[\s\S]*names 1: liver"):
        wrong.targets(case, raw)
