"""Parts of training: optimisers, schedules, moving average, checkpoints, validation."""

from __future__ import annotations

import signal
import subprocess
import sys
from math import cos, pi
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_cases import HU_CLIP, make_case
from torch import Tensor, nn

from mskd.config.training import Training
from mskd.inference import Windows
from mskd.storage import remove_unfinished
from mskd.training.checkpoints import load_checkpoint, optimiser_tensors, restore_optimiser, save_checkpoint
from mskd.training.optimisation import MovingAverage, build_optimiser, learning_rate
from mskd.training.validation import validation_dice


class TestLearningRate:
    def rate(self, step: int, **settings: Any) -> float:
        return learning_rate(step, Training(**{"steps": 100, "learning_rate": 2.0, **settings}))

    @pytest.mark.parametrize(
        ("schedule", "expected"),
        [("poly", 2 * 0.75**0.9), ("cosine", 1 + cos(pi / 4)), ("constant", 2.0)],
    )
    def test_a_quarter_of_the_way(self, schedule: str, expected: float) -> None:
        assert self.rate(0, schedule=schedule) == 2.0
        assert self.rate(25, schedule=schedule) == pytest.approx(expected)

    def test_falls_to_zero_and_stays_there(self) -> None:
        assert self.rate(10, schedule="poly", schedule_steps=10) == 0
        assert self.rate(90, schedule="cosine", schedule_steps=10) == 0
        assert self.rate(99, schedule="poly") > 0

    def test_warm_up(self) -> None:
        found = [self.rate(step, schedule="constant", warmup_steps=4) for step in range(6)]
        assert found == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0, 2.0])


class TestOptimiser:
    def test_takes_what_learns(self) -> None:
        layers = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False))
        for kind, expected in (("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)):
            optimiser = build_optimiser(layers.parameters(), Training(optimiser=kind))
            assert type(optimiser) is expected
            assert [p.data_ptr() for p in optimiser.param_groups[0]["params"]] == [
                p.data_ptr() for p in layers[0].parameters()
            ]
            assert optimiser.param_groups[0]["weight_decay"] == 3e-5

    def test_nesterov_by_hand(self) -> None:
        weight = nn.Parameter(torch.tensor([1.0]))
        optimiser = build_optimiser([weight], Training(learning_rate=0.1, weight_decay=0.0))
        for expected in (1 - 0.1 * 1.99, 1 - 0.1 * 1.99 - 0.1 * (1 + 0.99 * 1.99)):
            weight.grad = torch.ones(1)
            optimiser.step()
            assert weight.item() == pytest.approx(expected)


def test_moving_average_by_hand() -> None:
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    network.register_buffer("count", torch.tensor(0))
    average = MovingAverage(network, 0.25)
    nn.init.ones_(network.weight)
    network.count += 3
    average.update(network, 1)  # the decay warms up: 2 / 11
    assert average.weights["weight"].item() == pytest.approx(9 / 11)
    assert average.weights["count"].item() == 3
    average.update(network, 100)  # then 1/4
    assert average.weights["weight"].item() == pytest.approx(1 - (2 / 11) / 4)
    assert network.weight.item() == 1


class TestCheckpoints:
    TENSORS = {"network": {"a.b": torch.arange(6.0).view(2, 3)}, "best": {"a.b": torch.zeros(1)}}  # noqa: RUF012

    def test_round_trip(self, tmp_path: Path) -> None:
        path = tmp_path / "c.safetensors"
        save_checkpoint(path, {**self.TENSORS, "auxiliary": {}}, {"step": 3, "resume_key": "k", "scores": {"val": 0.1}})
        loaded = load_checkpoint(path, "k", 3)
        assert loaded is not None
        groups, state = loaded
        assert state == {"step": 3, "resume_key": "k", "scores": {"val": 0.1}}
        assert torch.equal(groups["network"]["a.b"], self.TENSORS["network"]["a.b"])
        assert torch.equal(groups["best"]["a.b"], self.TENSORS["best"]["a.b"])
        assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]

    def test_missing_foreign_or_damaged(self, tmp_path: Path) -> None:
        path = tmp_path / "c.safetensors"
        assert load_checkpoint(path, "k", 3) is None
        save_checkpoint(path, self.TENSORS, {"step": 3, "resume_key": "k"})
        assert load_checkpoint(path, "another", 3) is None
        assert load_checkpoint(path, "k", 2) is None  # the training became shorter
        content = path.read_bytes()
        for torn in (b"", content[:20], content[:-4], b"x" * 100):
            path.write_bytes(torn)
            assert load_checkpoint(path, "k", 3) is None

    def test_a_kill_in_the_middle_of_a_write_leaves_the_last_good_one(self, tmp_path: Path) -> None:
        path = tmp_path / "c.safetensors"
        save_checkpoint(path, self.TENSORS, {"step": 3, "resume_key": "k"})
        code = """
import os, signal, sys, torch
from pathlib import Path
from mskd.training import checkpoints

def torn(tensors, part, metadata):
    part.write_bytes(b"x" * 100)
    os.kill(os.getpid(), signal.SIGKILL)

checkpoints.save_file = torn
checkpoints.save_checkpoint(Path(sys.argv[1]), {"network": {"a": torch.ones(1)}}, {"step": 4, "resume_key": "k"})
"""
        done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
        assert done.returncode == -signal.SIGKILL
        assert len(list(tmp_path.iterdir())) == 2  # the good one, and what was begun
        remove_unfinished(path)
        assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]
        loaded = load_checkpoint(path, "k", 10)
        assert loaded is not None
        assert loaded[1]["step"] == 3

    @pytest.mark.parametrize("kind", ["sgd", "adamw"])
    def test_an_optimiser_goes_on_as_if_nothing_happened(self, kind: str) -> None:
        settings = Training(optimiser=kind, learning_rate=0.1)
        one, two = (nn.Parameter(torch.tensor([1.0, -2.0])) for _ in "ab")
        first = build_optimiser([one], settings)

        def step(optimiser: torch.optim.Optimizer, weight: nn.Parameter, slope: float) -> None:
            weight.grad = torch.tensor([slope, 2 * slope])
            optimiser.step()

        for slope in (1.0, -3.0):
            step(first, one, slope)
        second = build_optimiser([two], settings)
        two.data.copy_(one.data)
        restore_optimiser(second, {k: v.clone() for k, v in optimiser_tensors(first).items()})
        for slope in (0.5, 2.0):
            step(first, one, slope)
            step(second, two, slope)
        assert torch.equal(one, two)


class TestValidation:
    WINDOWS = Windows((8, 8, 8), 0.5, (4, 4, 4))

    class Threshold(nn.Module):
        """Says organ 1 above 0 HU."""

        def forward(self, image: Tensor) -> Tensor:
            return torch.cat((torch.zeros_like(image), image, torch.full_like(image, -1)), 1)

    def dice(self, cases: list[Any], **channels: tuple[int, int]) -> dict[str, float]:
        device = torch.device("cpu")
        return validation_dice(self.Threshold(), cases, self.WINDOWS, channels=channels, hu_clip=HU_CLIP, device=device)

    def case(self, folder: Path, name: str, labels: np.ndarray[Any, Any], labelled: list[int]) -> Any:
        image = np.full((12, 10, 6), -50, np.int16)
        image[:6] = 50
        return make_case(folder, image, labels, labelled=labelled, name=name)

    def test_by_hand(self, tmp_path: Path) -> None:
        labels = np.zeros((12, 10, 6), np.uint8)
        labels[3:6] = 1  # half of what is predicted
        one = self.case(tmp_path, "one", labels, [1])
        labels = labels.copy()
        labels[:6] = 1
        two = self.case(tmp_path, "two", labels, [1, 2])
        found = self.dice([one, two], liver=(1, 1), spleen=(2, 2))
        # 2 · 3 / (6 + 3) and 1; organ 2 is in no reference
        assert found == pytest.approx({"val_dice": (2 / 3 + 1) / 2, "val_dice_liver": (2 / 3 + 1) / 2})

    def test_the_mean_is_over_organs(self, tmp_path: Path) -> None:
        labels = np.zeros((12, 10, 6), np.uint8)
        labels[:6], labels[8] = 1, 2
        found = self.dice([self.case(tmp_path, "a", labels, [1, 2])], liver=(1, 1), spleen=(2, 2))
        assert found == pytest.approx({"val_dice": 0.5, "val_dice_liver": 1.0, "val_dice_spleen": 0.0})

    def test_channels_need_not_be_study_values(self, tmp_path: Path) -> None:
        labels = np.zeros((12, 10, 6), np.uint8)
        labels[:6] = 7
        assert self.dice([self.case(tmp_path, "a", labels, [7])], liver=(1, 7))["val_dice"] == 1

    def test_organs_that_are_not_labelled_or_not_there_do_not_count(self, tmp_path: Path) -> None:
        labels = np.zeros((12, 10, 6), np.uint8)
        assert self.dice([self.case(tmp_path, "a", labels, [1])], liver=(1, 1)) == {}
        labels[:2] = 1
        assert self.dice([self.case(tmp_path, "b", labels, [2])], liver=(1, 1)) == {}
        assert self.dice([], liver=(1, 1)) == {}

    def test_ignored_voxels_do_not_count(self, tmp_path: Path) -> None:
        labels = np.full((12, 10, 6), 255, np.uint8)
        labels[2:4], labels[8:] = 1, 0
        assert self.dice([self.case(tmp_path, "a", labels, [1])], liver=(1, 1))["val_dice"] == 1
