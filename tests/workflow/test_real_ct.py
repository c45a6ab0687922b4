"""Real CT files go from raw scans to tables and predictions that lie on the raw scans."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
DATA = Path(os.environ.get("MSKD_DATA", REPOSITORY.parent / "shared" / "data"))
STEPS = 100  # enough that a prediction on mirrored or shifted axes could not overlap as asserted below

pytestmark = [
    pytest.mark.data,
    pytest.mark.xdist_group("real_ct"),  # one worker, so that the study is run once
    pytest.mark.skipif(
        not (DATA / "real_ct").is_dir(), reason=f"no real CT files at {DATA}/real_ct: set MSKD_DATA to their folder"
    ),
]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real_ct")
    study = yaml.safe_load((REPOSITORY / "config" / "real_ct.yaml").read_text())
    study["results"] = str(folder)
    study["training"] |= {"steps": STEPS, "validate_every": STEPS}
    (folder / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "workflow" / "Snakefile")]
    command += ["--directory", str(folder), "--configfile", str(folder / "study.yaml"), "--cores", "2"]
    environment = {**os.environ, "MSKD_DATA": str(DATA.resolve())}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "real_ct"


@pytest.mark.parametrize(
    ("dataset", "case", "image"),
    [
        ("spleen_seen", "msd_spleen_8", "msd_spleen_8/image.nii.gz"),
        ("abdomen_seen", "ct_3mm", "ct_3mm/ct.nii.gz"),
        ("chest", "c3n_00249", "c3n_00249/ct.nii.gz"),
    ],
)
def test_predictions_lie_on_the_raw_scans(results: Path, dataset: str, case: str, image: str) -> None:
    raw = nib.load(DATA / "real_ct" / image)
    for method in ("individual", "mskd"):
        (path,) = (results / "predictions" / method).glob(f"*/{dataset}/*/{case}.nii.gz")
        prediction = nib.load(path)
        assert prediction.shape == raw.shape
        np.testing.assert_allclose(prediction.affine, raw.affine, atol=1e-4)
        # the file stores qform as quaternion in float32
        np.testing.assert_allclose(prediction.get_qform(), raw.affine, atol=1e-2)
        values = np.unique(np.asanyarray(prediction.dataobj))
        assert set(values) <= {0, 1, 2, 3, 4}


def test_predictions_overlap_what_was_trained_on(results: Path) -> None:
    """Shows that axes, spacing and labels survive the way there and back; it says nothing of accuracy."""
    metrics = pd.read_csv(results / "metrics.csv")
    assert set(metrics["role"]) == {"resubstitution"}
    assert set(metrics["dataset"]) == {"spleen_seen", "abdomen_seen"}
    dice = metrics[metrics["method"] == "individual"].set_index(["dataset", "organ"])["dice"]
    assert dice["abdomen_seen", "liver"] > 0.6
    assert dice["spleen_seen", "spleen"] > 0.6


def test_the_tables_say_that_this_is_no_accuracy(results: Path) -> None:
    text = (results / "tables" / "comparison.md").read_text()
    assert "resubstitution" in text
    assert "not accuracy" in text


def test_no_identifiers_in_artefacts(results: Path) -> None:
    """Free text of the scans' headers goes nowhere."""
    for path in results.rglob("predictions/**/*.nii.gz"):
        header = nib.load(path).header
        assert header["descrip"].tobytes().strip(b"\0") == b""
        assert header["db_name"].tobytes().strip(b"\0") == b""
