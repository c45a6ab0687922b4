"""What every reader of scans must hold to, whatever bytes a file has: an answer, or one of our own errors.

tests/unit/test_hostile_headers.py asks it of headers that hypothesis makes, fuzz_nifti.py (make fuzz) of what libFuzzer
finds.
"""

from __future__ import annotations

import gzip
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt

from mskd.errors import MskdError
from mskd.scans import read_labels, read_scan, read_scan_grid, read_stored


def read_in_every_way(path: Path) -> list[str]:
    """Read a file as a scan and as labels; return the messages of our errors, and let any other error through."""
    said = []
    for read in (
        lambda: read_scan_grid(path, "case"),
        lambda: read_scan(path, "case"),
        lambda: read_stored(path, "case"),
        lambda: read_labels(path, "case", {1: 1}, read_scan_grid(path, "case")[0]),
    ):
        try:
            read()
        except MskdError as error:
            said.append(str(error))
    return said


def valid_file(*, version: int = 1, dtype: npt.DTypeLike = np.int16) -> bytes:
    """Return a small valid NIfTI file."""
    kind = nib.Nifti1Image if version == 1 else nib.Nifti2Image
    array = np.arange(4 * 3 * 2).reshape(4, 3, 2).astype(dtype)
    return bytes(kind(array, np.diag([2.0, 2.0, 3.0, 1.0])).to_bytes())


def fuzz_one(data: bytes) -> None:
    """Read the bytes as a plain and as a compressed file; libFuzzer calls this."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in (("a.nii", data), ("b.nii.gz", gzip.compress(data, 1)), ("c.nii.gz", data)):
            path = Path(folder) / name
            path.write_bytes(content)
            read_in_every_way(path)
