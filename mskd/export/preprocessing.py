"""`preprocessing.json`: what prepares a scan for the network, and what turns its logits into a label map."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

from mskd.export.network import EXTERNAL, NETWORK, OPSET, PACKAGES, PARITY
from mskd.inference import AIR, FAR
from mskd.models import Model
from mskd.provenance import file_digest, made_by

FORMAT = "mskd-onnx-1"


def describe_preprocessing(model: Model, folder: Path, difference: float) -> dict[str, Any]:
    """Return the content of `preprocessing.json`.

    Args:
        model: The model.
        folder: Where `model.onnx` lies.
        difference: Largest difference of a logit between PyTorch and onnxruntime.
    """
    settings = model.preprocessing
    low, high = settings.hu_clip
    provenance = model.card.get("provenance", {})
    return {
        "format": FORMAT,
        "notice": "Not for clinical use.",
        "steps": [
            "Read the CT in HU and bring it to the axes RAS (`axes`).",
            "Resample it to `spacing_mm` (`resampling`).",
            "If `body.crop` is true: cut it to the bounding box of the body and `body.margin_mm` (`body`).",
            "Round to whole HU and normalise (`normalisation`).",
            "Cover it with windows, run the network on each, and blend the logits (`sliding_window`).",
            "Bring the logits to the grid of the scan, take the channel with the largest (`labels_of_scan`).",
            "Apply `postprocessing`, undo the change of axes.",
        ],
        "axes": {
            "order": ["x", "y", "z"],
            "orientation": "RAS",
            "meaning": "index x grows to the right of the patient, y to the front, z to the head",
        },
        "spacing_mm": list(settings.spacing_mm),
        "resampling": {
            "image": "cubic B-spline per axis, mirror boundary, positions clamped to the array",
            "grid": "same centre as the scan; voxels per axis: max(1, round(voxels × spacing / spacing_mm))",
            "antialias": settings.antialias,
            "antialias_sigma": "Gaussian before sampling down, sigma max(0, (spacing_mm / spacing - 1) / 2) raw voxels",
        },
        "body": {
            "crop": settings.crop_to_body,
            "margin_mm": settings.crop_margin_mm,
            "threshold_hu": settings.body_threshold_hu,
            "meaning": "denser than the threshold; opened (faces), largest connected part (faces), dilated by a voxel "
            "inside what is dense, holes in axial slices filled; a scan with nothing dense is body as a whole",
        },
        "normalisation": {
            "formula": "(clip(round(hu), low_hu, high_hu) - centre_hu) / half_range_hu",
            "low_hu": low,
            "high_hu": high,
            "centre_hu": (low + high) / 2,
            "half_range_hu": (high - low) / 2,
            "range": [-1.0, 1.0],
        },
        "sliding_window": {
            "window": list(model.window),
            "overlap": model.overlap,
            "stride": list(model.stride),
            "padding": {"value": AIR, "where": "far ends", "to": "max(window, ceil(n / stride) × stride) voxels"},
            "places": "per axis: count = ceil((n - window) / max(1, window × (1 - overlap))) + 1, n the padded size; "
            "start i of 0 … count - 1 is min(round((n - window) × i / max(1, count - 1) / stride) × stride, "
            "n - window)",
            "blending": {
                "formula": "sum(weight × logits) / sum(weight); weight: product over the axes of "
                "exp(-0.5 × ((i - (window - 1) / 2) / (window × sigma_in_windows))²), at least `minimum`",
                "sigma_in_windows": 1 / 8,
                "minimum": 1e-4,
            },
            "windows_without_body": {"meaning": "are skipped", "logit_background": FAR, "logit_organs": -FAR},
            "network_sizes": "multiples of `stride`; use `window`: the network's instance normalisation takes its "
            "statistics over what it is given, so other sizes give other logits",
        },
        "network": {
            "file": NETWORK,
            "files_sha256": {p.name: file_digest(p) for p in sorted(folder.iterdir()) if p.name in (NETWORK, EXTERNAL)},
            "input": {"name": "image", "dtype": "float32", "shape": ["batch", 1, *_multiples(model.stride)]},
            "output": {
                "name": "logits",
                "dtype": "float32",
                "shape": ["batch", 1 + len(model.labels), *_multiples(model.stride)],
            },
            "opset": OPSET,
            "parameters": model.card["parameters"],
            "parity": {
                "largest_difference": float(f"{difference:.1e}"),
                "bound": PARITY,
                "against": "PyTorch, float32, CPU, contiguous memory; uniform random input in [-1, 1]",
            },
        },
        "labels": model.labels,
        "channels": ["background", *model.labels],
        "labels_of_scan": "linear interpolation of the logits per axis (where the scan is coarser, a triangle as "
        "wide as its voxels); the label is the channel with the largest logit; outside the crop: background",
        "postprocessing": {
            "largest_component": list(model.largest_component),
            "connectivity": "faces (6 neighbours), on the grid of the scan; smaller components become background",
        },
        "model": {
            "weights_sha256": model.card["weights_sha256"],
            "key": model.card["key"],
            **{part: provenance[part] for part in ("study", "method", "teacher", "run") if part in provenance},
        },
        "made_by": {**made_by(), **{name: version(name) for name in PACKAGES}},
    }


def _multiples(stride: tuple[int, int, int]) -> list[str]:
    return [f"multiple of {step}" for step in stride]
