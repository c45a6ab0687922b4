"""A MONAI bundle, made and trained by MONAI."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle.config_parser import ConfigParser
from monai.data.dataset import Dataset
from monai.losses.dice import DiceCELoss
from monai.transforms.compose import Compose
from monai.transforms.croppad.dictionary import RandCropByPosNegLabeld
from monai.transforms.inverse import InvertibleTransform
from monai.transforms.post.dictionary import Invertd

from mskd.phantom.layouts import PhantomCase

# of plugins that MONAI looks for and does not need
QUIET = pytest.mark.filterwarnings("ignore::UserWarning:monai", "ignore::DeprecationWarning", "ignore::FutureWarning")
WINDOW, SPACING_MM = (32, 32, 32), (8.0, 8.0, 9.0)
NETWORK = {
    "_target_": "BasicUNet",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 2,
    "features": [8, 8, 16, 16, 16, 8],
}


def _preparing(keys: list[str]) -> list[dict[str, Any]]:
    modes = ["bilinear", "nearest"][: len(keys)]
    return [
        {"_target_": "LoadImaged", "keys": keys, "reader": "NibabelReader"},
        {"_target_": "EnsureChannelFirstd", "keys": keys},
        {"_target_": "Orientationd", "keys": keys, "axcodes": "RAS"},
        {"_target_": "Spacingd", "keys": keys, "pixdim": list(SPACING_MM), "mode": modes},
        {
            "_target_": "ScaleIntensityRanged",
            "keys": "image",
            "a_min": -200,
            "a_max": 300,
            "b_min": -1.0,
            "b_max": 1.0,
            "clip": True,
        },
    ]


INFERENCE: dict[str, Any] = {
    "imports": ["$import glob"],  # code, as in the bundles of the model zoo
    "bundle_root": ".",
    "device": "$torch.device('cpu')",
    "network_def": NETWORK,
    "network": "$@network_def.to(@device)",
    "preprocessing": {"_target_": "Compose", "transforms": _preparing(["image"])},
    "inferer": {
        "_target_": "SlidingWindowInferer",
        "roi_size": list(WINDOW),
        "sw_batch_size": 2,
        "overlap": 0.5,
        "mode": "gaussian",
    },
}


def make(folder: Path, cases: list[PhantomCase], organ: str, steps: int) -> Path:
    """Train a network for some steps and write its bundle; return its folder."""
    parser = ConfigParser(
        {**INFERENCE, "training": {"_target_": "Compose", "transforms": _preparing(["image", "label"])}}
    )
    torch.manual_seed(0)
    network = parser.get_parsed_content("network_def")
    _train(network, parser.get_parsed_content("training"), cases, steps)
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    torch.save(network.state_dict(), folder / "models/model.pt")
    (folder / "configs/inference.json").write_text(json.dumps(INFERENCE, indent=2))
    outputs = {"pred": {"type": "image", "num_channels": 2, "channel_def": {"0": "background", "1": organ}}}
    metadata = {"version": "0.1.0", "network_data_format": {"outputs": outputs}}
    (folder / "configs/metadata.json").write_text(json.dumps(metadata, indent=2))
    return folder


def own_logits(folder: Path, scan: Path) -> torch.Tensor:
    """Return what the bundle's own parts say of a scan, brought back to its grid by MONAI: (C, i, j, k)."""
    parser = ConfigParser()
    parser.read_config(folder / "configs/inference.json")
    preprocessing = parser.get_parsed_content("preprocessing")
    assert isinstance(preprocessing, InvertibleTransform)
    network = parser.get_parsed_content("network")
    network.load_state_dict(torch.load(folder / "models/model.pt", weights_only=True))
    network.eval()
    case = preprocessing({"image": str(scan)})
    with torch.no_grad():
        case["pred"] = parser.get_parsed_content("inferer")(case["image"][None], network)[0]
    back = Invertd(keys="pred", transform=preprocessing, orig_keys="image", nearest_interp=False, to_tensor=True)
    return torch.as_tensor(back(case)["pred"])


def _train(network: torch.nn.Module, preparing: Compose, cases: list[PhantomCase], steps: int) -> None:
    files = [{"image": str(case.image), "label": str(case.label)} for case in cases]
    prepared = list(Dataset(files, preparing))
    crop = RandCropByPosNegLabeld(["image", "label"], label_key="label", spatial_size=WINDOW, num_samples=2)
    crop.set_random_state(0)
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    loss_of = DiceCELoss(softmax=True, to_onehot_y=True)
    for step in range(steps):
        patches = crop(prepared[step % len(prepared)])
        image, label = (torch.stack([torch.as_tensor(p[key]) for p in patches]) for key in ("image", "label"))
        loss = loss_of(network(image), label)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
