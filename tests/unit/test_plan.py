"""The plan: jobs as Snakemake counts them, arithmetic by hand, and units that are measured or read."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from mskd.cli.app import app
from mskd.config.loading import load_study, parse_study
from mskd.config.study import Study
from mskd.dag import Graph
from mskd.errors import ConfigError, DataError
from mskd.plan import measuring
from mskd.plan.activations import activation_mib, parameter_count
from mskd.plan.costs import Costs
from mskd.plan.jobs import study_jobs
from mskd.plan.miniature import miniature
from mskd.plan.network_costs import _estimated_mib
from mskd.plan.report import disk_warning, notes, plan_json, show_plan
from mskd.plan.study import Plan, plan_study
from mskd.plan.units import InferenceUnits, TrainingUnits, Units, VolumeUnits, measured_or_read, units_leaves
from mskd.plan.volumes import ScanSize, scan_sizes

REPOSITORY = Path(__file__).parents[2]


def section(organ: str, n_test: int, **phantom: Any) -> dict[str, Any]:
    """A dataset of scans of 80 × 80 × 160 mm: 10 × 10 × 20 raw voxels, 5 × 5 × 10 on the study grid of 16 mm."""
    made = {
        "organs": [organ],
        "task": f"Task01_{organ.title()}",
        "n_train": 2,
        "n_val": 1,
        "n_test": n_test,
        "scanner": {"spacing_mm": [8, 8, 8], "fov_mm": [80, 80, 160], "slice_thickness_mm": 8},
    }
    return {"label_map": {1: organ}, "blocks": 1, "phantom": {**made, **phantom}}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return parse_study(
        {
            "study": "tiny",
            "results": str(tmp_path / "results"),
            "organs": ["liver", "spleen"],
            "datasets": {"liver": section("liver", 1), "spleen": section("spleen", 0)},
            "methods": {"individual": {}, "mskd": {}},
            "preprocessing": {"spacing_mm": [16, 16, 16], "crop_to_body": False},
            "network": {"features": [4, 8]},
            "training": {
                "steps": 10,
                "batch_size": 2,
                "patch_size": [8, 8, 8],
                "threads": 1,
                "validate_every": 4,
                "checkpoint_every": 100,
                "ram_cache_gib": 0,
            },
            "cache": {"taps": ["decoder0"]},
            "inference": {"threads": 1},
        }
    )


@pytest.fixture
def units(study: Study) -> Units:
    """Powers of ten, so that each term can be told from the others."""
    training = TrainingUnits(step_s=10, fixed_s=1, memory_mib=600, gpu_memory_mib=70)
    inference = InferenceUnits(window_s=1000, mvoxel_s=0, memory_mib=500, mvoxel_mib=0, gpu_memory_mib=30)
    volumes = VolumeUnits(
        start_s=1,
        phantom_s={"liver": 1e3, "spleen": 1e4},
        prepare_s=1e5,
        read_s=1e4,
        organ_s=1e6,
        memory_mib=100,
        phantom_mib=1e3,
        prepare_mib=2e3,
        evaluate_mib=3e3,
        phantom_bytes=2,
        prepared_bytes=3,
        prediction_bytes=1,
        body_share=(1, 1, 1),
    )
    names = ["teacher/liver", "teacher/spleen", "method/individual", "method/mskd"]
    return Units(
        fits=units_leaves(study),
        device="cpu",
        machine="abacus",
        gpu_memory="estimated",
        scaled=1,
        start_s=2,
        volumes=volumes,
        training=dict.fromkeys([name for name in names if name != "method/individual"], training),
        cache=inference,
        cache_bytes=7,
        predict=inference,
        parameters=dict.fromkeys(names, 1000),
    )


@pytest.fixture
def plan(study: Study, units: Units) -> Plan:
    return plan_study(study, units, parallel=2)


@pytest.mark.parametrize("name", ["demo", "phantom_benchmark"])
def test_jobs_are_those_that_snakemake_would_start(name: str, tmp_path: Path) -> None:
    config = ["--configfile", f"config/{name}.yaml", "--config", f"results={tmp_path}"]
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--quiet", "rules", *config]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^(\w+) +(\d+) *$", done.stdout + done.stderr, re.MULTILINE)
    scheduled = {rule: int(count) for rule, count in rows if rule not in ("total", "all")}
    jobs = study_jobs(Graph(load_study(REPOSITORY / "config" / f"{name}.yaml")))
    assert Counter(job.stage for job in jobs) == scheduled


def test_a_path_that_snakemake_would_misread_is_refused(study: Study, tmp_path: Path) -> None:
    Graph(study).check_names()
    with pytest.raises(ConfigError, match=r"a \{1\}(.|\n)*symbolic link"):
        Graph(study.model_copy(update={"results": tmp_path / "a {1}"})).check_names()


def test_jobs_come_after_what_they_wait_for(study: Study) -> None:
    seen: set[Path] = set()
    jobs = study_jobs(Graph(study))
    for job in jobs:
        assert set(job.inputs) <= seen
        seen.add(job.output)
    assert jobs[-1].stage == "tabulate"
    teacher = next(job for job in jobs if job.stage == "train_teacher")
    assert teacher.log == study.root / "logs" / "train_teacher" / "liver" / "fold0-seed0.log"


def test_sizes_of_phantoms_come_from_the_configuration(study: Study) -> None:
    sizes = scan_sizes(Graph(study))
    assert len(sizes) == 7
    assert set(sizes.values()) == {ScanSize(raw=(10, 10, 20), full=(5, 5, 10))}


def test_sizes_of_files_come_from_their_headers(study: Study, tmp_path: Path) -> None:
    for index in range(30):
        for folder in ("imagesTr", "labelsTr"):
            path = tmp_path / "data" / folder / f"liver_{index}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(np.zeros((4, 6, 10 + index), np.uint8), np.diag([16, 8, 32, 1])), path)
    real = {
        "path": str(tmp_path / "data"),
        "label_map": {1: "liver", 2: "spleen"},
        "split": {"kind": "all", "into": "train"},
    }
    data = study.model_dump(mode="json") | {"datasets": {"liver": real}, "teachers": {}}
    sizes = scan_sizes(Graph(parse_study(data)))
    assert len(sizes) == 30
    assert sizes["liver/liver_0"] == ScanSize(raw=(4, 6, 10), full=(4, 3, 20))
    assert sizes["liver/liver_29"].full == (4, 3, 78)
    shutil.rmtree(tmp_path / "data")
    with pytest.raises(DataError, match="way out"):
        Graph(parse_study(data))


def test_prepared_shape_is_the_bodys_share(study: Study) -> None:
    cropping = study.model_copy(update={"preprocessing": study.preprocessing.model_copy(update={"crop_to_body": True})})
    assert ScanSize((1, 1, 1), (10, 10, 10)).prepared(cropping, (0.55, 1.0, 2.0)) == (6, 10, 10)
    assert ScanSize((1, 1, 1), (10, 10, 10)).prepared(study, (0.5, 0.5, 0.5)) == (10, 10, 10)


def test_costs_by_hand(plan: Plan) -> None:
    stages = {stage.stage: stage for stage in plan.stages}
    raw, grid, windows = 2000, 250, 2  # voxels; a window of 8³ on 5 × 5 × 10: two along the last axis
    phantoms = stages["make_phantoms"]
    assert phantoms.total_s == pytest.approx((1 + 1e3 * 4 * raw / 1e6) + (1 + 1e4 * 3 * raw / 1e6))
    assert phantoms.disk_bytes == pytest.approx(2 * 7 * raw)
    assert phantoms.memory_mib == pytest.approx(100 + 1e3 * raw / 1e6)
    prepare = stages["prepare"]
    assert prepare.jobs == 2
    assert prepare.total_s == pytest.approx(2 + 1e5 * 7 * (raw + grid) / 1e6)
    assert prepare.disk_bytes == pytest.approx(3 * 7 * grid)
    validation_s = 1000 * windows  # of one case
    teachers = stages["train_teacher"]
    assert teachers.total_s == pytest.approx(2 * (2 + 1 + 10 * 10 + 3 * validation_s))
    assert teachers.disk_bytes == 2 * 4 * 1000  # no checkpoint in so few steps
    assert (teachers.memory_mib, teachers.gpu_memory_mib) == (600, 70)
    cache = stages["cache_targets"]
    assert cache.jobs == 4
    assert cache.total_s == pytest.approx(4 * (2 + 2 * 1000 * windows))  # two training cases each
    assert cache.disk_bytes == pytest.approx(7 * 4 * 2 * grid)
    students = stages["train_student"]
    assert students.total_s == pytest.approx(2 + (2 + 1 + 100 + 3 * 2 * validation_s))
    predict = stages["predict"]
    assert predict.total_s == pytest.approx((2 + 1000 * windows) + (2 + 2 * 1000 * windows))  # individual: two passes
    evaluate = stages["evaluate"]
    assert evaluate.total_s == pytest.approx(2 * (1 + (1e4 + 1e6) * raw / 1e6))
    fit = stages["fit_projection"]
    assert fit.total_s == pytest.approx(2 * (2 + 2 * 1000 * windows))
    assert plan.jobs == 2 + 1 + 2 + 2 + 2 + 4 + 1 + 2 + 2 + 2 + 1
    assert plan.schedule.work_s == pytest.approx(sum(stage.total_s for stage in plan.stages))


def test_a_method_of_several_networks_is_planned_as_such(study: Study, units: Units) -> None:
    """Co-training: two networks that learn, an average of each."""
    data = study.model_dump(mode="json") | {"methods": {"self_training": {}, "co_training": {}}}
    data["training"]["checkpoint_every"] = 5
    changed = parse_study(data)
    rows = {f"method/{name}": units.training["method/mskd"] for name in changed.methods}
    found = units.model_copy(
        update={
            "training": {**units.training, **rows},
            "parameters": {**units.parameters, "method/self_training": 1000, "method/co_training": 1000},
        }
    )
    costs = Costs(Graph(changed), scan_sizes(Graph(changed)), found)
    jobs = {job.parts[0]: job for job in study_jobs(Graph(changed)) if job.stage == "train_student"}
    copies = {name: costs.of(job).disk_bytes / 4000 for name, job in jobs.items()}
    # the model, and in the checkpoint the best weights, each network, and the momentum of those that learn
    assert copies == {"self_training": 1 + 1 + 1 + 1, "co_training": 1 + 1 + 4 + 2}
    one, two = (_estimated_mib(changed, f"method/{name}", changed.training) for name in jobs)
    averages = 2 * 4 * parameter_count(changed.network, 3) / 2**20
    assert two == pytest.approx(2 * one + averages)


def test_same_units_give_the_same_plan(study: Study, units: Units, tmp_path: Path, plan: Plan) -> None:
    path = tmp_path / "units.json"
    path.write_text(units.model_dump_json())
    read = measured_or_read(study, device="auto", source=path, target=tmp_path / "copy.json")
    again = plan_study(study, read, parallel=2)
    assert json.loads((tmp_path / "copy.json").read_text()) == json.loads(path.read_text())
    assert replace(again, free_bytes=0) == replace(plan, free_bytes=0)


def test_more_steps_need_no_new_units_but_another_patch_does(study: Study, units: Units, tmp_path: Path) -> None:
    path = tmp_path / "units.json"
    path.write_text(units.model_dump_json())
    data = study.model_dump(mode="json")
    longer = parse_study({**data, "training": {**data["training"], "steps": 1000}})
    assert measured_or_read(longer, device="auto", source=path, target=None) == units
    larger = parse_study({**data, "training": {**data["training"], "patch_size": [16, 16, 16]}})
    with pytest.raises(ConfigError, match="another study"):
        measured_or_read(larger, device="auto", source=path, target=None)
    path.write_text("{}")
    with pytest.raises(ConfigError, match="no unit costs"):
        measured_or_read(study, device="auto", source=path, target=None)
    with pytest.raises(ConfigError, match="No such file"):
        measured_or_read(study, device="auto", source=tmp_path / "none.json", target=None)


def test_the_text_says_what_is_measured_and_what_does_not_fit(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    full = replace(plan, free_bytes=1, units=plan.units.model_copy(update={"scaled": 8.0}))
    show_plan(full)
    printed = capsys.readouterr().out
    for expected in ("train_teacher", "measured on abacus", "estimated", "WARNING", "raised up to 8 times"):
        assert expected in printed
    assert "2 jobs at a time" in printed
    assert disk_warning(plan) == ""
    measured = replace(plan, units=plan.units.model_copy(update={"gpu_memory": "measured"}))
    assert "GPU memory: measured." in " ".join(notes(measured))
    data = json.loads(plan_json(full))
    assert not data["fits_disk"]
    assert data["stages"][0]["stage"] == "make_phantoms"


def test_gpu_memory_from_activations(study: Study) -> None:
    parts = [activation_mib(study.network, 3, (8, 8, 8), batch, study.training) for batch in (1, 2, 3)]
    assert parts[2] - parts[1] == pytest.approx(parts[1] - parts[0])
    full, half = (
        activation_mib(study.network, 3, (32, 32, 32), 1, study.training.model_copy(update={"mixed_precision": mixed}))
        for mixed in (False, True)
    )
    # per voxel: 2 + 2 convolutions and norms of 4 channels at full size, transposed convolution 4, joined 8, scores 3,
    # and on an eighth of the voxels 4 times 8 channels
    kept = 4 * 2 * 2 * 2 + 4 + 8 + 3 + 4 * 8 / 8
    assert full - half == pytest.approx(2 * kept * 32**3 / 2**20)
    assert activation_mib(study.network, 3, (8, 8, 8), 1, None) < parts[0]
    assert parameter_count(study.network, 3) > 0


def test_units_are_measured_with_the_real_stages(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "BUDGET_S", 0.5)
    found = measuring.measure_units(study, "cpu")
    assert found.fits == units_leaves(study)
    assert set(found.training) == {"teacher/liver", "teacher/spleen", "method/mskd"}
    assert set(found.volumes.phantom_s) == {"liver", "spleen"}
    assert min(unit.step_s for unit in found.training.values()) > 0
    assert found.predict.window_s > 0
    assert found.cache_bytes > 0
    assert (found.device, found.gpu_memory) == ("cpu", "estimated")
    assert not study.root.exists()
    assert plan_study(study, found).schedule.total_s > 0


def with_given(study: Study, folder: Path, trained: list[str], **section: Any) -> Study:
    """The study with a teacher that exists already and knows the spleen, beside some of its own."""
    for index in range(3):  # of the liver's cases that teachers are asked about
        seen = folder / "seen" / f"liver_{index:03d}.nii.gz"
        seen.parent.mkdir(parents=True, exist_ok=True)
        seen.touch()
    given = {"kind": "labels", "path": str(folder / "seen"), "classes": {1: "spleen"}, "datasets": ["liver"], **section}
    data = study.model_dump(mode="json") | {"methods": {"naive_union": {}, "mskd": {}}}
    data["teachers"] = {**{name: {} for name in trained}, "given": given}
    return parse_study(data)


@pytest.mark.parametrize("trained", [["liver"], []])
def test_teachers_that_exist_already_are_not_asked_but_planned(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: list[str]
) -> None:
    monkeypatch.setattr(measuring, "BUDGET_S", 0.5)
    changed = with_given(study, tmp_path, trained)
    found = measuring.measure_units(changed, "cpu")
    assert set(found.training) == {*(f"teacher/{name}" for name in trained), "method/naive_union", "method/mskd"}
    assert found.cache_bytes > 0
    plan = plan_study(changed, found)
    stages = {stage.stage: stage for stage in plan.stages}
    assert stages["adopt_teacher"].jobs == 1
    assert stages["cache_targets"].jobs == 2 * len(trained) + 1
    assert ("train_teacher" in stages) == bool(trained)
    assert plan.foreign == ()


def test_a_teacher_of_another_network_is_said_not_to_be_known(study: Study, units: Units, tmp_path: Path) -> None:
    model = tmp_path / "net.onnx"
    for path in (model, tmp_path / "preprocessing.json"):
        path.write_text("{}")
    labels = with_given(study, tmp_path, ["liver", "spleen"])
    network = with_given(study, tmp_path, ["liver", "spleen"], kind="onnx", path=str(model))
    rows = {f"method/{name}": units.training["method/mskd"] for name in network.methods}
    parameters = {**units.parameters, **dict.fromkeys(rows, 1000)}
    found = units.model_copy(update={"training": {**units.training, **rows}, "parameters": parameters})
    plans = [plan_study(changed, found) for changed in (labels, network)]
    asked_s = [next(s for s in plan.stages if s.stage == "cache_targets").total_s for plan in plans]
    assert asked_s[1] - asked_s[0] == pytest.approx(2 * 1000 * 2)  # two windows in each of two training cases
    assert [plan.foreign for plan in plans] == [(), ("given",)]
    assert "Not known: how long given take to answer" in " ".join(notes(plans[1]))


def test_a_row_that_weighs_or_cross_fits_is_measured(tmp_path: Path, study: Study) -> None:
    """A miniature has neither validation cases nor teachers of parts."""
    data = study.model_dump(mode="json") | {"cache": {"taps": [], "splits": ["train", "val"]}}
    data["distillation"]["combine"] = "validation_dice"
    data["methods"] = {"mskd": {"distillation": {"targets": "cross_fitted"}}}
    mini = miniature(parse_study(data), tmp_path / "mini", {}, {}, (8, 8, 8))
    assert not mini.method_weighs("mskd")
    assert not mini.cross_fits


def test_command_reads_units_and_prints_json(study: Study, units: Units, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(json.dumps(study.model_dump(mode="json")))
    (tmp_path / "units.json").write_text(units.model_dump_json())
    arguments = ["plan", str(tmp_path / "study.yaml"), "--units", str(tmp_path / "units.json"), "--json"]
    done = CliRunner().invoke(app, [*arguments, "--jobs", "3"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["parallel"] == 3
