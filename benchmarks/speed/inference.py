"""Sliding-window inference of one network over a prepared scan, and the labels back on the raw grid."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.speed import nnunet
from benchmarks.speed.data import HU_CLIP, write_scan
from benchmarks.speed.networks import (
    WINDOWS_AT_A_TIME,
    network_settings,
    our_network,
    peer_network,
    prepared,
    train_weights,
)
from benchmarks.speed.options import Options
from benchmarks.speed.pairing import Answer, Check, Pair
from benchmarks.speed.sides import Work
from mskd.prepared import normalise

WEIGHTS = "network.safetensors"


def pairs(options: Options) -> list[Pair]:
    """Return the rows."""
    grid = "64×64×48, window 32³" if options.quick else "160×160×128, window 64³"
    raw = "128×128×64" if options.quick else "512×512×200"
    work = f"sliding window over a scan ({grid}, overlap ½, features {options.features}), labels back on {raw}"
    inferer, predictor = "MONAI's SlidingWindowInferer", "nnU-Net v2's predictor without mirroring"
    note = "same windows on every side; the prepared scan is read before the time starts; "
    of_monai = note + "the windows' weights are ours through `roi_weight_map` (with its own, 99.88 % agree: its tail)"
    of_nnunet = note + "compared with sums in float32 and our windows' weights, timed with its own (float16)"
    return [
        Pair("inference_monai", work, "ours", "monai", inferer, ("monai",), 0.6, _check, of_monai),
        Pair("inference_nnunet", work, "ours", "nnunet", predictor, ("nnunetv2",), 0.6, _check, of_nnunet),
    ]


def set_up(folder: Path, options: Options) -> None:
    """Write the scan and train the network a little."""
    write_scan(folder, options)
    train_weights(folder / WEIGHTS, prepared(folder, options), options)


def _ours(folder: Path, options: Options) -> Work:
    arrays = prepared(folder, options)
    return predicting(arrays.image, arrays.body, arrays.geometry, folder / WEIGHTS, options)


def predicting(image: Any, body: Any, geometry: Any, weights: Path, options: Options) -> Work:
    """Return work that predicts a prepared scan (image in HU and body, both (X, Y, Z)) on the grid of the raw one."""
    from mskd.inference import Windows
    from mskd.models import Model
    from mskd.prediction import Prediction, predict_prepared

    network = our_network(options, weights).eval().to(options.device)
    edge = (options.window,) * 3
    stride = network_settings(options).coarsest_stride
    from mskd.config.model import Preprocessing

    settings = Preprocessing(spacing_mm=geometry.spacing_mm, hu_clip=HU_CLIP, crop_to_body=False)
    model = Model(network, {}, settings, edge, 0.5, stride, (), {})
    windows = Windows(edge, 0.5, stride, WINDOWS_AT_A_TIME)

    def run() -> Prediction:
        return predict_prepared(model, image, body, geometry, windows, device=options.device)

    return Work(run, lambda said: {"labels": geometry.to_canonical(said.labels)})


@torch.inference_mode()
def _monai_run(inferer: Any, network: Any, image: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    scores = inferer(image, predictor=network)
    return torch.nn.functional.interpolate(scores, shape, mode="trilinear").argmax(1)[0].to(torch.uint8)


def _monai(folder: Path, options: Options) -> Work:
    from monai.inferers import sliding_window_inference

    from mskd.inference import _gaussian

    arrays = prepared(folder, options)
    network = peer_network(options, folder / WEIGHTS).eval().to(options.device)
    edge = (options.window,) * 3
    # MONAI lifts the Gaussian's tail to 1e-3, which turns one voxel in a thousand; with ours both blend alike
    inferer = partial(
        sliding_window_inference,
        roi_size=edge,
        sw_batch_size=WINDOWS_AT_A_TIME,
        overlap=0.5,
        roi_weight_map=_gaussian(edge),
    )
    shape = arrays.geometry.canonical_shape

    def run() -> Any:
        image = torch.from_numpy(normalise(arrays.image, HU_CLIP))[None, None].to(options.device)
        return _monai_run(inferer, network, image, shape).cpu().numpy()

    return Work(run, lambda labels: {"labels": labels})


def _nnunet(folder: Path, options: Options) -> Work:
    from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    arrays = prepared(folder, options)
    network = peer_network(options, folder / WEIGHTS).eval()
    plans, configuration = nnunet.managers(options, arrays.geometry.spacing_mm, arrays.image.shape)
    predictor = nnUNetPredictor(
        tile_step_size=0.5, use_mirroring=False, device=torch.device(options.device), allow_tqdm=False
    )
    # nnU-Net's axes are (z, y, x): the same network has its kernels turned likewise
    turned = {name: w.permute(0, 1, 4, 3, 2) if w.ndim == 5 else w for name, w in network.state_dict().items()}
    state = [{name: weight.contiguous() for name, weight in turned.items()}]
    predictor.manual_initialization(network, plans, configuration, state, nnunet.dataset_json(), "nnUNetTrainer", None)
    raw, edge = arrays.geometry.canonical_shape[::-1], (options.window,) * 3
    properties = {
        "spacing": list(arrays.geometry.raw_spacing_mm[::-1]),
        "shape_before_cropping": raw,
        "shape_after_cropping_and_before_resampling": raw,
        "bbox_used_for_cropping": [[0, n] for n in raw],
    }

    compared = [False]

    def run() -> Any:
        with nullcontext() if compared[0] else _exact(edge):
            compared[0] = True
            return predict()

    def predict() -> Any:
        image = torch.from_numpy(np.ascontiguousarray(normalise(arrays.image, HU_CLIP).transpose(2, 1, 0)))[None]
        scores = predictor.predict_logits_from_preprocessed_data(image)
        return convert_predicted_logits_to_segmentation_with_correct_shape(
            scores, plans, configuration, predictor.label_manager, properties, num_threads_torch=torch.get_num_threads()
        )

    return Work(run, lambda labels: {"labels": np.asarray(labels).transpose(2, 1, 0)})


@contextmanager
def _exact(edge: tuple[int, int, int]) -> Iterator[None]:
    """Let nnU-Net's predictor sum in float32 and weigh windows as we do: what is left to differ is an error."""
    from nnunetv2.inference import predict_from_raw_data as own

    from mskd.inference import _gaussian

    half, gaussian = torch.half, own.compute_gaussian
    torch.half = torch.float32
    own.compute_gaussian = lambda *_, **__: _gaussian(edge)
    try:
        yield
    finally:
        torch.half, own.compute_gaussian = half, gaussian


def _check(ours: Answer, theirs: Answer) -> list[Check]:
    first, second = ours["labels"], theirs["labels"]
    organs = 100 * float(np.count_nonzero(first)) / first.size
    same = (first == second)[(first > 0) | (second > 0)]
    return [
        Check("voxels of the same class (%)", 100 * float(np.mean(first == second)), 99.99, ">="),
        Check("the same of those that either side calls an organ (%)", 100 * float(np.mean(same)), 99, ">="),
        Check("voxels that are an organ (%), so that there is something to compare", organs, 0.1, ">="),
    ]


SIDES = {"ours": _ours, "monai": _monai, "nnunet": _nnunet}
