"""How large the scans of a study are, before anything is made: from the configuration, or from NIfTI headers alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod

import numpy as np

from mskd.cases import Case
from mskd.config.study import Study
from mskd.dag import Graph
from mskd.geometry import Geometry
from mskd.phantom.scanner import scan_axes
from mskd.scans import read_scan_grid

Triple = tuple[int, int, int]
SAMPLED_HEADERS = 20  # per dataset; other cases are taken to be as large as the nearest sampled one


@dataclass(frozen=True)
class ScanSize:
    """Size of a scan.

    Attributes:
        raw: Shape of the file, canonical axes.
        full: Shape of its whole field of view on the study grid.
    """

    raw: Triple
    full: Triple

    @property
    def raw_mvoxels(self) -> float:
        """Million voxels of the file."""
        return prod(self.raw) / 1e6

    @property
    def full_mvoxels(self) -> float:
        """Million voxels of the whole field of view on the study grid."""
        return prod(self.full) / 1e6

    def prepared(self, study: Study, body_share: Sequence[float]) -> Triple:
        """Return the estimated shape of the prepared store: the field of view, or the body's share of it."""
        if not study.preprocessing.crop_to_body:
            return self.full
        shape = [min(n, ceil(n * share)) for n, share in zip(self.full, body_share, strict=True)]
        return shape[0], shape[1], shape[2]


def scan_sizes(graph: Graph) -> dict[str, ScanSize]:
    """Return the size of every scan of a study by case id.

    Raises:
        DataError: If a header cannot be read.
    """
    sizes: dict[str, ScanSize] = {}
    for name in graph.study.datasets:
        cases = graph.cases(name)
        known = {index: _size(graph.study, cases[index]) for index in sampled(len(cases), SAMPLED_HEADERS)}
        for index, case in enumerate(cases):
            sizes[case.id] = known[min(known, key=lambda other, at=index: abs(other - at))]  # type: ignore[misc]
    return sizes


def sampled(count: int, most: int) -> list[int]:
    """Return up to `most` indices spread evenly over `count`, both ends included.

    Example:
        >>> sampled(9, 3)
        [0, 4, 8]
    """
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]


def _size(study: Study, case: Case) -> ScanSize:
    phantom = study.datasets[case.dataset].phantom
    spacing_mm = study.preprocessing.spacing_mm
    if phantom is not None:
        shape = [len(axis) for axis in scan_axes(phantom.scanner)]
        affine = np.diag([*phantom.scanner.spacing_mm, 1.0])
    else:
        found, affine = read_scan_grid(case.image, case.id)
        shape = list(found)
    geometry = Geometry.of_raw((shape[0], shape[1], shape[2]), affine, spacing_mm)
    return ScanSize(geometry.canonical_shape, geometry.full_shape)
