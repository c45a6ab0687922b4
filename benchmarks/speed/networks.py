"""The network that every side has: ours as mskd builds it, the peers' as they build it, with the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from benchmarks.speed.data import HU_CLIP, LABELS, ORGANS, SCAN, read
from benchmarks.speed.options import Options, Triple
from mskd.config.model import Network, Preprocessing
from mskd.networks.unet import UNet
from mskd.preparation import prepare_arrays
from mskd.prepared import PreparedArrays, normalise

CHANNELS = 1 + len(ORGANS)
WINDOWS_AT_A_TIME = 2  # on both sides; the default of `inference.batch_size`


def study_grid(options: Options) -> Triple:
    """Return the voxels of the prepared scan along each axis.

    Windows overlap by half; a size of window + k × window / 2 has no window that is pushed back at the end.
    """
    return (64, 64, 48) if options.quick else (160, 160, 128)


def prepared(folder: Path, options: Options, grid: Triple | None = None) -> PreparedArrays:
    """Return a folder's scan, uncropped, on a grid that lets all libraries place their windows alike, or on another."""
    image, affine = read(folder, SCAN)
    extent_mm = np.asarray(image.shape) * np.linalg.norm(affine[:3, :3], axis=0)
    spacing = tuple(float(mm / n) for mm, n in zip(extent_mm, grid or study_grid(options), strict=True))
    settings = Preprocessing(spacing_mm=(spacing[0], spacing[1], spacing[2]), hu_clip=HU_CLIP, crop_to_body=False)
    return prepare_arrays(image, affine, read(folder, LABELS)[0], None, settings)


def network_settings(options: Options) -> Network:
    """Return the keys of our network."""
    return Network(features=options.features)


def our_network(options: Options, weights: Path | None = None, *, channels: int = CHANNELS) -> UNet:
    """Return our network, with stored weights or seeded ones."""
    torch.manual_seed(0)
    network = UNet(network_settings(options), channels)
    if weights is not None:
        network.load_state_dict(load_file(weights))
    return network


def peer_network(options: Options, weights: Path | None = None) -> nn.Module:
    """Return the same network as nnU-Net v2 builds it, with the weights of ours."""
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    network: nn.Module = PlainConvUNet(**architecture(options), input_channels=1, num_classes=CHANNELS)
    ours = our_network(options, weights).state_dict()
    lacking, unknown = network.load_state_dict(ours, strict=False)
    # what is left are second names of the same tensors
    known = {id(p) for name, p in network.named_parameters(remove_duplicate=False) if name in ours}
    named = dict(network.named_parameters(remove_duplicate=False))
    if unknown or any(id(named[name]) not in known for name in lacking):
        raise ValueError("the two networks are not the same")
    return network


def architecture(options: Options) -> dict[str, Any]:
    """Return the arguments of PlainConvUNet; deep supervision is off on both sides."""
    levels = len(options.features)
    return {
        "n_stages": levels,
        "features_per_stage": options.features,
        "conv_op": nn.Conv3d,
        "kernel_sizes": [[3, 3, 3]] * levels,
        "strides": [[1, 1, 1]] + [[2, 2, 2]] * (levels - 1),
        "n_conv_per_stage": [2] * levels,
        "n_conv_per_stage_decoder": [2] * (levels - 1),
        "conv_bias": True,
        "norm_op": nn.InstanceNorm3d,
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
        "deep_supervision": False,
    }


def train_weights(path: Path, arrays: PreparedArrays, options: Options, *, seed: int = 0) -> None:
    """Train our network a little, so that it has something to say of organs and calls air background."""
    if path.is_file():
        return
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    network = UNet(network_settings(options), CHANNELS)
    optimiser = torch.optim.AdamW(network.parameters(), 3e-3)
    size = 32
    for step in range(80 if options.quick else 300):
        starts = [_place(rng, arrays, size, organ=(step + i) % 2 == 0) for i in range(2)]
        boxes = [tuple(slice(s, s + size) for s in start) for start in starts]
        image = torch.stack([torch.from_numpy(normalise(arrays.image[box], HU_CLIP))[None] for box in boxes])
        labels = torch.stack([torch.from_numpy(arrays.labels[box]).long() for box in boxes])
        loss = nn.functional.cross_entropy(network(image), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, path)


def _place(rng: np.random.Generator, arrays: PreparedArrays, size: int, *, organ: bool) -> list[int]:
    voxel = [int(rng.integers(n)) for n in arrays.image.shape]
    if organ and len(arrays.foreground):
        voxel = [int(n) for n in arrays.foreground[int(rng.integers(len(arrays.foreground))), 1:]]
    return [min(max(0, v - size // 2), n - size) for v, n in zip(voxel, arrays.image.shape, strict=True)]
