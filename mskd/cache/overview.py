"""What a cache holds, and a picture of one case."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mskd.cache.store import LOGITS, TargetStore
from mskd.cache.verification import Expected
from mskd.errors import MissingArtefactError
from mskd.prepared import PreparedCase

NAIVE_BYTES = 4  # float32


def overview(stores: Iterable[Expected], channels: dict[str, dict[str, int]]) -> pd.DataFrame:
    """Return one row per teacher, run and dataset, and one for all.

    Args:
        stores: What manifests name.
        channels: Teacher → array ("logits" with the background, taps) → channels that the teacher computes.

    Returns:
        Columns teacher, run, dataset, cases, missing, stale, bytes, bytes_per_voxel, ratio (to naive float32).
    """
    rows = []
    for store in stores:
        row: dict[str, Any] = {"teacher": store.teacher, "run": store.run, "dataset": store.case.split("/")[0]}
        try:
            opened = TargetStore(store.place, store.case, store.content)
        except MissingArtefactError:
            rows.append({**row, "missing": 1, "stale": 0, "bytes": 0, "voxels": 0, "naive": 0})
            continue
        stale = int(not (opened.attributes["key"] == store.stated_key == store.key))
        size = sum(map(opened.files.size, opened.files.names()))
        voxels = int(np.prod(opened.arrays[LOGITS].shape[1:]))
        naive = NAIVE_BYTES * sum(
            int(np.prod(array.shape[1:])) * channels[store.teacher][name] for name, array in opened.arrays.items()
        )
        rows.append({**row, "missing": 0, "stale": stale, "bytes": size, "voxels": voxels, "naive": naive})
    columns = ["teacher", "run", "dataset", "missing", "stale", "bytes", "voxels", "naive"]
    frame = pd.DataFrame(rows, columns=columns).assign(cases=1)
    grouped = frame.groupby(["teacher", "run", "dataset"], as_index=False).sum()
    total = grouped[["cases", "missing", "stale", "bytes", "voxels", "naive"]].sum()
    summed = pd.concat([grouped, pd.DataFrame([{"teacher": "all", "run": "", "dataset": "", **total.to_dict()}])])
    summed["bytes_per_voxel"] = summed["bytes"] / summed["voxels"].clip(lower=1)
    summed["ratio"] = summed["naive"] / summed["bytes"].clip(lower=1)
    order = ["teacher", "run", "dataset", "cases", "missing", "stale", "bytes", "bytes_per_voxel", "ratio"]
    return summed[order].reset_index(drop=True)


def preview(prepared: PreparedCase, stores: dict[str, TargetStore], path: Path) -> None:
    """Draw a case: the scan, and for each teacher's organs the probability and the chunks of features that are kept.

    Args:
        prepared: The case.
        stores: Teacher → its targets.
        path: PNG to write.
    """
    from matplotlib.figure import Figure

    from mskd.evaluation.figures import save_figure

    image = prepared.read("image")
    said = {teacher: 1 / (1 + np.exp(-store.read(LOGITS))) for teacher, store in stores.items()}
    most = sum(probability.max(0) for probability in said.values())
    z = int(np.asarray(most).sum((0, 1)).argmax())
    rows = len(stores)
    figure = Figure(figsize=(9, 3.2 * rows), layout="constrained")
    axes = figure.subplots(rows, 3, squeeze=False)
    for row, (teacher, store) in zip(axes, stores.items(), strict=True):
        scan = image[:, :, z].T
        row[0].imshow(scan, cmap="gray", origin="lower")
        row[0].set_title(f"{prepared.case}, slice {z}")
        row[1].imshow(scan, cmap="gray", origin="lower")
        drawn = row[1].imshow(
            np.ma.masked_less(said[teacher].max(0)[:, :, z].T, 0.02), cmap="viridis", vmin=0, vmax=1, origin="lower"
        )
        row[1].set_title(f"{teacher}: probability of {', '.join(store.attributes['organs'])}")
        figure.colorbar(drawn, ax=row[1], shrink=0.7)
        row[2].imshow(scan, cmap="gray", origin="lower")
        row[2].set_title("features: strength, where kept")
        for tap, stride in store.strides.items():
            cell = z // stride[2]
            feature = np.abs(store.read(tap)[:, :, :, cell]).mean(0)
            kept = store.kept(tap, (0, 0, cell), (*feature.shape, 1))
            extent = (-0.5, feature.shape[0] * stride[0] - 0.5, -0.5, feature.shape[1] * stride[1] - 0.5)
            row[2].imshow(
                np.ma.array(feature, mask=~kept[:, :, 0]).T, cmap="magma", alpha=0.6, extent=extent, origin="lower"
            )
            break  # the first tap says enough
        for axis in row:
            axis.set_axis_off()
            axis.invert_xaxis()  # as radiologists look: the patient's right is at the left
    save_figure(figure, path.with_suffix(""))
