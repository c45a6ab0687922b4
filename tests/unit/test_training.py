"""The training loop: resumes bit by bit, keeps its journal straight, chooses the weights it was told to."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_cases import HU_CLIP, make_case
from torch import Tensor, nn

from mskd.config.model import Network
from mskd.config.training import Training
from mskd.errors import MskdError
from mskd.networks.unet import UNet
from mskd.training import loop
from mskd.training.cases import TrainingCase
from mskd.training.journal import METRICS, PLOT, Journal, read_rows
from mskd.training.loop import CHECKPOINT, InterruptedTraining, Trainee, train
from mskd.training.patches import Batch, PatchDataset, PatchNeeds

CPU = torch.device("cpu")
DRAW = Journal.plot
DEFAULTS: dict[str, Any] = {
    "steps": 6,
    "patch_size": (8, 8, 8),
    "learning_rate": 0.01,
    "warmup_steps": 2,
    "validate_every": 3,
    "checkpoint_every": 2,
    "log_every": 1,
}


class Killed(Exception):  # noqa: N818
    """Stands for SIGKILL: nothing can be written any more."""


class Scene:
    """A small training whose loss and validation can be watched, and cut off at a step."""

    def __init__(self, folder: Path, case: TrainingCase, **settings: Any) -> None:
        self.folder = folder
        self.settings = Training(**{**DEFAULTS, **settings})
        torch.manual_seed(0)
        self.network = UNet(Network(features=[2, 3], convolutions_per_level=1), 2)
        self.auxiliary = nn.Conv3d(2, 1, 1)
        self.seen: list[Tensor] = []
        self.term_at = self.kill_at = -1
        self.signal = signal.SIGTERM
        self.patches = PatchDataset(
            [case], self.settings, n_organs=1, spacing_mm=(1.0, 1.0, 1.0), hu_clip=HU_CLIP, seed=5, needs=PatchNeeds()
        )

    def loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        self.seen.append(batch.image)
        if step == self.term_at:
            readers = multiprocessing.active_children()
            for pid in [os.getpid(), *(reader.pid for reader in readers)]:  # as Slurm and terminals do
                os.kill(pid or 0, self.signal)
            for reader in readers:
                reader.join(0.5)
        if step == self.kill_at:
            raise Killed
        scores = self.network(batch.image)
        target = (batch.labels == 1).float()[:, None]
        return {"own": (scores[:, 1:] - target).square().mean(), "projected": (self.auxiliary(scores) - 1).abs().mean()}

    def validate(self) -> dict[str, float]:
        assert not self.network.training
        return {"val_dice": float(sum(p.detach().abs().sum() for p in self.network.parameters())) % 1}

    def train(self, key: str = "k", validate: Any = None) -> dict[str, float]:
        trainee = Trainee("t", self.network, self.auxiliary, self.loss, validate or self.validate)
        return train(trainee, self.patches, self.settings, folder=self.folder, device=CPU, resume_key=key)

    def rows(self) -> list[dict[str, Any]]:
        """The journal, less what a clock says."""
        return [{k: v for k, v in row.items() if k != "time_s"} for row in read_rows(self.folder / METRICS)]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> TrainingCase:
    image = np.random.default_rng(0).integers(-100, 101, (14, 12, 10)).astype(np.int16)
    return make_case(
        tmp_path_factory.mktemp("case"), image, (image > 40).astype(np.uint8), labelled=[1], budget_bytes=10**7
    )


@pytest.fixture(autouse=True)
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of the time of these trainings; `test_the_plot` draws."""
    monkeypatch.setattr(Journal, "plot", lambda self, title: None)


def assert_same(one: nn.Module, two: nn.Module) -> None:
    first, second = one.state_dict(), two.state_dict()
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.parametrize(
    "settings",
    [
        {"optimiser": "sgd"},
        {"optimiser": "adamw", "ema_decay": 0.9, "keep": "last", "schedule": "cosine"},
        {"optimiser": "adamw", "ema_decay": 0.5, "validate_every": 1, "gradient_clip": 0.05},
    ],
)
@pytest.mark.parametrize("how", ["term", "kill"])
def test_resuming_changes_nothing(tmp_path: Path, case: TrainingCase, settings: dict[str, Any], how: str) -> None:
    """Straight through, and stopped and started again: weights, scores and journal are the same, bit by bit."""
    straight = Scene(tmp_path / "a", case, **settings)
    scores = straight.train()

    stopped = Scene(tmp_path / "b", case, **settings)
    if how == "term":
        stopped.term_at = 4  # the checkpoint comes after this step, not only every second one
        with pytest.raises(InterruptedTraining, match="after step 5"):
            stopped.train()
        first = 5
    else:
        stopped.kill_at = (
            5  # step 5 is in the journal (from 1), its checkpoint is of step 4, or 5 if that was validated
        )
        with pytest.raises(Killed):
            stopped.train()
        assert read_rows(tmp_path / "b" / METRICS)[-1]["step"] == 5
        first = 5 if settings.get("validate_every") == 1 else 4
    again = Scene(tmp_path / "b", case, **settings)
    nn.init.zeros_(again.auxiliary.weight)  # what it starts from comes from the checkpoint
    assert again.train() == scores

    assert_same(again.network, straight.network)
    assert_same(again.auxiliary, straight.auxiliary)
    assert len(again.seen) == 6 - first
    assert all(torch.equal(x, y) for x, y in zip(again.seen, straight.seen[first:], strict=True))
    assert again.rows() == straight.rows()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_to_its_readers_too_loses_no_step(tmp_path: Path, case: TrainingCase, number: signal.Signals) -> None:
    scene = Scene(tmp_path / "a", case, workers=1, checkpoint_every=1000, validate_every=1000)
    scene.term_at, scene.signal = 3, number
    with pytest.raises(InterruptedTraining, match="after step 4"):
        scene.train()
    again = Scene(tmp_path / "a", case, workers=1)
    again.train()
    assert len(again.seen) == 2
    assert multiprocessing.active_children() == []


def test_a_second_interrupt_from_the_keyboard_ends_it_where_it_is(tmp_path: Path, case: TrainingCase) -> None:
    scene = Scene(tmp_path, case, checkpoint_every=1000, validate_every=1000)
    told = scene.loss

    def impatient(batch: Batch, step: int) -> dict[str, Tensor]:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        return told(batch, step)

    scene.loss = impatient  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        scene.train()
    assert not (tmp_path / CHECKPOINT).exists()


def test_a_signal_while_the_checkpoint_is_written_ends_it_before_the_validation(
    tmp_path: Path, case: TrainingCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = loop.save_checkpoint

    def signalled(*arguments: Any) -> None:
        save(*arguments)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop, "save_checkpoint", signalled)
    scene, validated = Scene(tmp_path, case, checkpoint_every=1000), list[int]()
    with pytest.raises(InterruptedTraining, match="after step 3"):
        scene.train(validate=lambda: validated.append(1) or {"val_dice": 0.0})
    assert validated == []


def test_a_signal_during_a_validation_ends_it_at_once_and_loses_nothing(tmp_path: Path, case: TrainingCase) -> None:
    straight = Scene(tmp_path / "a", case)
    scores = straight.train()
    scene = Scene(tmp_path / "b", case, checkpoint_every=1000)

    def told_to_stop() -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGUSR1)
        raise AssertionError("the validation goes on")

    with pytest.raises(InterruptedTraining, match="after step 3"):
        scene.train(validate=told_to_stop)
    again = Scene(tmp_path / "b", case, checkpoint_every=1000)
    assert again.train() == scores
    assert len(again.seen) == 3
    assert again.rows() == straight.rows()
    assert_same(again.network, straight.network)


@pytest.mark.parametrize("ended_after", [3, 4])  # a step that is validated anyway, and one that is not
def test_a_finished_training_goes_on_when_it_becomes_longer(
    tmp_path: Path, case: TrainingCase, ended_after: int
) -> None:
    course = {"schedule": "cosine", "schedule_steps": 8, "ema_decay": 0.9, "optimiser": "adamw"}
    straight = Scene(tmp_path / "a", case, **course)
    scores = straight.train()
    Scene(tmp_path / "b", case, steps=ended_after, **course).train()
    longer = Scene(tmp_path / "b", case, **course)
    assert longer.train() == scores
    assert len(longer.seen) == 6 - ended_after
    assert_same(longer.network, straight.network)
    rates = [[row["learning_rate"] for row in scene.rows() if "loss" in row] for scene in (straight, longer)]
    assert rates[0] == rates[1]


def test_a_training_that_becomes_shorter_begins_anew(tmp_path: Path, case: TrainingCase) -> None:
    Scene(tmp_path, case, schedule_steps=8).train()
    shorter = Scene(tmp_path, case, steps=4, schedule_steps=8)
    shorter.train()
    assert len(shorter.seen) == 4


def test_the_journal_holds_no_step_twice(tmp_path: Path, case: TrainingCase) -> None:
    for kill_at in (1, 3, 5, -1):
        scene = Scene(tmp_path, case, checkpoint_every=3)
        scene.kill_at = kill_at
        try:
            scene.train()
        except Killed:
            continue
    rows = read_rows(tmp_path / METRICS)
    assert Counter(row["step"] for row in rows if "loss" in row) == Counter(range(1, 7))
    assert Counter(row["step"] for row in rows if "val_dice" in row) == Counter([3, 6])
    assert [row["step"] for row in rows] == sorted(row["step"] for row in rows)


def test_reading_processes_change_nothing(tmp_path: Path, case: TrainingCase) -> None:
    one, two = Scene(tmp_path / "a", case), Scene(tmp_path / "b", case, workers=1)
    assert one.train() == two.train()
    assert_same(one.network, two.network)


def test_another_key_starts_from_the_first_step(tmp_path: Path, case: TrainingCase) -> None:
    Scene(tmp_path, case).train("old")
    scene = Scene(tmp_path, case)
    scene.train("new")
    assert len(scene.seen) == 6
    assert Counter(row["step"] for row in scene.rows() if "loss" in row) == Counter(range(1, 7))


def test_told_to_stop_at_the_last_step_it_is_done(tmp_path: Path, case: TrainingCase) -> None:
    scene = Scene(tmp_path / "a", case)
    scene.term_at = 5
    scores = scene.train()
    again = Scene(tmp_path / "a", case)
    assert again.train() == scores
    assert again.seen == []
    assert_same(again.network, scene.network)


def test_signals_are_handed_back(tmp_path: Path, case: TrainingCase) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGUSR1)
    scene = Scene(tmp_path, case)
    scene.kill_at = 0
    with pytest.raises(Killed):
        scene.train()
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGUSR1)) == before


class TestChosenWeights:
    def run(self, folder: Path, case: TrainingCase, scores: list[float], **settings: Any) -> tuple[Any, list[Any], Any]:
        """Train with these validation scores; return what comes back, the weights at each validation, the scene."""
        scene = Scene(folder, case, validate_every=2, **settings)
        weights, answers = [], iter(scores)

        def validate() -> dict[str, float]:
            weights.append({k: v.clone() for k, v in scene.network.state_dict().items()})
            return {"val_dice": next(answers), "val_dice_liver": 0.5}

        return scene.train(validate=validate), weights, scene

    @pytest.mark.parametrize(("keep", "chosen"), [("best", 1), ("last", 2)])
    def test_best_or_last(self, tmp_path: Path, case: TrainingCase, keep: str, chosen: int) -> None:
        scores = [0.3, 0.6, 0.5]
        found, weights, scene = self.run(tmp_path, case, scores, keep=keep)
        assert found == {"val_dice": scores[chosen], "val_dice_liver": 0.5, "step": 2 * (chosen + 1)}
        assert all(torch.equal(v, weights[chosen][k]) for k, v in scene.network.state_dict().items())
        assert not torch.equal(
            weights[0]["encoder.stages.0.0.convs.0.all_modules.0.weight"],
            weights[1]["encoder.stages.0.0.convs.0.all_modules.0.weight"],
        )

    def test_a_tie_keeps_the_first(self, tmp_path: Path, case: TrainingCase) -> None:
        assert self.run(tmp_path, case, [0.0, 0.0, 0.0])[0]["step"] == 2

    def test_the_average_is_validated_but_does_not_train(self, tmp_path: Path, case: TrainingCase) -> None:
        _, plain, _ = self.run(tmp_path / "a", case, [0.1, 0.2, 0.3])
        _, averaged, scene = self.run(tmp_path / "b", case, [0.1, 0.2, 0.3], ema_decay=0.99)
        name = next(iter(plain[0]))
        assert not torch.equal(averaged[-1][name], plain[-1][name])
        assert torch.equal(scene.network.state_dict()[name], averaged[-1][name])
        # the training itself went the same way
        one, two = (read_rows(tmp_path / which / METRICS) for which in "ab")
        assert [r["loss"] for r in one if "loss" in r] == [r["loss"] for r in two if "loss" in r]

    def test_without_validation_cases_the_last(self, tmp_path: Path, case: TrainingCase) -> None:
        scene = Scene(tmp_path, case)
        assert scene.train(validate=dict) == {"step": 6}
        assert not any("val_dice" in row for row in scene.rows())


def test_rows_hold_the_terms_and_the_learning_rate(tmp_path: Path, case: TrainingCase) -> None:
    scene = Scene(tmp_path, case, schedule="constant", log_every=4)
    scene.train()
    rows = [row for row in scene.rows() if "loss" in row]
    assert [row["step"] for row in rows] == [4, 6]
    for row in rows:
        assert row["loss"] == pytest.approx(row["loss_own"] + row["loss_projected"])
        assert row["learning_rate"] == pytest.approx(0.01)


def test_a_loss_that_is_not_finite(tmp_path: Path, case: TrainingCase) -> None:
    scene = Scene(tmp_path, case)
    nn.init.constant_(scene.auxiliary.bias, float("nan"))
    with pytest.raises(MskdError, match=r"not finite at step 0.*loss_projected.*\n.*learning_rate"):
        scene.train()


def test_the_norm_of_the_gradient_is_limited(tmp_path: Path, case: TrainingCase) -> None:
    """One SGD step of clipped gradient g: Nesterov's first step is lr (1 + momentum) g."""
    settings = {"steps": 1, "gradient_clip": 1e-3, "weight_decay": 0.0, "schedule": "constant", "warmup_steps": 0}
    scene = Scene(tmp_path, case, **settings)
    before = [p.detach().clone() for p in (*scene.network.parameters(), *scene.auxiliary.parameters())]
    scene.train()
    after = [p.detach() for p in (*scene.network.parameters(), *scene.auxiliary.parameters())]
    moved = torch.stack([(b - a).square().sum() for a, b in zip(after, before, strict=True)]).sum().sqrt()
    assert moved.item() == pytest.approx(0.01 * 1.99 * 1e-3, rel=1e-2)


class TestJournal:
    def test_the_plot(self, tmp_path: Path) -> None:
        journal = Journal(tmp_path, first_step=0)
        DRAW(journal, "before the first row")
        journal.add(1, val_dice=0.5)
        DRAW(journal, "validated before a loss was written")
        first = (tmp_path / PLOT).read_bytes()
        journal.add(2, loss=1.0, loss_own=0.5)
        DRAW(journal, "both")
        journal.close()
        assert first.startswith(b"\x89PNG")
        assert (tmp_path / PLOT).read_bytes() != first

    def test_rows_after_the_checkpoint_are_forgotten(self, tmp_path: Path) -> None:
        journal = Journal(tmp_path, first_step=0)
        for step in (1, 2, 3):
            journal.add(step, loss=float(step))
        journal.close()
        journal = Journal(tmp_path, first_step=2)
        journal.add(3, loss=0.5)
        journal.close()
        assert [(r["step"], r["loss"]) for r in read_rows(tmp_path / METRICS)] == [(1, 1.0), (2, 2.0), (3, 0.5)]

    def test_a_torn_last_line_is_left_out(self, tmp_path: Path) -> None:
        (tmp_path / METRICS).write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
        assert read_rows(tmp_path / METRICS) == [{"step": 1, "loss": 2.0}]
        assert read_rows(tmp_path / "nothing.jsonl") == []
        Journal(tmp_path, first_step=5).close()
        assert (tmp_path / METRICS).read_text() == '{"step": 1, "loss": 2.0}\n'
