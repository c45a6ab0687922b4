"""Two processes on a CPU do what one does: same samples, same steps, same files; and they stop and fail together."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from joint_job import with_fault
from test_methods import batch, build, context
from torch import Tensor, nn

from mskd import processes
from mskd.config.loading import load_study, parse_study
from mskd.config.study import Study
from mskd.config.training import Training
from mskd.device import pick_device
from mskd.errors import ConfigError
from mskd.methods.base import Built
from mskd.methods.registry import method_facts, method_kinds
from mskd.stages import train_teacher as stage
from mskd.stages.cache_targets import cache_targets
from mskd.stages.fit_projection import fit_projection
from mskd.stages.predict import predict
from mskd.stages.prepare import prepare
from mskd.stages.train_student import train_student
from mskd.stages.train_teacher import train_teacher
from mskd.status import study_status
from mskd.training.journal import read_rows
from mskd.training.loop import InterruptedTraining, Trainee, train
from mskd.training.patches import Batch
from tests.workflow.project import REPOSITORY, STUDY, dataset_section, write_dataset, write_splits

CPU, RUN = torch.device("cpu"), "fold0-seed0"
SPLITS = ["train", "train", "train", "val", "val", "val", "test", "test", "test"]  # odd numbers for two processes
STEPS, STOPPED_AT, VALIDATE_EVERY = 40, 6, 4
TRAINED = [kind for kind in method_kinds() if method_facts(kind).trains]


@dataclass(frozen=True)
class Place:
    """A folder with raw data, a study and what was made of it."""

    folder: Path

    @property
    def study(self) -> Study:
        return load_study(self.study_file)

    @property
    def study_file(self) -> Path:
        return self.folder / "tiny.yaml"

    def made(self, *parts: str) -> Path:
        return self.folder.joinpath("results", "tiny", *parts)

    def rows(self, *model: str) -> list[dict[str, Any]]:
        """The journal of a model, less what a clock says."""
        rows = read_rows(self.made("models", *model, RUN, "metrics.jsonl"))
        return [{k: v for k, v in row.items() if k != "time_s"} for row in rows]

    def chosen(self, *model: str) -> dict[str, Any]:
        """The validation of the weights that became a model."""
        card = json.loads(self.made("models", *model, RUN, "model.json").read_text())
        return dict(card["provenance"]["validation"])

    def copy(self, folder: Path, *without: str) -> Place:
        """Return the same elsewhere, without folders that were made."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        place = Place(folder)
        for pattern in without:
            for made in place.made().glob(f"{pattern}/"):
                shutil.rmtree(made)
        place.write_study()
        return place

    def write_study(self) -> None:
        study: dict[str, Any] = {**STUDY, "results": str(self.folder / "results"), "datasets": {}, "methods": {}}
        study["methods"]["mskd"] = {}
        study["training"] = {
            **STUDY["training"],
            "steps": STEPS,
            "batch_size": 4,
            "learning_rate": 0.1,
            "validate_every": VALIDATE_EVERY,
            "checkpoint_every": 4,
            "validation_cases": 3,
            "log_every": 1,
        }
        for organ in study["organs"]:
            section = dataset_section(organ)
            section["split"]["path"] = str(self.folder / section["split"]["path"])
            study["datasets"][organ] = {**section, "path": str(self.folder / section["path"]), "blocks": 1}
        self.study_file.write_text(yaml.safe_dump(study, sort_keys=False))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """What one process makes of a study."""
    place = Place(tmp_path_factory.mktemp("alone"))
    for organ in STUDY["organs"]:
        write_dataset(place.folder / "data", organ, len(SPLITS))
        write_splits(place.folder, organ, SPLITS)
    place.write_study()
    study = place.study
    for dataset in study.datasets:
        prepare(study, dataset, "b00")
    for teacher in study.teachers:
        train_teacher(study, teacher, RUN, CPU)
        fit_projection(study, teacher, RUN, CPU)
        for dataset in study.datasets:
            cache_targets(study, teacher, RUN, dataset, "b00", CPU)
    train_student(study, "mskd", RUN, CPU)
    for dataset in study.datasets:
        predict(study, "mskd", RUN, dataset, "b00", CPU)
    return place


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command of Python with this package; standard error goes where standard output goes, as in a job's log."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", *command],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=240,
    )


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run joint_job.py in two processes."""
    script = str(Path(__file__).with_name("joint_job.py"))
    return run("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--", script, *arguments)


def train_liver(place: Place, *more: str) -> list[str]:
    study = str(place.study_file)
    return ["train-teacher", "--study", study, "--teacher", "liver", "--run", RUN, "--device", "cpu", *more]


def write_log(place: Place, said: str) -> None:
    """Write the log of the teacher's job, which `mskd status` reads."""
    log = place.made("logs", "train_teacher", "liver", f"{RUN}.log")
    log.parent.mkdir(parents=True)
    log.write_text(said)


def assert_same_training(one: Place, other: Place, *model: str) -> None:
    """Losses to 1e-4; Dice counts voxels, so it is equal, unless a voxel's two best scores were equal to 1e-6."""
    expected, found = one.rows(*model), other.rows(*model)
    assert [(row["step"], list(row)) for row in found] == [(row["step"], list(row)) for row in expected]
    assert len(expected) == STEPS + STEPS // VALIDATE_EVERY
    for was, now in zip(expected, found, strict=True):
        for name in was:
            assert now[name] == pytest.approx(was[name], abs=1e-6 if name.startswith("val_dice") else 1e-4)
    assert other.chosen(*model) == pytest.approx(one.chosen(*model), abs=1e-6)
    assert 0 < one.chosen(*model)["val_dice"] < 1


def test_a_teacher(alone: Place, tmp_path: Path) -> None:
    two = alone.copy(tmp_path, "models", "manifests/train_teacher")
    done = run("mskd", *train_liver(two, "--processes", "2"))
    assert done.returncode == 0, done.stdout
    assert_same_training(alone, two, "teachers", "liver")
    assert done.stdout.count("teacher liver") == done.stdout.count("\n")  # one process speaks, and torchrun does not
    weights = two.made("models", "teachers", "liver", RUN, "model.safetensors")
    before = weights.stat().st_ino
    train_teacher(two.study, "liver", RUN, CPU)
    assert weights.stat().st_ino == before  # what two have trained, one finds standing


@pytest.fixture(scope="module")
def two(alone: Place, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """What two processes make of the same study and the same teachers."""
    two = alone.copy(
        tmp_path_factory.mktemp("two"), "cache/*/*/*", "models/mskd", "predictions", "manifests/cache_targets"
    )
    done = torchrun("everything", str(two.study_file), str(two.folder))
    assert done.returncode == 0, done.stdout
    return two


def test_what_processes_tell_each_other(two: Place) -> None:
    found = [json.loads((two.folder / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert found[0] == found[1]
    assert found[0] == {
        "both": [2.0 * value for value in range(24)],
        "layout_kept": True,
        "one": [2.5] * 24,
        "none": None,
        "fixed": None,
        "flags": [True, False],
        "dealt": [[0, "a"], [1, "b"], [0, "c"], [1, "d"], [0, "e"]],
        "first": "first",
        "means": {"loss": 0.5, "other": 3.0},
    }


def test_a_cache(alone: Place, two: Place) -> None:
    cached = sorted(path.relative_to(alone.folder) for path in alone.made("manifests", "cache_targets").rglob("*.json"))
    assert len(cached) == 4
    for path in cached:
        manifest = (two.folder / path).read_bytes()
        assert manifest == (alone.folder / path).read_bytes()
        entries = json.loads(manifest)["entries"]
        assert len(entries) in (3, 6)
        for case, entry in entries.items():
            store = two.made("cache", *path.parts[4:-1], path.stem, f"{case.split('/')[1]}.zarr")
            assert json.loads((store / "zarr.json").read_text())["attributes"]["content"] == entry["content"]


def test_a_student(alone: Place, two: Place) -> None:
    assert_same_training(alone, two, "mskd")


def test_predictions(alone: Place, two: Place) -> None:
    for organ in STUDY["organs"]:
        path = ("manifests", "predict", "mskd", RUN, organ, "b00.json")
        expected, found = (json.loads(place.made(*path).read_text())["entries"] for place in (alone, two))
        assert len(expected) == 3
        assert {case: entry["content"] for case, entry in found.items()} == {
            case: entry["content"] for case, entry in expected.items()
        }


def test_two_stop_together_and_one_goes_on(alone: Place, tmp_path: Path) -> None:
    place = alone.copy(tmp_path, "models", "manifests/train_teacher")
    done = torchrun("disturbed", "SIGTERM", "1", str(STOPPED_AT - 1), *train_liver(place))
    assert done.returncode != 0
    said = f"stopped after step {STOPPED_AT}; run the same command to go on"
    assert done.stdout.count(f"error: teacher liver {RUN}: {said}") == 1
    assert len(place.rows("teachers", "liver")) == STOPPED_AT + 1
    write_log(place, done.stdout)
    status = study_status(place.study)
    assert [(t.step, t.running) for t in status.trainings] == [(STOPPED_AT, False)]
    assert status.failures == ()
    train_teacher(place.study, "liver", RUN, CPU)
    assert_same_training(alone, place, "teachers", "liver")


def test_one_stops_and_two_go_on(alone: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = alone.copy(tmp_path, "models", "manifests/train_teacher")
    with monkeypatch.context() as patched:
        patched.setattr(stage, "_loss", with_fault(stage._loss, "SIGUSR1", rank=0, step=STOPPED_AT - 1))
        with pytest.raises(InterruptedTraining):
            train_teacher(place.study, "liver", RUN, CPU)
    done = run("mskd", *train_liver(place, "--processes", "2"))
    assert f"resuming after step {STOPPED_AT}" in done.stdout
    assert_same_training(alone, place, "teachers", "liver")


def test_an_error_in_one_process_ends_all_and_the_log(alone: Place, tmp_path: Path) -> None:
    place = alone.copy(tmp_path, "models", "manifests/train_teacher")
    done = torchrun("disturbed", "error", "1", str(STOPPED_AT), *train_liver(place))
    assert done.returncode != 0
    last = [line.strip() for line in done.stdout.splitlines() if line.strip(" =")][-4:]
    cause = ["case liver/1: f", "expected: a whole store", "found:    half", "way out:  mend it"]
    assert last == [f"traceback : mskd.errors.DataError: {cause[0]}", *cause[1:]]
    assert done.stdout.count("error: ") == 1  # the other process, which only lost this one, says nothing
    assert len(place.rows("teachers", "liver")) == STOPPED_AT + STOPPED_AT // VALIDATE_EVERY
    write_log(place, done.stdout)
    assert [failure.lines[0] for failure in study_status(place.study).failures] == [f"error: {cause[0]}"]


def test_one_process_has_everything() -> None:
    assert (processes.world(), processes.rank(), processes.is_first()) == (1, 0, True)
    assert processes.gather(processes.share([3, 1, 2])) == [3, 1, 2]
    assert processes.mean({"loss": 0.1}) == {"loss": 0.1}
    assert processes.as_first(None) is None


def as_one_of(monkeypatch: pytest.MonkeyPatch, world: int, rank: int = 0) -> None:
    """Pretend that torchrun started this process."""
    values = {"WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "RANK": rank, "LOCAL_RANK": rank}
    for name, value in {**values, "TORCHELASTIC_RUN_ID": "test"}.items():
        monkeypatch.setenv(name, str(value))


def test_a_batch_that_cannot_be_shared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    as_one_of(monkeypatch, 3)
    trainee = Trainee("t", nn.Identity(), nn.Identity(), lambda batch, step: {}, dict)
    with pytest.raises(ConfigError, match="3 processes cannot share the 4 patches of a step evenly\n  way out"):
        train(trainee, [], Training(batch_size=4), folder=tmp_path, device=CPU, resume_key="k")  # type: ignore[arg-type]


def test_a_study_with_gpus_that_cannot_share_a_batch() -> None:
    study = {**STUDY, "datasets": {organ: dataset_section(organ) for organ in STUDY["organs"]}}
    study["training"] = {"batch_size": 6, "gpus": 4}
    with pytest.raises(ConfigError, match=r"training\.gpus.*4") as caught:
        parse_study(study)
    assert "gpus: 2" in str(caught.value)


def test_each_process_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    as_one_of(monkeypatch, 2, rank=1)
    assert pick_device("cpu") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda", 1)
    with pytest.raises(ConfigError, match="2 processes take a GPU each"):
        pick_device("cuda:0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match=r"2 processes on this machine, which has 1 GPU.*\n  way out"):
        pick_device("auto")


def test_torchrun_is_started_where_several_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[list[str], dict[str, str]]] = []
    monkeypatch.setattr(os, "execve", lambda path, command, environment: started.append((command, environment)))
    monkeypatch.setattr(sys, "argv", ["mskd", "train-teacher", "--run", RUN])
    processes.start(0)
    processes.start(1)
    assert started == []
    processes.start(4)
    command, environment = started[0]
    assert "SIGUSR1" in environment["PET_SIGNALS_TO_HANDLE"]
    assert command[1:] == (
        f"-m torch.distributed.run --standalone --nproc-per-node 4 -m -- mskd train-teacher --run {RUN}".split()
    )
    as_one_of(monkeypatch, 4)
    processes.start(4)  # one of the four
    assert len(started) == 1


@pytest.mark.parametrize("kind", TRAINED)
def test_a_step_is_the_mean_of_its_samples(kind: str) -> None:
    """Losses and gradients of a batch are means of those of each sample alone, so it may be spread over processes."""
    made, both = build(kind, context()), batch()
    terms, gradients = loss_and_gradients(made, both)
    of_samples = [loss_and_gradients(made, only(both, sample)) for sample in (0, 1)]
    for name, value in terms.items():
        assert value == pytest.approx(sum(alone[name] for alone, _ in of_samples) / 2, abs=1e-6), name
    mean = torch.stack([alone for _, alone in of_samples]).mean(0)
    torch.testing.assert_close(gradients, mean, rtol=1e-4, atol=1e-6)
    assert gradients.abs().max() > 1e-3
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in made.network.modules())


def only(whole: Batch, sample: int) -> Batch:
    """Return a batch of one of its samples."""
    row = slice(sample, sample + 1)
    assert whole.margins is not None
    features = {key: value[row] for key, value in whole.features.items()}
    return Batch(whole.image[row], whole.labels[row], whole.labelled[row], whole.margins[row], features)


def loss_and_gradients(made: Built, some: Batch) -> tuple[dict[str, float], Tensor]:
    learning = [p for p in (*made.network.parameters(), *made.auxiliary.parameters()) if p.requires_grad]
    terms = made.loss(some, 5)
    gradients = torch.autograd.grad(torch.stack(list(terms.values())).sum(), learning)
    return {name: value.item() for name, value in terms.items()}, torch.cat([g.flatten() for g in gradients])
