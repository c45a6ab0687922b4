"""Several teachers over one prepared scan: into our cache, or as compressed NIfTI files of logits."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

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

TEACHERS = 3
STORE = "cached_scan.zarr"
# Of probabilities. In windows that are mostly air, instance norms amplify rounding, and the two libraries' norms differ
# by some thousandths. With the same network on both sides the largest difference of scores was 2e-6.
CLOSE = 1e-2


def pairs(options: Options) -> list[Pair]:
    """Return the row."""
    work = f"{TEACHERS} teachers over one scan, their logits stored (preset balanced, window {options.window}³)"
    against = f"{TEACHERS} runs of MONAI's inferer, logits as .nii.gz"
    note = "our cache holds margins alone, without features, as the other side has none"
    half = f"{note}; ours computes in bfloat16 (`inference.precision`), the other side in float32, as its users get it"
    return [
        Pair("cache_monai", work, "ours", "monai", against, ("monai",), 0.4, _check, note),
        Pair(
            "cache_monai_bfloat16",
            f"{work}, bfloat16",
            "ours_bfloat16",
            "monai",
            against,
            ("monai",),
            0.4,
            _check,
            half,
        ),
    ]


def set_up(folder: Path, options: Options) -> None:
    """Store the prepared scan and train the teachers a little."""
    from mskd.prepared import write_prepared

    write_scan(folder, options)
    arrays = prepared(folder, options)
    write_prepared(folder / STORE, arrays, key="speed", attributes={})
    for number in range(TEACHERS):
        train_weights(weights_file(folder, number), arrays, options, seed=number)


def weights_file(folder: Path, number: int) -> Path:
    """Return where a teacher's weights lie."""
    return folder / f"teacher{number}.safetensors"


def storing(
    folder: Path,
    options: Options,
    teachers: int = TEACHERS,
    precision: Literal["float32", "bfloat16"] = "float32",
) -> Work:
    """Return work that asks so many teachers and stores what they say, as the stage does it."""
    from mskd.cache.encoding import encode_targets
    from mskd.cache.settings import cache_settings
    from mskd.cache.store import TargetStore, write_store
    from mskd.config.cache import Cache
    from mskd.inference import Windows, sliding_window
    from mskd.margins import margins
    from mskd.prepared import PreparedCase, normalise
    from mskd.teachers.base import TeacherTargets

    networks = [our_network(options, weights_file(folder, n)).eval().to(options.device) for n in range(teachers)]
    stride = network_settings(options).coarsest_stride
    exact = Windows((options.window,) * 3, 0.5, stride, WINDOWS_AT_A_TIME)
    windows = replace(exact, precision=precision)
    settings = cache_settings(Cache(), logits_alone=True)

    def store(number: int, said: TeacherTargets, case: PreparedCase, body: Any) -> None:
        spacing = case.geometry.spacing_mm
        arrays = encode_targets(said, settings, truth=None, body=body, spacing_mm=spacing, projections={}, seed="speed")
        place, affine = folder / f"cached{number}.zarr", case.geometry.affine
        write_store(place, arrays, key="speed", level=settings.level, affine=affine, attributes={})

    def said_by(network: Any, image: Any, body: Any, windows: Windows = windows) -> TeacherTargets:
        found = sliding_window(lambda x: (network(x), {}), image, windows, body=body, device=options.device)
        return TeacherTargets(margins(torch.from_numpy(found.scores)[None])[0].numpy(), {}, {})

    def read() -> tuple[PreparedCase, Any, Any]:
        case = PreparedCase(folder / STORE, "scan")
        return case, normalise(case.read("image"), HU_CLIP), case.read("body").astype(bool)

    def run() -> None:
        case, image, body = read()
        # as the stage does it: one is written while the next is computed
        with ThreadPoolExecutor(1) as writer:
            writing = [
                writer.submit(store, number, said_by(network, image, body), case, body)
                for number, network in enumerate(networks)
            ]
            for written in writing:
                written.result()

    def answer(_: None) -> Answer:
        _case, image, body = read()
        stores = [TargetStore(folder / f"cached{number}.zarr", "scan") for number in range(teachers)]
        said = [_sigmoid(said_by(network, image, body).margins) for network in networks]  # before they are coded
        bounds = [stored.attributes["arrays"]["logits"]["probability_bound"]["1.0"] for stored in stores]
        errors = [
            float(np.abs(_sigmoid(stored.read("logits")) - p)[:, body].max()) / bound
            for stored, p, bound in zip(stores, said, bounds, strict=True)
        ]
        rounded = [
            float(np.abs(_sigmoid(said_by(network, image, body, exact).margins) - p)[:, body].max()) / bound
            for network, p, bound in zip(networks, said, bounds, strict=True)
        ]
        return {"probabilities": said, "error_of_bound": max(errors), "rounding_of_bound": max(rounded), "body": body}

    return Work(run, answer)


def _monai(folder: Path, options: Options) -> Work:
    import nibabel as nib
    from monai.inferers import sliding_window_inference

    from mskd.inference import _gaussian
    from mskd.margins import margins
    from mskd.prepared import PreparedCase, normalise

    networks = [peer_network(options, weights_file(folder, n)).eval().to(options.device) for n in range(TEACHERS)]
    edge = (options.window,) * 3
    inferer = partial(
        sliding_window_inference,
        roi_size=edge,
        sw_batch_size=WINDOWS_AT_A_TIME,
        overlap=0.5,
        roi_weight_map=_gaussian(edge),
    )

    @torch.inference_mode()
    def run() -> None:
        for number, network in enumerate(networks):
            case = PreparedCase(folder / STORE, "scan")
            image = torch.from_numpy(normalise(case.read("image"), HU_CLIP))[None, None].to(options.device)
            scores = inferer(image, predictor=network)[0].permute(1, 2, 3, 0).cpu().numpy()
            nib.save(nib.Nifti1Image(scores, case.geometry.affine), folder / f"logits{number}.nii.gz")

    def answer(_: None) -> Answer:
        found = []
        for number in range(TEACHERS):
            file: Any = nib.load(folder / f"logits{number}.nii.gz")
            scores = torch.from_numpy(np.asarray(file.dataobj, np.float32)).permute(3, 0, 1, 2)[None]
            found.append(_sigmoid(margins(scores)[0].numpy()))
        return {"probabilities": found}

    return Work(run, answer)


def _sigmoid(values: Any) -> Any:
    return torch.sigmoid(torch.from_numpy(np.asarray(values, np.float32))).numpy()


def _check(ours: Answer, theirs: Answer) -> list[Check]:
    body = ours["body"]
    pairs_of = zip(ours["probabilities"], theirs["probabilities"], strict=True)
    close = min(float((np.abs(a - b)[:, body] < CLOSE).mean()) for a, b in pairs_of)
    return [
        Check(
            "stored probabilities against the network's own, largest error / stated bound", ours["error_of_bound"], 1
        ),
        Check(
            "the network's own probabilities against the same in float32, largest difference / stated bound",
            ours["rounding_of_bound"],
            1,
        ),
        Check(
            f"probabilities in the body within {CLOSE:g} of theirs (%), least of the teachers", 100 * close, 99.9, ">="
        ),
        Check("largest probability of an organ, so that there is something to compare", _top(theirs), 0.5, ">="),
    ]


def _top(answer: Answer) -> float:
    return min(float(p.max()) for p in answer["probabilities"])


SIDES = {"ours": storing, "ours_bfloat16": partial(storing, precision="bfloat16"), "monai": _monai}
