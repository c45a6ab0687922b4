"""`model.onnx`: written from a network, and checked against it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from mskd.errors import MskdError
from mskd.models import Model
from mskd.networks.unet import UNet

NETWORK = "model.onnx"
EXTERNAL = f"{NETWORK}.data"  # weights beyond the limit of one file
FILE_LIMIT_BYTES = 2**31 - 2**24  # protobuf holds 2 GiB; some of it is the graph
OPSET = 18
PARITY = 1e-3  # largest difference of a logit between PyTorch and onnxruntime
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def require_packages() -> None:
    """Import what an export needs.

    Raises:
        MskdError: If a package is missing.
    """
    for package in PACKAGES:
        try:
            import_module(package)
        except ImportError as error:
            raise MskdError(f"mskd export needs the package {package}: pip install 'mskd[onnx]'") from error


def use_contiguous_memory(network: nn.Module) -> None:
    """Undo `network.channels_last`, which is an order in memory and no part of the network.

    On CPUs torch's channels-last kernels round more: on the demo's student and two windows of noise up to 5e-4 from
    float64, 2e-5 in contiguous memory (3e-5 for onnxruntime). Parity would be a test of that rounding.
    """
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    for module in network.modules():
        if isinstance(module, UNet):
            module.settings = module.settings.model_copy(update={"channels_last": False})


def write_network(model: Model, path: Path) -> None:
    """Trace the network with free batch and size, and write it, its weights inside (below 2 GiB).

    Args:
        model: Its network lies in contiguous memory.
        path: File to write; larger weights go to `model.onnx.data` beside it.

    Raises:
        MskdError: If torch cannot export it, or the file breaks the rules of ONNX.
    """
    sizes = [2 * step for step in model.stride]  # the smallest that torch.export does not take for a constant
    axes = {axis: torch.export.Dim(name) for axis, name in ((0, "batch"), (2, "nx"), (3, "ny"), (4, "nz"))}
    shape: dict[int, Any] = {0: axes[0]}
    shape |= {axis: step * axes[axis] if step > 1 else axes[axis] for axis, step in enumerate(model.stride, start=2)}
    weights = sum(t.numel() * t.element_size() for t in model.network.state_dict().values())
    with _failing_clearly("torch cannot export this network"), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations between torch and onnxscript
        program = torch.onnx.export(
            model.network,
            (torch.zeros(2, 1, *sizes),),
            dynamo=True,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes=(shape,),
            verbose=False,
        )
        if program is None:  # with dynamo it never is
            raise MskdError("torch.onnx.export returned nothing")
        for node in program.model.graph.all_nodes():
            node.metadata_props.clear()  # stack traces: paths of this machine
        program.save(path, external_data=weights > FILE_LIMIT_BYTES)
        import_module("onnx").checker.check_model(str(path))


def check_parity(model: Model, path: Path) -> float:
    """Return the largest difference of a logit: at the window with batch 1 and 2, and at another size.

    Raises:
        MskdError: If it is more than `PARITY`, or onnxruntime cannot run the network.
    """
    other = [w - s if w > 2 * s else w + s for w, s in zip(model.window, model.stride, strict=True)]
    random = torch.Generator().manual_seed(0)
    worst = 0.0
    for shape in ((1, 1, *model.window), (2, 1, *model.window), (1, 1, *other)):
        image = torch.rand(shape, generator=random) * 2 - 1
        with torch.inference_mode():
            expected = model.network(image).numpy()
        with _failing_clearly(f"onnxruntime cannot run the exported network on {list(shape)}"):
            found = _logits(path, image.numpy())
        if found.shape != expected.shape or not (difference := float(np.abs(found - expected).max())) <= PARITY:
            how = f"largest difference {difference:.2g}" if found.shape == expected.shape else f"shape {found.shape}"
            raise MskdError(
                f"the exported network is not the network of the model folder; nothing was written\n"
                f"  expected: on an image of {list(shape)}, logits that differ by at most {PARITY:g} from PyTorch's\n"
                f"  found:    {how}\n"
                f"  way out:  other versions of torch, onnxscript and onnxruntime (here "
                f"{', '.join(f'{name} {version(name)}' for name in ('torch', *PACKAGES))})"
            )
        worst = max(worst, difference)
    return worst


def _logits(path: Path, image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Run `model.onnx` on a batch (B, 1, X, Y, Z)."""
    session = import_module("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["logits"], {"image": image})[0])


@contextmanager
def _failing_clearly(what: str) -> Iterator[None]:
    """Turn what torch and onnxruntime raise (their errors have no common base) into our error."""
    try:
        yield
    except MskdError:
        raise
    except Exception as error:
        raise MskdError(f"{what}; nothing was written\n  found: {type(error).__name__}: {error}") from error
