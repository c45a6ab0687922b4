"""`viewer.html`: chosen cases in NiiVue, reference beside prediction, switched by method; all in one file.

NiiVue's JavaScript comes from the package ipyniivue, whose widget bundles it. A page that was opened from disk may
load no other file, so script and volumes are in the page. The widget exports no NiiVue class of its own: the class is
found by the one place where the widget makes an instance.
"""

from __future__ import annotations

import base64
import gzip
import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from mskd.errors import MskdError
from mskd.report.overlay import WINDOW_HU
from mskd.report.rendering import template
from mskd.storage import write_text

PACKAGE, BUNDLE = "ipyniivue", "static/widget.js"
PAGE = "viewer.html"
IGNORE = 255
MAX_VOXELS = 128  # along an axis: what lies finer is thinned out, so that the page stays small
_INSTANCE = re.compile(r'Creating new Niivue instance"\);.{0,200}?=new ([\w$]+)\(')
_EXPORT = re.compile(r"export\{[\w$]+ as default\};?\s*$")
# Okabe and Ito's colours, as in the plots.
_COLOURS = (
    "#D55E00",
    "#0072B2",
    "#009E73",
    "#E69F00",
    "#CC79A7",
    "#56B4E9",
    "#F0E442",
    "#8C6BB1",
    "#8C510A",
    "#999999",
)


@dataclass(frozen=True)
class ViewerCase:
    """A case to look at.

    Attributes:
        title: What the list of cases says.
        image_hu: Scan, (X, Y, Z); at most 128 voxels along an axis are shown (`thinned`).
        affine: Voxels to mm, RAS.
        labels: Name (reference, or a method's title) → label map on the scan's grid, the reference first.
    """

    title: str
    image_hu: npt.NDArray[Any]
    affine: npt.NDArray[np.float64]
    labels: Mapping[str, npt.NDArray[Any]]


def niivue_source() -> str | None:
    """Return JavaScript that defines `globalThis.Niivue`, or None where the package is not installed.

    Raises:
        MskdError: If this version of the package is built in another way.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]) / BUNDLE
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    made, export = _INSTANCE.search(text), _EXPORT.search(text)
    if made is None or export is None:
        raise MskdError(
            f"{path} is not built as mskd expects\n  expected: the widget of {PACKAGE} 2.4\n"
            f"  found:    {len(text)} characters without a NiiVue class that can be told\n"
            f"  way out:  pip install '{PACKAGE}==2.4.4', or uninstall it to have a report without the viewer"
        )
    # inside a script element no text may read as its end
    return f"{text[: export.start()]}\nglobalThis.Niivue={made[1]};".replace("</script", "<\\/script")


def write_viewer(folder: Path, cases: Sequence[ViewerCase], organs: Mapping[str, int], *, study: str) -> Path | None:
    """Write `viewer.html` into `folder` and return its path; None where NiiVue is not installed or no case is given.

    Args:
        folder: The report's.
        cases: What can be chosen.
        organs: Organ → value in the label maps.
        study: Name of the study.
    """
    source = niivue_source()
    if source is None or not cases:
        return None
    path = folder / PAGE
    data = {
        "organs": [
            {"name": organ, "value": value, "colour": _COLOURS[rank % len(_COLOURS)]}
            for rank, (organ, value) in enumerate(organs.items())
        ],
        "window_hu": list(WINDOW_HU),
        "cases": [_case(case) for case in cases],
    }
    write_text(path, template("viewer.html.j2").render(study=study, data=data, niivue=source))
    return path


def _case(case: ViewerCase) -> dict[str, Any]:
    """Return a case as the page holds it."""
    every = thinning(case.image_hu.shape)
    affine = case.affine @ np.diag([*map(float, every), 1.0])
    image = np.clip(np.rint(thinned(case.image_hu, every)), -1024, 3071).astype(np.int16)
    return {
        "title": case.title,
        "image": _nifti(image, affine),
        "labels": [
            {"name": name, "data": _nifti(_shown(thinned(values, every)), affine)}
            for name, values in case.labels.items()
        ],
    }


def thinning(shape: Sequence[int]) -> tuple[int, ...]:
    """Return of how many voxels along each axis the page holds one."""
    return tuple(-(-n // MAX_VOXELS) for n in shape)


def thinned(values: npt.NDArray[Any], every: Sequence[int]) -> npt.NDArray[Any]:
    """Return every n-th voxel, in memory of its own."""
    return values[:: every[0], :: every[1], :: every[2]].copy()


def _shown(labels: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Return labels without the value that means "unknown": the viewer would draw it as the last organ."""
    return np.where(labels == IGNORE, 0, labels).astype(np.uint8)


def _nifti(values: npt.NDArray[Any], affine: npt.NDArray[np.float64]) -> str:
    """Return a compressed NIfTI file as base64; equal volumes give equal text."""
    image = nib.Nifti1Image(values, affine)
    return base64.b64encode(gzip.compress(image.to_bytes(), 9, mtime=0)).decode("ascii")
