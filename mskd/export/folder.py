"""An export: `model.onnx`, `preprocessing.json` and `MODEL_CARD.md` in one folder.

Nothing is written unless onnxruntime gives the logits that PyTorch gives.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mskd.errors import DataError, MskdError
from mskd.export.network import (
    EXTERNAL,
    NETWORK,
    check_parity,
    require_packages,
    use_contiguous_memory,
    write_network,
)
from mskd.export.preprocessing import describe_preprocessing
from mskd.layout import Layout
from mskd.model_card import FILE as MODEL_CARD
from mskd.model_card import model_card
from mskd.models import CARD, Model, load_model
from mskd.storage import atomic_path, write_json, write_text

PREPROCESSING = "preprocessing.json"

RUN_IT = """\
One window beside the other, enough to try it; `preprocessing.json` says, with all numbers, what mskd does beyond that
(windows that overlap and are blended, logits brought to the grid of the scan, post-processing). In the folder of this
card, with `pip install onnxruntime nibabel scipy`:

```python
import json
from pathlib import Path
import nibabel, numpy as np, onnxruntime
from scipy.ndimage import gaussian_filter, zoom

settings = json.loads(Path("preprocessing.json").read_text(encoding="utf-8"))
numbers, window = settings["normalisation"], settings["sliding_window"]["window"]
scan = nibabel.as_closest_canonical(nibabel.load("scan.nii.gz"))  # RAS, HU
factor = np.array(settings["spacing_mm"]) / scan.header.get_zooms()
smooth = np.maximum(0, (factor - 1) / 2) * settings["resampling"]["antialias"]
hu = zoom(gaussian_filter(scan.get_fdata(), smooth), 1 / factor, order=3, mode="mirror", grid_mode=True)
image = (np.clip(np.rint(hu), numbers["low_hu"], numbers["high_hu"]) - numbers["centre_hu"]) / numbers["half_range_hu"]
padded = np.pad(image, [(0, -n % w) for n, w in zip(hu.shape, window)], constant_values=-1).astype(np.float32)
session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
labels = np.zeros(padded.shape, np.uint8)
for place in np.ndindex(*(n // w for n, w in zip(padded.shape, window))):
    box = tuple(slice(i * w, (i + 1) * w) for i, w in zip(place, window))
    labels[box] = session.run(["logits"], {"image": padded[box][None, None]})[0][0].argmax(0)
labels = labels[tuple(slice(n) for n in hu.shape)]
on_scan = zoom(labels, np.divide(scan.shape, hu.shape), order=0, mode="nearest", grid_mode=True)
nibabel.save(nibabel.Nifti1Image(on_scan, scan.affine), "labels.nii.gz")
```"""


def export_model(folder: Path, output: Path) -> float:
    """Write a model folder as ONNX, atomically, and check it with onnxruntime.

    Args:
        folder: Model folder.
        output: Folder for `model.onnx`, `preprocessing.json` and `MODEL_CARD.md`; new, empty, or an earlier export.

    Returns:
        Largest difference of a logit between PyTorch and onnxruntime.

    Raises:
        MissingArtefactError: If the model folder is missing or damaged.
        MskdError: If packages are missing, the output folder holds other files, or the network cannot be exported, or
            not with equal logits; the output folder is then as it was.
    """
    require_packages()
    output = output.resolve()
    _check_output(output)
    model = load_model(folder)
    use_contiguous_memory(model.network)
    card = _card_text(folder, model)
    with atomic_path(output) as part:
        part.mkdir()
        write_network(model, part / NETWORK)
        difference = check_parity(model, part / NETWORK)
        write_json(part / PREPROCESSING, describe_preprocessing(model, part, difference))
        write_text(part / MODEL_CARD, card)
    return difference


def study_scores(folder: Path, card: dict[str, Any]) -> str:
    """Return the scores of a model that lies in its study's results, as Markdown, or nothing if none are known.

    Args:
        folder: Model folder.
        card: Content of `model.json`.
    """
    made, folder = card.get("provenance", {}), folder.resolve()
    method, run = made.get("method"), made.get("run")
    if not (isinstance(method, str) and isinstance(run, str)) or len(folder.parents) < 3:
        return ""
    layout = Layout(folder.parents[2])
    files = sorted(layout.metrics(method, run, "-").parent.glob("*.csv"))
    if layout.student(method, run) != folder or not files:
        return ""
    if not _predicted_by(layout, method, run, card["weights_sha256"]):
        return "Scores on test cases: not known. Those in the study are of other weights: run the workflow again."

    from mskd.evaluation.formats import markdown_text
    from mskd.evaluation.frames import read_all_metrics
    from mskd.evaluation.tables import comparison_table

    table = comparison_table(read_all_metrics(files), methods=[method], organs=list(card["labels"]))
    if table.empty:
        return ""
    notes = (
        "Mean ± standard deviation over the cases of this run; n: cases that have the organ; the mean row averages the "
        "organs' means.",
        "Roles: test (held out, same source as training), external (another source), resubstitution (trained on these "
        "scans: says nothing about accuracy).",
        "HD95 and NSD as the notes under the tables of the study define them.",
    )
    return "\n".join([markdown_text(table, [], {}).replace("## ", "### "), *(f"- {note}" for note in notes)])


def _predicted_by(layout: Layout, method: str, run: str, weights: str) -> bool:
    """Return whether no prediction that the scores were taken on comes from other weights."""
    records = layout.prediction(method, run, "-", "-", "-").parents[2].rglob("*.json")
    return all(weights in record.read_text(encoding="utf-8") for record in records)


def _card_text(folder: Path, model: Model) -> str:
    try:
        return model_card(model.card, scores=study_scores(folder, model.card), run_it=RUN_IT)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            case="-",
            file=folder / CARD,
            expected="a model.json as mskd writes it",
            found=f"{type(error).__name__}: {error}",
            fix="train the model again (run the workflow), or copy the whole folder",
        ) from error


def _check_output(output: Path) -> None:
    """Refuse to replace what is no export: a folder is replaced as a whole."""
    own = {NETWORK, EXTERNAL, PREPROCESSING, MODEL_CARD}
    if output.is_dir():
        there = {path.name for path in output.iterdir()}
        foreign = sorted(there - own) if not there or PREPROCESSING in there else sorted(there)
    else:
        foreign = [output.name] if output.exists() else []
    if foreign:
        raise MskdError(
            f"cannot export to {output}\n  expected: a new or empty folder, or an earlier export\n"
            f"  found:    {', '.join(foreign[:5])}\n  way out:  name another folder with -o"
        )
