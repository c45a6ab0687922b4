"""Exports: onnxruntime against PyTorch for every kind of network, and all that somebody needs to run it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from scipy import ndimage
from torch import nn
from typer.testing import CliRunner

from mskd.cli.app import app
from mskd.config.model import Network, Preprocessing
from mskd.errors import MissingArtefactError, MskdError
from mskd.evaluation.frames import concatenate, score_frame, write_metrics
from mskd.evaluation.metrics import OrganScore
from mskd.export import folder as exporting
from mskd.export import network as onnx_file
from mskd.export.folder import export_model, study_scores
from mskd.inference import Windows, sliding_window
from mskd.layout import Layout
from mskd.models import load_model, read_card, save_model
from mskd.networks.dodnet import DoDNet
from mskd.networks.merged import FAR, MergedTeachers
from mskd.networks.multi_head import MultiHead
from mskd.networks.unet import UNet
from mskd.prepared import normalise
from mskd.storage import write_json

LABELS = {"spleen": 1, "liver": 2, "left kidney": 3}
FILES = ["MODEL_CARD.md", "model.onnx", "preprocessing.json"]
RUN = "fold0-seed0"
PLAIN = Network(features=[4, 6], convolutions_per_level=1)
UNEVEN = Network(
    features=[4, 6],
    convolutions_per_level=1,
    architecture="residual",
    strides=[(1, 1, 1), (4, 2, 1)],
    deep_supervision=True,
    channels_last=False,
)
KINDS: dict[str, tuple[Network, Callable[[], nn.Module]]] = {
    "unet": (PLAIN, lambda: UNet(PLAIN, 4)),
    "residual": (UNEVEN, lambda: UNet(UNEVEN, 4)),
    "multi_head": (PLAIN, lambda: MultiHead(PLAIN, [[0, 1], [1, 2]], 4)),
    "dodnet": (PLAIN, lambda: DoDNet(PLAIN, [[0, 1], [2]], 4)),
    # two teachers own the liver, nobody the kidney
    "merged": (
        PLAIN,
        lambda: MergedTeachers({"a.b": UNet(PLAIN, 3), "c": UNet(PLAIN, 2)}, {"a.b": [1, 2], "c": [2]}, 4),
    ),
}


def save(folder: Path, kind: str = "unet", seed: int = 0) -> Path:
    torch.manual_seed(seed)
    settings, build = KINDS[kind]
    save_model(
        folder,
        build(),
        labels=LABELS,
        preprocessing=Preprocessing(spacing_mm=(2.0, 2.0, 3.0), hu_clip=(-150.0, 250.0)),
        window=(16, 8, 2),  # in z no more than a stride
        overlap=0.5,
        stride=settings.coarsest_stride,
        key="k",
        provenance={"study": "s", "method": "mskd", "run": RUN, "inputs": {"train": {"d/SMITH_JOHN": "1"}}},
        largest_component=["liver"],
    )
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model folder of a U-Net, and its export."""
    folder = tmp_path_factory.mktemp("plain")
    export_model(save(folder / "model"), folder / "out")
    return folder / "model", folder / "out"


def run(out: Path, image: np.ndarray[Any, Any]) -> Any:
    session = onnxruntime.InferenceSession(str(out / "model.onnx"), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"image": image.astype(np.float32)})[0]


@pytest.mark.parametrize("kind", KINDS)  # one test, so that each kind is exported once
def test_every_kind_of_network(kind: str, tmp_path: Path) -> None:
    model, out = save(tmp_path / "model", kind), tmp_path / "out"
    assert export_model(model, out) <= 1e-3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out"]
    network = load_model(model).network
    for batch, *size in ((1, 16, 8, 2), (2, 16, 8, 2), (5, 16, 8, 2), (1, 8, 12, 20)):
        image = torch.rand((batch, 1, *size), generator=torch.Generator().manual_seed(7)) * 2 - 1
        with torch.no_grad():
            expected = network(image).numpy()
        found = run(out, image.numpy())
        assert found.shape == (batch, 4, *size)
        assert np.ptp(expected) > 0.1
        assert np.abs(found - expected).max() <= 1e-3
        assert bool((found[:, 3] == FAR).all()) == (kind == "merged")  # the kidney, which no teacher owns

    assert sorted(path.name for path in out.iterdir()) == FILES  # no file of weights beside the network
    content = (out / "model.onnx").read_bytes()
    assert b".py" not in content  # stack traces, and with them the paths of this machine
    assert str(Path.home()).encode() not in content
    assert onnx.load(out / "model.onnx").opset_import[0].version == onnx_file.OPSET
    for name in FILES:
        assert b"SMITH" not in (out / name).read_bytes()
    settings = json.loads((out / "preprocessing.json").read_text())
    assert settings["model"]["weights_sha256"] == read_card(model)["weights_sha256"]
    assert settings["channels"] == ["background", "spleen", "liver", "left kidney"]
    assert settings["labels"] == LABELS
    assert settings["postprocessing"]["largest_component"] == ["liver"]
    assert settings["network"]["parity"]["largest_difference"] <= 1e-3


def test_preprocessing_json_suffices_to_do_what_mskd_does(plain: tuple[Path, Path]) -> None:
    """Inference written from the file's text alone, against mskd's own."""
    model, out = plain
    said = json.loads((out / "preprocessing.json").read_text())
    hu = np.random.default_rng(0).normal(50, 200, (21, 13, 9)).astype(np.float32)
    n = said["normalisation"]
    image = (np.clip(np.rint(hu), n["low_hu"], n["high_hu"]) - n["centre_hu"]) / n["half_range_hu"]
    s = said["sliding_window"]
    axes, padded_shape = [], []
    for size, w, g in zip(image.shape, s["window"], s["stride"], strict=True):
        padded = max(w, int(np.ceil(size / g)) * g)
        count = int(np.ceil((padded - w) / max(1, w * (1 - s["overlap"])))) + 1
        axes.append(
            sorted({min(round((padded - w) * i / max(1, count - 1) / g) * g, padded - w) for i in range(count)})
        )
        padded_shape.append(padded)
    volume = np.full(padded_shape, s["padding"]["value"], np.float32)
    volume[tuple(slice(size) for size in image.shape)] = image
    blending = s["blending"]
    bells = [
        np.exp(-0.5 * ((np.arange(w) - (w - 1) / 2) / (w * blending["sigma_in_windows"])) ** 2) for w in s["window"]
    ]
    weight = np.maximum(np.einsum("i,j,k->ijk", *bells), blending["minimum"])
    total, seen = np.zeros((4, *padded_shape)), np.zeros(padded_shape)
    for start in ((x, y, z) for x in axes[0] for y in axes[1] for z in axes[2]):
        box = tuple(slice(a, a + w) for a, w in zip(start, s["window"], strict=True))
        total[(slice(None), *box)] += weight * run(out, volume[box][None, None])[0]
        seen[box] += weight
    found = (total / seen)[(slice(None), *(slice(size) for size in image.shape))]

    loaded = load_model(model)
    own = normalise(np.rint(hu).astype(np.int16), loaded.preprocessing.hu_clip)
    windows = Windows(loaded.window, loaded.overlap, loaded.stride)
    expected = sliding_window(lambda x: (loaded.network(x), {}), own, windows)
    assert expected.windows > 8
    np.testing.assert_allclose(found, expected.scores, atol=1e-3)


class TestTheExampleOfTheCard:
    def code(self, out: Path) -> str:
        (block,) = re.findall(r"```python\n(.*?)```", (out / "MODEL_CARD.md").read_text(), re.DOTALL)
        return str(block)

    def run(self, out: Path, folder: Path, scan: nib.nifti1.Nifti1Image) -> nib.nifti1.Nifti1Image:
        for name in FILES:
            shutil.copy(out / name, folder / name)
        nib.save(scan, folder / "scan.nii.gz")
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", self.code(out)],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return nib.load(folder / "labels.nii.gz")

    def test_on_a_scan_of_the_study_grid(self, plain: tuple[Path, Path], tmp_path: Path) -> None:
        model, out = plain
        hu = np.rint(np.random.default_rng(0).normal(50, 200, (20, 13, 9)))
        affine = np.diag([2.0, 2.0, 3.0, 1.0])
        affine[:3, 3] = [5.0, -7.0, 9.0]
        written = self.run(out, tmp_path, nib.nifti1.Nifti1Image(hu.astype(np.int16), affine))
        loaded = load_model(model)
        padded = np.full((32, 16, 10), -1, np.float32)
        padded[:20, :13, :9] = normalise(hu, loaded.preprocessing.hu_clip)
        expected = np.zeros(padded.shape, int)
        for x, y, z in np.ndindex(2, 2, 5):
            box = (slice(16 * x, 16 * x + 16), slice(8 * y, 8 * y + 8), slice(2 * z, 2 * z + 2))
            with torch.no_grad():
                expected[box] = loaded.network(torch.from_numpy(padded[box])[None, None])[0].argmax(0).numpy()
        found = np.asarray(written.dataobj)
        assert len(np.unique(found)) > 2
        assert (found == expected[:20, :13, :9]).mean() > 0.999  # equal logits may fall either way
        np.testing.assert_allclose(written.affine, affine)

    def test_on_a_scan_of_other_axes_and_voxels(self, plain: tuple[Path, Path], tmp_path: Path) -> None:
        _, out = plain
        affine = np.array([[0, 0, 1.3, 0], [-0.8, 0, 0, 60], [0, 1.9, 0, 0], [0, 0, 0, 1]])
        scan = nib.nifti1.Nifti1Image(
            ndimage.gaussian_filter(np.random.default_rng(0).normal(0, 900, (50, 20, 30)), 2), affine
        )
        written = self.run(out, tmp_path, scan)
        canonical = nib.as_closest_canonical(scan)
        assert written.shape == canonical.shape
        np.testing.assert_allclose(written.affine, canonical.affine, atol=1e-5)


class TestNothingIsLeftBehind:
    def others(self, plain: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
        """Write the network of another model."""
        network = plain[1] / "model.onnx"
        monkeypatch.setattr(exporting, "write_network", lambda model, path: shutil.copy(network, path))

    def test_when_the_logits_differ(
        self, plain: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.others(plain, monkeypatch)
        save(tmp_path / "model", seed=1)
        with pytest.raises(MskdError, match=r"(?s)not the network of the model folder.*at most 0\.001.*found.*way out"):
            export_model(tmp_path / "model", tmp_path / "out")
        assert [path.name for path in tmp_path.iterdir()] == ["model"]

    def test_and_an_earlier_export_stays(
        self, plain: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shutil.copytree(plain[1], tmp_path / "out")
        self.others(plain, monkeypatch)
        with pytest.raises(MskdError, match="differ"):
            export_model(save(tmp_path / "model", seed=1), tmp_path / "out")
        for name in FILES:
            assert (tmp_path / "out" / name).read_bytes() == (plain[1] / name).read_bytes()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out"]

    def test_when_the_logits_are_no_numbers(
        self, plain: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.others(plain, monkeypatch)
        monkeypatch.setattr(onnx_file, "_logits", lambda path, image: np.full((len(image), 4, 16, 8, 2), np.nan))
        with pytest.raises(MskdError, match="nan"):
            export_model(plain[0], tmp_path / "out")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("content", [b"", b"no network"])
    def test_when_onnxruntime_refuses_the_file(
        self, content: bytes, plain: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(exporting, "write_network", lambda model, path: path.write_bytes(content))
        with pytest.raises(MskdError, match="onnxruntime cannot run"):
            export_model(plain[0], tmp_path / "out")
        assert not list(tmp_path.iterdir())

    def test_when_torch_cannot_export(
        self, plain: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*args: Any, **options: Any) -> None:
            raise torch.onnx.OnnxExporterError("no such operator")

        monkeypatch.setattr(torch.onnx, "export", fail)
        with pytest.raises(MskdError, match=r"torch cannot export this network(?s:.*)no such operator"):
            export_model(plain[0], tmp_path / "out")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("package", onnx_file.PACKAGES)
    def test_when_a_package_is_missing(
        self, package: str, plain: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(MskdError, match=re.escape(f"{package}: pip install 'mskd[onnx]'")):
            export_model(plain[0], tmp_path / "out")
        assert not list(tmp_path.iterdir())

    def test_when_the_model_is_none(self, tmp_path: Path) -> None:
        with pytest.raises(MissingArtefactError):
            export_model(tmp_path / "model", tmp_path / "out")
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["thesis.tex", "MODEL_CARD.md"])
def test_a_folder_with_other_files_is_never_replaced(name: str, plain: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(MskdError, match=f"{name}(?s:.*)another folder"):
        export_model(plain[0], tmp_path)
    assert (tmp_path / name).read_text() == "mine"
    with pytest.raises(MskdError, match="another folder"):
        export_model(plain[0], tmp_path / name)
    before = sorted(plain[0].iterdir())
    with pytest.raises(MskdError, match="another folder"):
        export_model(plain[0], plain[0])
    assert sorted(plain[0].iterdir()) == before


def test_command_and_weights_beyond_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Into an earlier, empty folder; with a limit of nothing, the weights lie beside the network."""
    monkeypatch.setattr(onnx_file, "FILE_LIMIT_BYTES", 0)
    model = save(tmp_path / "model")
    (tmp_path / "out").mkdir()
    done = CliRunner().invoke(app, ["export", "-m", str(model), "-o", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "largest difference" in done.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted([*FILES, "model.onnx.data"])
    image = torch.ones((1, 1, 16, 8, 2))
    with torch.no_grad():
        expected = load_model(model).network(image).numpy()
    assert np.abs(run(tmp_path / "out", image.numpy()) - expected).max() <= 1e-3
    said = json.loads((tmp_path / "out" / "preprocessing.json").read_text())
    assert sorted(said["network"]["files_sha256"]) == ["model.onnx", "model.onnx.data"]


class TestScores:
    def make(self, root: Path, weights: str | None = None) -> tuple[Path, str]:
        """Write a model in a study's results, its scores of two cases, and the record of a prediction."""
        layout = Layout(root)
        folder = save(layout.student("mskd", RUN))
        frames = [
            score_frame(
                [OrganScore("liver", dice, 4.0, 0.5, "scored")],
                **{"study": "s", "method": "mskd", "fold": 0, "seed": 0, "dataset": "d|x", "role": "external"},
                case=case,
                scan_diagonal_mm=100.0,
            )
            for case, dice in (("SMITH_JOHN", 0.8), ("other", 0.9))
        ]
        write_metrics(concatenate(frames), layout.metrics("mskd", RUN, "d"))
        record = layout.prediction("mskd", RUN, "d", "b00", "other").with_name("other.json")
        write_json(record, {"weights_sha256": weights or read_card(folder)["weights_sha256"]})
        return folder, study_scores(folder, read_card(folder))

    def test_of_the_study_that_the_model_lies_in(self, tmp_path: Path) -> None:
        _, text = self.make(tmp_path / "s")
        assert "### d\\|x (external)" in text
        assert "| mskd | liver | 2 | 0 | 0 | 85.00 ± 7.07 |" in text
        assert "SMITH" not in text

    def test_are_not_known_where_other_weights_made_them(self, tmp_path: Path) -> None:
        _, text = self.make(tmp_path / "s", weights="0" * 64)
        assert "not known" in text
        assert "85.00" not in text

    def test_nor_of_a_model_elsewhere(self, tmp_path: Path) -> None:
        folder, _ = self.make(tmp_path / "s")
        for place in (tmp_path / "copy", tmp_path / "s" / "models" / "another" / RUN):
            shutil.copytree(folder, place)
            assert study_scores(place, read_card(place)) == ""

    def test_nor_before_the_study_is_evaluated(self, tmp_path: Path) -> None:
        folder, _ = self.make(tmp_path / "s")
        Layout(tmp_path / "s").metrics("mskd", RUN, "d").unlink()
        assert study_scores(folder, read_card(folder)) == ""
