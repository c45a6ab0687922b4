"""A store of each format version lies in the repository; every later version has to read it.

Made once by `python tests/unit/test_cache_golden.py`; never made again for a version that was released.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mskd.cache.quantisation import FeatureCode, MarginCode
from mskd.cache.store import FORMAT, EncodedArray, TargetStore, write_store

FIXTURES = Path(__file__).parent / "fixtures"
SHAPE = (12, 10, 8)


def margins() -> np.ndarray:
    """From -9 to 9 along x."""
    return np.broadcast_to(np.linspace(-9, 9, SHAPE[0])[None, :, None, None], (1, *SHAPE)).astype(np.float32)


def features() -> np.ndarray:
    """Two channels that fall and rise along y."""
    y = np.linspace(-1, 1, 5)[None, :, None]
    return np.stack([np.broadcast_to(sign * y, (6, 5, 4)) for sign in (-3.0, 1.0)]).astype(np.float32)


def arrays() -> dict[str, EncodedArray]:
    margin_code, feature_code = MarginCode(4, "probability", 2.0), FeatureCode.of(features(), 8)
    kept = np.ones((3, 3, 2), bool)
    kept[0] = False
    stored = features().copy()
    stored[:, :2] = 0
    details = {"temperatures": [1.0, 2.0]}
    return {
        "logits": EncodedArray(
            margin_code.encode(margins()), margin_code, (1, 1, 1), (4, 4, 4), None, (4, 4, 4), details
        ),
        "features/decoder1": EncodedArray(
            feature_code.encode(stored), feature_code, (2, 2, 2), (4, 4, 4), kept, (2, 2, 2), {}
        ),
    }


@pytest.mark.parametrize("version", ["mskd-targets-2"])
def test_reads_every_version(version: str) -> None:
    store = TargetStore(FIXTURES / f"{version}.zarr", "golden/a")
    sigmoid = 1 / (1 + np.exp(-margins() / 2))
    read = 1 / (1 + np.exp(-store.read("logits") / 2))
    assert np.abs(read - sigmoid).max() <= 0.5 / 15 + 1e-6
    assert store.temperatures == (1.0, 2.0)
    np.testing.assert_allclose(store.read("decoder1")[:, 2:], features()[:, 2:], atol=1.5 / 127 + 1e-4)
    kept = store.kept("decoder1", (0, 0, 0), (6, 5, 4))
    assert not kept[:2].any()
    assert kept[2:].all()
    assert store.strides == {"decoder1": (2, 2, 2)}


def test_the_present_version_has_a_fixture() -> None:
    assert (FIXTURES / f"{FORMAT}.zarr").is_dir()


if __name__ == "__main__":
    write_store(
        FIXTURES / f"{FORMAT}.zarr", arrays(), key="golden", level=5, affine=np.eye(4), attributes={"case": "golden/a"}
    )
