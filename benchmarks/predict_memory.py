"""Time and peak memory of `mskd predict` on a large scan: 512 × 512 × 700 voxels, five organs.

The weights are random: neither time nor memory depends on what they say. The scan is a cylinder of tissue that fills
most of the field of view, as a body does, so that hardly any window is skipped.

    python benchmarks/predict_memory.py --device cpu
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from mskd.config.model import Network, Preprocessing
from mskd.models import save_model
from mskd.networks.unet import UNet
from mskd.provenance import made_by

ORGANS = ("liver", "spleen", "kidney", "pancreas", "gallbladder")
SPACING_MM = (0.8, 0.8, 1.0)


def main() -> None:
    """Write the scan and the model, predict in a process of its own, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=[512, 512, 700])
    parser.add_argument("--spacing-mm", type=float, default=1.5, help="of the study grid")
    parser.add_argument("--features", type=int, nargs="+", default=[16, 32, 64, 128])
    parser.add_argument("--window", type=int, default=96)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("options", nargs="*", help="more options of mskd predict, after --")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_scan(root / "scan.nii.gz", given.shape)
        torch.manual_seed(0)
        save_model(
            root / "model",
            UNet(Network(features=given.features), 1 + len(ORGANS)),
            labels={organ: value for value, organ in enumerate(ORGANS, 1)},
            preprocessing=Preprocessing(spacing_mm=(given.spacing_mm,) * 3),
            window=(given.window,) * 3,
            overlap=0.5,
            stride=(2 ** (len(given.features) - 1),) * 3,
            key="benchmark",
            provenance={},
        )
        command = [sys.executable, "-m", "mskd", "predict", "-m", str(root / "model"), "-i", str(root / "scan.nii.gz")]
        start = time.perf_counter()
        subprocess.run([*command, "-o", str(root / "out"), "--device", given.device, *given.options], check=True)
        row = {
            "shape": given.shape,
            "spacing_mm": given.spacing_mm,
            "features": given.features,
            "window": given.window,
            "device": given.device,
            "options": given.options,
            "seconds": round(time.perf_counter() - start, 1),
            "peak_gib": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20, 2),
            "made_by": made_by(),
        }
    print(json.dumps(row))
    with Path("benchmarks/results/predict_memory.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")


def write_scan(path: Path, shape: list[int]) -> None:
    """Write a cylinder of noisy tissue in air."""
    rng = np.random.default_rng(0)
    x, y = (np.linspace(-1, 1, n) for n in shape[:2])
    inside = (x[:, None] ** 2 + y[None, :] ** 2) < 0.8
    scan = np.full(shape, -1000, np.int16)
    for z in range(shape[2]):
        scan[:, :, z][inside] = rng.normal(40, 60, int(inside.sum())).astype(np.int16)
    nib.save(nib.Nifti1Image(scan, np.diag([*SPACING_MM, 1.0])), path)


if __name__ == "__main__":
    main()
