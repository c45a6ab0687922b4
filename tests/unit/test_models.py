"""Model folders: round trips, and folders that are not what they should be."""

from __future__ import annotations

import json
import pickletools
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from mskd.config.model import Network, Preprocessing
from mskd.errors import MissingArtefactError
from mskd.models import CARD, MODEL_CARD, WEIGHTS, load_model, read_card, save_model, stored_weights
from mskd.networks.merged import MergedTeachers
from mskd.networks.unet import UNet

PREPROCESSING = Preprocessing(spacing_mm=(2.0, 2.0, 3.0), hu_clip=(-100.0, 200.0))
LABELS = {"spleen": 1, "liver": 2}  # not in alphabetical order


def network(seed: int = 0, channels: int = 3) -> UNet:
    torch.manual_seed(seed)
    return UNet(Network(features=[2, 3], convolutions_per_level=1), channels)


def save(folder: Path, net: Any = None, key: str = "k") -> str:
    return save_model(
        folder,
        net or network(),
        labels=LABELS,
        preprocessing=PREPROCESSING,
        window=(8, 8, 4),
        overlap=0.25,
        stride=(2, 2, 2),
        key=key,
        provenance={"study": "s", "method": "mskd"},
    )


def image() -> torch.Tensor:
    return torch.rand((1, 1, 8, 8, 4), generator=torch.Generator().manual_seed(0))


def test_round_trip(tmp_path: Path) -> None:
    net = network()
    save(tmp_path / "m", net)
    model = load_model(tmp_path / "m")
    assert torch.equal(model.network(image()), net.eval()(image()))
    assert not model.network.training
    assert list(model.labels.items()) == [("spleen", 1), ("liver", 2)]  # in the order of the channels
    assert model.preprocessing == PREPROCESSING
    assert (model.window, model.overlap, model.stride) == ((8, 8, 4), 0.25, (2, 2, 2))
    assert model.card["provenance"] == {"study": "s", "method": "mskd"}
    assert model.card["parameters"] == sum(p.numel() for p in net.parameters())


def test_merged_teachers_round_trip(tmp_path: Path) -> None:
    merged = MergedTeachers({"b": network(1, 2), "a": network(2, 2)}, {"b": [1], "a": [2]}, 3)
    save(tmp_path / "m", merged)
    torch.testing.assert_close(load_model(tmp_path / "m").network(image()), merged.eval()(image()))


def test_equal_models_are_equal_bytes(tmp_path: Path) -> None:
    assert save(tmp_path / "a") == save(tmp_path / "b")
    for name in (CARD, WEIGHTS):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert save(tmp_path / "c", network(1)) != save(tmp_path / "a")


def test_no_pickle_anywhere(tmp_path: Path) -> None:
    save(tmp_path / "m")
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == [MODEL_CARD, CARD, WEIGHTS]
    json.loads((tmp_path / "m" / CARD).read_text())
    with safe_open(tmp_path / "m" / WEIGHTS, framework="pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float32}  # noqa: SIM118
    with pytest.raises(ValueError, match="opcode"):
        list(pickletools.genops((tmp_path / "m" / WEIGHTS).read_bytes()))


def test_other_files_in_the_folder_stay(tmp_path: Path) -> None:
    (tmp_path / "progress.png").write_text("x")
    save(tmp_path)
    assert (tmp_path / "progress.png").read_text() == "x"


def test_a_save_that_fails_leaves_no_valid_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path)
    monkeypatch.setattr("mskd.models.file_digest", lambda path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save(tmp_path, network(1))
    assert not (tmp_path / CARD).exists()


class TestWhatStands:
    def test_a_whole_model_under_its_key(self, tmp_path: Path) -> None:
        digest = save(tmp_path, key="k")
        assert stored_weights(tmp_path, "k") == digest
        assert stored_weights(tmp_path, "another") is None

    def test_anything_less_has_to_be_made_again(self, tmp_path: Path) -> None:
        assert stored_weights(tmp_path, "k") is None
        save(tmp_path, key="k")
        with (tmp_path / WEIGHTS).open("r+b") as stream:  # one bit
            stream.seek(-1, 2)
            last = stream.read(1)[0]
            stream.seek(-1, 2)
            stream.write(bytes([last ^ 1]))
        assert stored_weights(tmp_path, "k") is None
        (tmp_path / WEIGHTS).unlink()
        assert stored_weights(tmp_path, "k") is None

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "mskd-model-99"}'])
    def test_so_has_one_with_a_damaged_card(self, tmp_path: Path, text: str) -> None:
        save(tmp_path, key="k")
        (tmp_path / CARD).write_text(text)
        assert stored_weights(tmp_path, "k") is None


class TestFoldersThatAreNotModels:
    def refused(self, folder: Path, match: str) -> None:
        with pytest.raises(MissingArtefactError, match=match) as caught:
            load_model(folder)
        assert str(folder) in str(caught.value)
        assert "way out" in str(caught.value)

    def test_nothing_there(self, tmp_path: Path) -> None:
        self.refused(tmp_path / "nowhere", "No such file")

    def test_weights_missing_or_cut_off(self, tmp_path: Path) -> None:
        save(tmp_path)
        content = (tmp_path / WEIGHTS).read_bytes()
        (tmp_path / WEIGHTS).write_bytes(content[: len(content) // 2])
        self.refused(tmp_path, WEIGHTS)
        (tmp_path / WEIGHTS).write_bytes(b"")
        self.refused(tmp_path, WEIGHTS)
        (tmp_path / WEIGHTS).unlink()
        self.refused(tmp_path, WEIGHTS)

    def test_the_weights_of_another_model(self, tmp_path: Path) -> None:
        save(tmp_path / "a", network(1))
        save(tmp_path / "b", network(2))
        (tmp_path / "b" / WEIGHTS).replace(tmp_path / "a" / WEIGHTS)
        self.refused(tmp_path / "a", "not the file that model.json was written for")

    @pytest.mark.parametrize("text", ["", "not json", "[1]", "{}", '{"format": "mskd-model-2"}'])
    def test_a_card_that_is_none(self, tmp_path: Path, text: str) -> None:
        save(tmp_path)
        (tmp_path / CARD).write_text(text)
        self.refused(tmp_path, CARD)

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("network", None),
            ("network", {"kind": "unheard_of"}),
            ("network", {"kind": "unet", "settings": {"features": [2]}, "channels": 3}),
            ("network", {"kind": "unet", "settings": {"features": [2, 3], "convolutions_per_level": 1}, "channels": 5}),
            ("preprocessing", {"spacing_mm": [1, 1]}),
            ("labels", [1, 2]),
            ("window", [8]),
            ("overlap", "much"),
            ("stride", None),
        ],
    )
    def test_a_card_with_a_damaged_entry(self, tmp_path: Path, key: str, value: Any) -> None:
        save(tmp_path)
        card = read_card(tmp_path)
        (tmp_path / CARD).write_text(json.dumps({**card, key: value}))
        self.refused(tmp_path, "damaged or does not fit")
        del card[key]
        (tmp_path / CARD).write_text(json.dumps(card))
        self.refused(tmp_path, "damaged or does not fit")
