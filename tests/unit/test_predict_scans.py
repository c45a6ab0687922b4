"""Scans of a person's own through a model folder."""

from __future__ import annotations

import fcntl
import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from mskd.cli.app import app
from mskd.config.model import Network, Preprocessing
from mskd.errors import ConfigError, DataError
from mskd.measurements import organ_measurements
from mskd.models import load_model, save_model
from mskd.networks.unet import UNet
from mskd.prediction import predict_scan, segment
from mskd.sources import opened_sources
from mskd.stages.predict_scans import Wanted, predict_scans

AFFINE = np.array([[-2.0, 0, 0, 30], [0, -2.0, 0, 40], [0, 0, 4.0, -50], [0, 0, 0, 1]])
LABELS = {"liver": 1, "spleen": 2}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with random weights: what it says is nonsense, but always the same, and not background alone."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(1)
    save_model(
        folder,
        UNet(Network(features=[4, 8], convolutions_per_level=1), 3),
        labels=LABELS,
        preprocessing=Preprocessing(spacing_mm=(4.0, 4.0, 4.0), hu_clip=(-200.0, 300.0)),
        window=(16, 16, 8),
        overlap=0.5,
        stride=(2, 2, 2),
        key="k",
        provenance={},
        largest_component=["liver"],
    )
    return folder


def scan() -> npt.NDArray[np.int16]:
    """A body of soft tissue, fat and bone in air."""
    rng = np.random.default_rng(0)
    image = np.full((40, 36, 12), -1000, np.int16)
    image[6:34, 6:30] = rng.normal(40, 15, (28, 24, 12)).astype(np.int16)
    image[6:34, 6:9] = rng.normal(-100, 10, (28, 3, 12)).astype(np.int16)
    image[18:22, 24:28] = 600
    image[10:16, 12:20, 3:9] = 130
    return image


def save(path: Path, array: npt.NDArray[np.int16] | None = None, affine: npt.NDArray[np.float64] = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(scan() if array is None else array, affine), path)
    return path


def run(model: Path, source: Path, output: Path, wanted: Wanted = Wanted(), jobs: int = 1) -> list[str]:  # noqa: B008
    return predict_scans(model, source, output, wanted, ["cpu"], jobs=jobs)


def test_the_label_map_lies_on_the_scan_and_names_its_labels(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "in" / "a.nii.gz"
    image = nib.Nifti2Image(scan(), AFFINE)
    image.set_qform(AFFINE, code=3)
    image.set_sform(AFFINE, code=2)
    path.parent.mkdir()
    nib.save(image, path)
    assert run(model, path, tmp_path / "out") == []
    found = nib.load(tmp_path / "out" / "a.nii.gz")
    assert isinstance(found, nib.Nifti2Image)
    assert (int(found.header["qform_code"]), int(found.header["sform_code"])) == (3, 2)
    np.testing.assert_allclose(found.affine, AFFINE, atol=1e-4)
    assert found.get_data_dtype() == np.uint8
    assert json.loads(found.header.extensions[0].get_content())["labels"] == {"background": 0, "liver": 1, "spleen": 2}
    labels = np.asarray(found.dataobj)
    assert labels.shape == scan().shape
    assert set(np.unique(labels)) == {0, 1, 2}


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_axes_of_the_file_do_not_matter(model: Path, tmp_path: Path, axes: tuple[int, int, int]) -> None:
    turned = nib.Nifti1Image(scan(), AFFINE).as_reoriented(np.array([[axis, (-1) ** axis] for axis in axes]))
    for name, image in (("a", nib.Nifti1Image(scan(), AFFINE)), ("b", turned)):
        nib.save(image, tmp_path / f"{name}.nii.gz")
        run(model, tmp_path / f"{name}.nii.gz", tmp_path / "out")
    one, two = (nib.as_closest_canonical(nib.load(tmp_path / "out" / f"{name}.nii.gz")) for name in "ab")
    np.testing.assert_allclose(one.affine, two.affine, atol=1e-4)
    assert np.array_equal(one.dataobj, two.dataobj)


def test_organ_files_and_probabilities_agree_with_the_label_map(model: Path, tmp_path: Path) -> None:
    run(model, save(tmp_path / "a.nii.gz"), tmp_path / "out", Wanted(organ_files=True, probabilities=True))
    labels = np.asarray(nib.load(tmp_path / "out" / "a.nii.gz").dataobj)
    said = {}
    for organ, value in LABELS.items():
        mask = np.asarray(nib.load(tmp_path / "out" / "a" / f"{organ}.nii.gz").dataobj)
        assert np.array_equal(mask, labels == value)
        said[organ] = nib.load(tmp_path / "out" / "a" / f"{organ}_probability.nii.gz").get_fdata()
        assert said[organ].min() >= 0
        assert said[organ].max() <= 1
    total = sum(said.values())
    assert total.max() <= 1 + 2 / 255
    spleen = labels == 2  # not cut down to its largest component
    assert (said["spleen"] >= said["liver"] - 1 / 255)[spleen].all()
    assert (said["spleen"] + 1 / 255 >= 1 / 3)[spleen].all()


def test_only_the_largest_component_of_the_organs_that_the_model_names(model: Path, tmp_path: Path) -> None:
    from scipy import ndimage

    said = predict_scan(load_model(model), scan(), AFFINE)
    assert ndimage.label(said.labels == 1)[1] == 1
    assert ndimage.label(said.labels == 2)[1] > 1


def test_measurements(model: Path, tmp_path: Path) -> None:
    run(model, save(tmp_path / "a.nii.gz"), tmp_path / "out")
    table = pd.read_csv(tmp_path / "out" / "measurements.csv")
    labels = np.asarray(nib.load(tmp_path / "out" / "a.nii.gz").dataobj)
    assert list(table.columns[:4]) == ["scan", "organ", "voxels", "volume_ml"]
    assert list(table["organ"]) == ["liver", "spleen"]
    assert list(table["volume_ml"]) == pytest.approx([(labels == v).sum() * 2 * 2 * 4 / 1000 for v in (1, 2)])
    assert list(table["hu_mean"]) == pytest.approx([scan()[labels == v].mean() for v in (1, 2)], abs=0.01)


def test_measurements_of_an_organ_that_is_cut_off_or_missing() -> None:
    labels = np.zeros((6, 6, 6), np.uint8)
    labels[2:4, 2:4, 0:2] = 1
    hu = np.full(labels.shape, 7, np.int16)
    cut, missing = organ_measurements(labels, hu, np.diag([1.0, 2.0, 5.0, 1.0]), {"liver": 1, "spleen": 2})
    assert (cut["voxels"], cut["volume_ml"], cut["hu_p50"], cut["touches_edge"]) == (8, 0.08, 7.0, True)
    assert (missing["voxels"], missing["hu_mean"], missing["touches_edge"]) == (0, None, False)


def test_a_bad_scan_stops_no_other_and_is_listed(model: Path, tmp_path: Path) -> None:
    for name in ("a", "c"):
        save(tmp_path / "in" / f"{name}.nii.gz")
    (tmp_path / "in" / "b.nii.gz").write_bytes(b"no scan")
    call = ["predict", "-m", str(model), "-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--device", "cpu"]
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 2
    assert "1 scans could not be predicted:\ncase b: " in done.output
    assert sorted(p.name for p in (tmp_path / "out").glob("*.nii.gz")) == ["a.nii.gz", "c.nii.gz"]


def test_what_stands_is_kept_and_what_changed_is_made_again(model: Path, tmp_path: Path) -> None:
    save(tmp_path / "in" / "a.nii.gz")
    save(tmp_path / "in" / "b.nii.gz")
    out = tmp_path / "out"
    run(model, tmp_path / "in", out)
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.nii.gz")}
    save(tmp_path / "in" / "b.nii.gz", scan() + np.int16(5))
    (out / "a.nii.gz").touch()
    kept = (out / "a.nii.gz").stat().st_mtime_ns
    run(model, tmp_path / "in", out)
    assert (out / "a.nii.gz").stat().st_mtime_ns == kept
    assert (out / "b.nii.gz").stat().st_mtime_ns != before["b.nii.gz"]
    (out / "a.nii.gz").write_bytes(b"damaged")
    run(model, tmp_path / "in", out)
    assert nib.load(out / "a.nii.gz").shape == scan().shape


def test_a_scan_that_another_process_works_on_is_left_to_it(model: Path, tmp_path: Path) -> None:
    save(tmp_path / "in" / "a.nii.gz")
    out = tmp_path / "out"
    out.mkdir()
    with (out / ".a.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert run(model, tmp_path / "in", out) == []
        assert not (out / "a.nii.gz").exists()
    assert run(model, tmp_path / "in", out) == []
    assert (out / "a.nii.gz").exists()
    assert not (out / ".a.lock").exists()


def test_several_processes_give_the_same_files(model: Path, tmp_path: Path) -> None:
    for name in "abc":
        save(tmp_path / "in" / f"{name}.nii.gz", scan() + np.int16(ord(name)))
    (tmp_path / "in" / "d.nii").write_bytes(b"no scan")
    problems = [
        run(model, tmp_path / "in", tmp_path / "one"),
        run(model, tmp_path / "in", tmp_path / "two", jobs=2),
    ]
    assert [len(found) for found in problems] == [1, 1]
    for name in ("a.nii.gz", "b.nii.gz", "c.nii.gz", "measurements.csv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_file_of_somebody_else_is_not_replaced(model: Path, tmp_path: Path) -> None:
    source = save(tmp_path / "in" / "a.nii.gz")
    with pytest.raises(ConfigError, match="is the folder of the scans"):
        run(model, tmp_path / "in", tmp_path / "in")
    problems = run(model, source, tmp_path / "in")
    assert len(problems) == 1
    assert "a file without a record beside it" in problems[0]
    assert np.array_equal(nib.load(source).dataobj, scan())


def test_files_of_somebody_else_beside_the_results_do_no_harm(model: Path, tmp_path: Path) -> None:
    source = save(tmp_path / "a.nii.gz")
    (tmp_path / "out").mkdir()
    for name, text in (("x.json", "[1, 2]"), ("y.json", "no JSON"), ("z.json", '{"measurements": [{"organ": "x"}]}')):
        (tmp_path / "out" / name).write_text(text)
    assert run(model, source, tmp_path / "out") == []
    assert set(pd.read_csv(tmp_path / "out" / "measurements.csv")["scan"]) == {"a"}


def test_a_scan_that_is_no_ct_is_refused_unless_forced(model: Path, tmp_path: Path) -> None:
    normalised = ((scan() + 1000) / 2000).astype(np.float32)
    nib.save(nib.Nifti1Image(normalised, AFFINE), tmp_path / "a.nii.gz")
    (problem,) = run(model, tmp_path / "a.nii.gz", tmp_path / "out")
    assert "case a" in problem
    assert "HU" in problem
    assert run(model, tmp_path / "a.nii.gz", tmp_path / "out", Wanted(force=True)) == []


def test_fast_takes_fewer_windows(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mskd import prediction

    loaded, seen = load_model(model), []
    real = prediction.score_planes

    def counting(forward: Any, *arguments: Any, **options: Any) -> Iterator[Any]:
        seen.append(0)

        def counted(batch: torch.Tensor) -> Any:
            seen[-1] += 1
            return forward(batch)

        return real(counted, *arguments, **options)

    monkeypatch.setattr(prediction, "score_planes", counting)
    for fast in (False, True):
        predict_scan(loaded, np.tile(scan(), (1, 1, 4)), AFFINE, fast=fast)
    assert seen[1] < seen[0]


def test_bfloat16_gives_nearly_the_same_labels(model: Path, tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(scan(), AFFINE), tmp_path / "a.nii.gz")
    labels = {}
    for name, more in (("exact", []), ("half", ["--bfloat16"])):
        out = str(tmp_path / name)
        said = CliRunner().invoke(
            app, ["predict", "-m", str(model), "-i", str(tmp_path / "a.nii.gz"), "-o", out, "--probabilities", *more]
        )
        assert said.exit_code == 0, said.output
        labels[name] = np.asanyarray(nib.load(Path(out) / "a.nii.gz").dataobj)  # type: ignore[attr-defined]
    assert len(np.unique(labels["exact"])) > 1
    assert (labels["exact"] == labels["half"]).mean() > 0.99
    probability = [
        nib.load(tmp_path / name / "a" / "liver_probability.nii.gz").get_fdata()  # type: ignore[attr-defined]
        for name in ("exact", "half")
    ]
    assert 0 < np.abs(probability[0] - probability[1]).max() < 0.1


def test_memory_of_a_gpu_that_runs_out_falls_back_to_the_cpu(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mskd import prediction

    loaded = load_model(model)
    expected = predict_scan(loaded, scan(), AFFINE).labels
    real, asked = prediction.score_planes, []

    def small(*arguments: object, **options: object) -> object:
        asked.append(str(options["device"]))
        if options["device"] == "meta":
            raise torch.OutOfMemoryError
        return real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(prediction, "score_planes", small)
    monkeypatch.setattr(loaded.network, "to", lambda device: loaded.network)
    assert np.array_equal(predict_scan(loaded, scan(), AFFINE, device="meta").labels, expected)
    assert asked == ["meta", "cpu"]


def test_the_python_function_does_the_same(model: Path, tmp_path: Path) -> None:
    run(model, save(tmp_path / "a.nii.gz"), tmp_path / "out")
    written = np.asarray(nib.load(tmp_path / "out" / "a.nii.gz").dataobj)
    image = segment(model, nib.load(tmp_path / "a.nii.gz"), device="cpu")
    assert isinstance(image, nib.Nifti1Image)
    assert np.array_equal(image.dataobj, written)
    assert np.array_equal(segment(load_model(model), scan(), AFFINE), written)
    with pytest.raises(TypeError, match="affine"):
        segment(model, scan())


def test_dicom_in_and_out(model: Path, tmp_path: Path) -> None:
    from mskd.dicom_segmentation import read_segmentation, write_series

    write_series(tmp_path / "studies" / "p1" / "ct", scan(), AFFINE, "p1")
    write_series(tmp_path / "studies" / "p2" / "ct", scan() + np.int16(3), AFFINE, "p2")
    out = tmp_path / "out"
    assert run(model, tmp_path / "studies", out, Wanted(dicom_seg=True)) == []
    assert sorted(p.name for p in out.glob("*.nii.gz")) == ["p1_ct.nii.gz", "p2_ct.nii.gz"]
    plain = np.asarray(nib.as_closest_canonical(nib.load(out / "p1_ct.nii.gz")).dataobj)
    direct = nib.Nifti1Image(segment(load_model(model), scan(), AFFINE), AFFINE)
    assert np.array_equal(plain, np.asarray(nib.as_closest_canonical(direct).dataobj))
    found = read_segmentation(out / "p1_ct.seg.dcm", tmp_path / "studies" / "p1", "p1")
    seen = nib.as_closest_canonical(nib.Nifti1Image(found.labels, found.affine))
    assert np.array_equal(np.asarray(seen.dataobj), plain)


def test_a_segmentation_of_a_nifti_scan_comes_with_its_series(model: Path, tmp_path: Path) -> None:
    from mskd.dicom import read_series
    from mskd.dicom_segmentation import read_segmentation

    run(model, save(tmp_path / "a.nii.gz"), tmp_path / "out", Wanted(dicom_seg=True))
    array, affine = read_series(tmp_path / "out" / "a_series", "a")
    ours = nib.as_closest_canonical(nib.Nifti1Image(array, affine))
    np.testing.assert_allclose(ours.affine, nib.as_closest_canonical(nib.load(tmp_path / "a.nii.gz")).affine, atol=1e-3)
    assert np.array_equal(ours.dataobj, nib.as_closest_canonical(nib.load(tmp_path / "a.nii.gz")).dataobj)
    found = read_segmentation(tmp_path / "out" / "a.seg.dcm", tmp_path / "out" / "a_series", "a")
    assert list(found.names) == ["liver", "spleen"]


def names(source: Path) -> list[str]:
    with opened_sources(source) as found:
        return [item.name for item in found]


def test_sources(tmp_path: Path) -> None:
    a = save(tmp_path / "flat" / "a.nii.gz")
    save(tmp_path / "flat" / "b.nii")
    (tmp_path / "flat" / ".hidden.nii.gz").write_bytes(b"")
    (tmp_path / "flat" / "notes.txt").write_text("x")
    save(tmp_path / "deep" / "p1" / "ct.nii.gz")
    save(tmp_path / "deep" / "p2" / "ct.nii.gz")
    (tmp_path / "list.txt").write_text("# two of them\nflat/a.nii.gz\n\ndeep/p1/ct.nii.gz\n")
    (tmp_path / "list.csv").write_text("case,image\nfirst,flat/a.nii.gz\n,flat/a.nii.gz\n")
    with zipfile.ZipFile(tmp_path / "scans.zip", "w") as archive:
        archive.write(a, "studies/a.nii.gz")
    assert names(a) == ["a"]
    assert names(tmp_path / "flat") == ["a", "b"]
    assert names(tmp_path / "deep") == ["p1_ct", "p2_ct"]
    assert names(tmp_path / "list.txt") == ["a", "ct"]
    assert names(tmp_path / "list.csv") == ["first", "a"]
    assert names(tmp_path / "scans.zip") == ["studies_a"]


def test_sources_that_hold_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("# nothing\n")
    for source in (tmp_path / "empty", tmp_path / "empty.txt"):
        with pytest.raises(DataError, match=r"scans: \.nii\.gz or \.nii files"), opened_sources(source):
            pass
    with pytest.raises(DataError, match="no such file"), opened_sources(tmp_path / "missing"):
        pass


def test_names_that_come_twice_are_numbered(tmp_path: Path) -> None:
    save(tmp_path / "x" / "ct.nii.gz")
    save(tmp_path / "y" / "ct.nii.gz")
    (tmp_path / "list.txt").write_text("x/ct.nii.gz\ny/ct.nii.gz\n")
    assert names(tmp_path / "list.txt") == ["ct", "ct-2"]


def test_an_output_folder_that_cannot_be_written(model: Path, tmp_path: Path) -> None:
    if os.getuid() == 0:
        (tmp_path / "out").write_text("a file where the folder should be")
    else:
        (tmp_path / "out").mkdir(mode=0o500)
    (problem,) = run(model, save(tmp_path / "a.nii.gz"), tmp_path / "out" / "deeper")
    assert "choose another folder with -o" in problem
