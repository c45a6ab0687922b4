"""Trained teachers: what they say of a case, and when they refuse to speak."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_cases import make_case

from mskd.cases import Case
from mskd.config.model import Network, Preprocessing
from mskd.config.study import Study
from mskd.errors import MissingArtefactError, MskdError
from mskd.layout import Layout
from mskd.margins import margins
from mskd.models import save_model
from mskd.networks.unet import UNet
from mskd.prepared import normalise
from mskd.teachers.registry import load_teacher

NETWORK = {"features": [2, 3, 4], "convolutions_per_level": 1}
CPU = torch.device("cpu")
RAW = Case("d", "case", "b00", Path("unread.nii.gz"), (), None, "train")  # a trained teacher reads prepared arrays
LABELS = {"spleen": 1, "liver": 2}  # the study's order, not the alphabet's


def study(folder: Path, **changes: Any) -> Study:
    keys = {
        "results": folder,
        "organs": ["spleen", "liver"],
        "datasets": {"d": {"path": str(folder), "label_map": {1: "liver", 2: "spleen"}}},
        "network": NETWORK,
        "training": {"patch_size": [8, 8, 8]},
        "preprocessing": {"hu_clip": [-100.0, 100.0]},
        "cache": {"taps": ["encoder1", "decoder0"]},
    }
    return Study.model_validate({**keys, **changes})


def save(made: Study) -> UNet:
    torch.manual_seed(0)
    network = UNet(Network.model_validate(NETWORK), 3).eval()
    save_model(
        Layout(made.root).teacher("d", "fold0-seed0"),
        network,
        labels=LABELS,
        preprocessing=made.preprocessing,
        window=(8, 8, 8),
        overlap=0.5,
        stride=(4, 4, 4),
        key="k",
        provenance={},
    )
    return network


def test_says_the_margins_and_features_of_its_network(tmp_path: Path) -> None:
    made = study(tmp_path)
    network = save(made)
    image = np.random.default_rng(0).integers(-200, 200, (8, 8, 7)).astype(np.int16)
    case = make_case(tmp_path, image, np.zeros(image.shape, np.uint8), labelled=[1]).prepared
    teacher = load_teacher(made, "d", "fold0-seed0", CPU)
    found = teacher.targets(case, RAW)
    whole = np.full((8, 8, 8), -1, np.float32)  # one window, filled up with air
    whole[..., :7] = normalise(image, (-100, 100))
    with torch.no_grad():
        scores, features = network.run(torch.from_numpy(whole)[None, None], ["encoder1", "decoder0"])
    np.testing.assert_allclose(found.margins, margins(scores[0])[0, ..., :7], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.features["encoder1"], features["encoder1"][0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.features["decoder0"], features["decoder0"][0, ..., :7], rtol=1e-4, atol=1e-5)
    assert found.strides == {"encoder1": (2, 2, 2), "decoder0": (1, 1, 1)}


def test_names_its_organs_in_the_order_of_its_margins(tmp_path: Path) -> None:
    made = study(tmp_path)
    save(made)
    teacher = load_teacher(made, "d", "fold0-seed0", CPU)
    assert teacher.organs == ["spleen", "liver"] == made.teacher_organs("d")
    assert len(teacher.digest) == 64


def test_is_frozen(tmp_path: Path) -> None:
    made = study(tmp_path)
    save(made)
    teacher: Any = load_teacher(made, "d", "fold0-seed0", CPU)
    assert not teacher.network.training


def test_refuses_another_preprocessing(tmp_path: Path) -> None:
    save(study(tmp_path))
    other = study(tmp_path, preprocessing=Preprocessing(hu_clip=(-50.0, 100.0)).model_dump())
    with pytest.raises(MskdError, match=r"another preprocessing(.|\n)*way out"):
        load_teacher(other, "d", "fold0-seed0", CPU)


def test_one_that_is_not_trained_yet(tmp_path: Path) -> None:
    with pytest.raises(MissingArtefactError, match="way out"):
        load_teacher(study(tmp_path), "d", "fold0-seed0", CPU)
