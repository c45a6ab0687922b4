"""Lets libFuzzer look for bytes that break the readers of scans; needs the extra `fuzz` (atheris).

python tests/fuzz/fuzz_nifti.py -max_total_time=60
"""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path

try:
    import atheris
except ImportError:
    sys.exit("atheris is not installed: pip install 'mskd[fuzz]'")

with atheris.instrument_imports(include=["nibabel", "mskd"]):
    from tests.fuzz.nifti import fuzz_one, valid_file


def main() -> None:
    """Run libFuzzer from valid files on; its flags are those of the command line."""
    logging.disable()  # nibabel tells of every odd header
    with tempfile.TemporaryDirectory() as corpus:
        for version in (1, 2):
            for dtype in ("int16", "uint8", "float32"):
                (Path(corpus) / f"{version}-{dtype}").write_bytes(valid_file(version=version, dtype=dtype))
        atheris.Setup([*sys.argv, corpus], fuzz_one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
