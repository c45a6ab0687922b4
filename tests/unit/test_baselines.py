"""Baselines as a study uses them: trained, interrupted, saved, loaded, applied, accounted for."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_cases import HU_CLIP, make_case
from test_methods import build, context

from mskd.config.loading import parse_study
from mskd.config.model import Preprocessing
from mskd.config.study import Study
from mskd.config.training import Training
from mskd.cost import cost_table
from mskd.geometry import Geometry
from mskd.inference import Windows
from mskd.layout import Layout
from mskd.leaves import student_leaves
from mskd.methods.base import Built
from mskd.methods.individual import assemble
from mskd.models import load_model, save_model
from mskd.networks.unet import UNet
from mskd.prediction import predict_prepared
from mskd.stages.train_student import _context
from mskd.training.journal import Journal
from mskd.training.loop import InterruptedTraining, Trainee, train
from mskd.training.patches import Batch, PatchDataset

BASELINES = ["partial", "marginal_exclusion", "multi_head", "dodnet", "conditional_distillation", "co_training"]
LABELS = {"liver": 1, "spleen": 2}
WINDOW = (8, 8, 8)


def study(root: Path, **changes: Any) -> Study:
    datasets = {organ: {"path": "/data", "label_map": {1: organ}} for organ in LABELS}
    rows: dict[str, Any] = {kind: {} for kind in ("individual", *BASELINES)}
    made = {"study": "s", "organs": list(LABELS), "datasets": datasets, "methods": rows, "results": str(root)}
    return parse_study({**made, "cache": {"temperatures": [1, 2]}, **changes}, source="test")


def save(folder: Path, network: Any) -> None:
    preprocessing = Preprocessing(spacing_mm=(1.0, 1.0, 1.0), hu_clip=HU_CLIP)
    shape: dict[str, Any] = {"window": WINDOW, "overlap": 0.5, "stride": (2, 2, 2)}
    save_model(folder, network, labels=LABELS, preprocessing=preprocessing, key="k", provenance={}, **shape)


@pytest.mark.parametrize("kind", BASELINES)
def test_saved_loaded_and_applied_to_a_volume(kind: str, tmp_path: Path) -> None:
    network = build(kind, context()).network.eval()
    save(tmp_path, network)
    model = load_model(tmp_path)
    assert type(model.network) is type(network)
    rng = np.random.default_rng(0)
    image = rng.integers(-100, 101, (11, 9, 10)).astype(np.int16)
    windows = torch.rand((2, 1, *WINDOW)) * 2 - 1
    assert torch.equal(model.network(windows), network(windows))
    geometry = Geometry.of_raw(image.shape, np.eye(4), (1.0, 1.0, 1.0))
    body = np.ones(image.shape, bool)
    place = Windows(WINDOW, 0.5, (2, 2, 2))
    labels, expected = (
        predict_prepared(used, image, body, geometry, place).labels for used in (model, replace(model, network=network))
    )
    assert labels.shape == image.shape
    assert set(np.unique(labels)) <= {0, 1, 2}
    assert np.array_equal(labels, expected)


def test_what_they_cost_is_what_is_stored(tmp_path: Path) -> None:
    made = study(tmp_path)
    for method in made.methods:
        if method == "individual":
            network: Any = assemble(context(), {name: UNet(context().network, 2) for name in ("a", "b")})
        else:
            network = build(method, context()).network
        save(Layout(made.root).student(method, "fold0-seed0"), network)
    table = cost_table(made).set_index("method")
    plain = sum(p.numel() for p in UNet(context().network, 3).parameters())
    assert table.forward_passes.to_dict() == {"individual": 2, **dict.fromkeys(BASELINES, 1)}
    for kind in ("partial", "marginal_exclusion", "conditional_distillation", "co_training"):
        assert table.parameters[kind] == plain
    # a channel more, 2 features and a bias; 8 channels instead of 3 and a controller of 3 + 2 inputs, 162 outputs
    assert table.parameters["multi_head"] == plain + 3
    assert table.parameters["dodnet"] == plain + 5 * 3 + 162 * 6


def test_heads_follow_what_the_training_datasets_label(tmp_path: Path) -> None:
    changed = study(
        tmp_path,
        organs=["liver", "spleen", "pancreas"],
        datasets={
            "one": {"path": "/data", "label_map": {1: "spleen", 2: "liver"}},
            "two": {"path": "/data", "label_map": {1: "pancreas"}},
            "again": {"path": "/data", "label_map": {1: "liver", 2: "spleen"}},
            "tested": {"path": "/data", "label_map": {1: "liver"}, "role": "external"},
        },
    )
    assert changed.labelled_sets == [[0, 1], [2]]
    assert _context(changed, "multi_head", {}).organ_sets == [[0, 1], [2]]
    for kind in ("multi_head", "dodnet"):
        assert student_leaves(changed, kind)["organ_sets"] == [[0, 1], [2]]
    assert "organ_sets" not in student_leaves(changed, "partial")


class Told:
    """A short training whose teachers say what the image's intensity says."""

    def __init__(self, folder: Path, kind: str) -> None:
        rng = np.random.default_rng(0)
        image = rng.integers(-100, 101, (12, 12, 12)).astype(np.int16)
        settings = {"steps": 4, "patch_size": WINDOW, "log_every": 1, "validate_every": 4, "checkpoint_every": 2}
        self.training = Training(**settings)
        self.folder = folder
        self.built: Built = build(kind, context(training=self.training))
        self.stop_at = -1
        cases = [
            make_case(folder, image, (image > 40).astype(np.uint8) * value, labelled=[value], name=f"case{value}")
            for value in (1, 2)
        ]
        spacing = (1.0, 1.0, 1.0)
        self.patches = PatchDataset(
            cases, self.training, n_organs=2, spacing_mm=spacing, hu_clip=HU_CLIP, seed=5, needs=self.built.needs
        )
        self.patches.needs = replace(self.built.needs, logits=False)

    def loss(self, batch: Batch, step: int) -> dict[str, torch.Tensor]:
        if step == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        told = torch.cat((4 * batch.image, -4 * batch.image), 1)
        return self.built.loss(replace(batch, margins=told), step)

    def train(self) -> None:
        trainee = Trainee("t", self.built.network, self.built.auxiliary, self.loss, dict)
        train(trainee, self.patches, self.training, folder=self.folder, device=torch.device("cpu"), resume_key="k")


@pytest.mark.parametrize("kind", ["co_training", "dodnet"])
def test_resuming_changes_nothing(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Averages, second network and controller come back from the checkpoint."""
    monkeypatch.setattr(Journal, "plot", lambda self, title: None)
    straight = Told(tmp_path / "a", kind)
    straight.train()
    stopped = Told(tmp_path / "b", kind)
    stopped.stop_at = 1
    with pytest.raises(InterruptedTraining, match="after step 2"):
        stopped.train()
    again = Told(tmp_path / "b", kind)
    for parameter in again.built.auxiliary.parameters():
        torch.nn.init.zeros_(parameter)
    again.train()
    for one, two in ((straight.built.network, again.built.network), (straight.built.auxiliary, again.built.auxiliary)):
        first, second = one.state_dict(), two.state_dict()
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)
