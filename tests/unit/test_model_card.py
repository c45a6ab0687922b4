"""Model cards: what they warn of, what they never say, and model folders that follow their study."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from mskd.cases import Case
from mskd.config.loading import parse_study
from mskd.config.model import Network, Preprocessing
from mskd.config.study import Study
from mskd.layout import Layout
from mskd.manifest import read_manifest
from mskd.model_card import FILE, model_card, training_data
from mskd.models import CARD, WEIGHTS, load_model, read_card, save_model, update_card
from mskd.networks.unet import UNet
from mskd.provenance import code_commit
from mskd.stages.predict import predict
from mskd.stages.prepare import prepare
from mskd.stages.train_student import train_student
from mskd.stages.train_teacher import train_teacher

RUN = "fold0-seed0"
CPU = torch.device("cpu")


def record(**changes: Any) -> dict[str, Any]:
    """What a model card says of a dataset."""
    made = {
        **{"dataset": "abdomen", "adapter": "totalsegmentator", "title": "TotalSegmentator v2", "synthetic": False},
        **{"licence": "CC BY 4.0", "non_commercial": False, "organs": ["liver"], "train": 17, "val": 3},
    }
    return {**made, **changes}


def card(*data: dict[str, Any], labels: dict[str, int] | None = None, **provenance: Any) -> dict[str, Any]:
    """The content of a model.json."""
    return {
        **{"key": "0123abc", "weights_sha256": "f" * 64, "parameters": 1234567, "labels": labels or {"liver": 1}},
        "network": UNet(Network(features=[2, 3], convolutions_per_level=1), 2).describe(),
        "preprocessing": Preprocessing(spacing_mm=(1.5, 1.5, 3.0), hu_clip=(-160, 240)).model_dump(mode="json"),
        **{"window": [96, 96, 48], "overlap": 0.5, "stride": [2, 2, 2], "largest_component": ["liver"]},
        "provenance": {"study": "s", "method": "mskd", "run": RUN, "seed": 0, "data": list(data), **provenance},
        "made_by": {"mskd": "0.1.0", "torch": "2.13.0"},
        "commit": "c0ffee",
    }


def top(text: str) -> str:
    """The lines before the first section."""
    return text.partition("\n## ")[0]


class TestWarnings:
    def test_not_for_clinical_use_comes_first(self) -> None:
        assert model_card(card(record())).splitlines()[2].startswith("**Not for clinical use.**")

    def test_open_data_need_no_other(self) -> None:
        assert top(model_card(card(record()))).count("**") == 2

    def test_data_that_exclude_commercial_use(self) -> None:
        kits = record(dataset="kidneys", licence="CC BY-NC-SA 4.0", non_commercial=True)
        text = model_card(card(record(), kits))
        assert "**Not for commercial use.**" in top(text)
        assert "excludes commercial use, or does not clearly allow it: kidneys (CC BY-NC-SA 4.0)." in top(text)
        assert "abdomen" not in top(text)
        assert "| CC BY-NC-SA 4.0 | excluded, or not clearly allowed | 17 | 3 |" in text

    def test_data_of_an_unknown_licence(self) -> None:
        text = model_card(card(record(dataset="ours", licence="")))
        assert "**Licence of some data not known**: ours." in top(text)
        assert "Not for commercial use" not in text

    def test_a_model_that_does_not_say_what_it_was_trained_on(self) -> None:
        old = card()
        del old["provenance"]["data"], old["commit"], old["largest_component"]
        text = model_card(old)
        assert "**Licence of the data: not known.**" in top(text)
        assert "Post-processing: none." in text
        assert "Commit of mskd: not known." in text

    def test_synthetic_scans_alone(self) -> None:
        phantom = record(synthetic=True, licence="synthetic, made in code")
        assert "synthetic scans alone" in model_card(card(phantom))
        assert "synthetic scans alone" not in model_card(card(phantom, record()))


class TestContent:
    def test_what_it_says(self) -> None:
        training = {
            **{"steps": 20000, "batch_size": 2, "patch_size": [96, 96, 48], "optimiser": "sgd", "keep": "best"},
            **{"learning_rate": 0.01, "schedule": "poly"},
        }
        scores = {"val_dice": 0.875, "val_dice_liver": 0.875, "step": 19000}
        text = model_card(card(record(), training=training, validation=scores, code="beef", kind="mskd"))
        for said in (
            *("# Model card: s, mskd, fold0-seed0", "| background | 0 |\n| liver | 1 |", "1.5 × 1.5 × 3 mm"),
            *("-160 … 240 HU", "96 × 96 × 48 voxels, overlap 0.5", "largest connected component is kept of liver"),
            *("channels per level: 2, 3.", "Parameters: 1,234,567.", "20,000 steps of 2 patches", "learning rate 0.01"),
            *("at step 19000: mean 0.875, liver 0.875.", "no estimate for new scans", "Commit of mskd: c0ffee."),
            *(
                "code: beef",
                "mskd 0.1.0, torch 2.13.0",
                "SHA-256 of the weights: ffff",
                "Scores on test cases: not known",
            ),
        ):
            assert said in text, said
        assert "chosen by it" not in model_card(card(training={**training, "keep": "last"}, validation=scores))

    def test_scores_take_the_place_of_not_known(self) -> None:
        text = model_card(card(record()), scores="| liver | 0.9 |")
        assert "| liver | 0.9 |" in text
        assert "Scores on test cases: not known" not in text

    def test_names_are_text(self) -> None:
        nasty = "a|b\n## c <script>alert(1)</script> [x](http://y) *z* `q`"
        text = model_card(
            card(
                record(dataset=nasty, title=nasty, licence=nasty, organs=[nasty], non_commercial=True),
                labels={nasty: 1},
                study=nasty,
                method=nasty,
                validation={"val_dice_" + nasty: 0.5},
            )
        )
        assert "<script>" not in text
        assert "](http" not in re.sub(r"\\.", "", text)
        assert [line for line in text.splitlines() if line.startswith("## c")] == []
        for line in text.splitlines():
            if "script" in line and line.startswith("|"):
                assert re.sub(r"\\.", "", line).count("|") in (3, 8)  # the cells of the tables of labels and of data

    def test_no_case_is_named(self) -> None:
        text = model_card(card(record(), inputs={"train": {"abdomen/SMITH_JOHN": "1"}}))
        assert "SMITH" not in text


def study(root: Path, **changes: Any) -> Study:
    """A dataset in the layout of KiTS (non-commercial), a table of files (no licence), and one made in code."""
    datasets = {
        "kidneys": {"adapter": "kits", "path": str(root / "kits"), "label_map": {1: "kidney"}, "blocks": 1},
        "ours": {"adapter": "table", "path": "/data/cases.csv", "label_map": {1: "liver"}},
        "made": {
            **{"adapter": "msd", "label_map": {1: "liver"}, "withheld": True, "withheld_label_map": {1: "kidney"}},
            "phantom": {"layout": "msd", "task": "Task03_Liver", "organs": ["liver"]},
        },
    }
    data = {"study": "s", "organs": ["liver", "kidney"], "datasets": datasets, "results": str(root / "results")}
    return parse_study({**data, "methods": {"individual": {}}, "statistics": {"reference": "individual"}, **changes})


def test_what_is_recorded_of_the_data(tmp_path: Path) -> None:
    made = study(tmp_path)
    splits = {"made": ["train"] * 3 + ["val"], "kidneys": ["train", "train", "val"]}
    cases = [
        Case(name, f"SMITH_{i}", "b00", Path("x"), (), None, split)  # type: ignore[arg-type]
        for name, of in splits.items()
        for i, split in enumerate(of)
    ]
    kidneys, phantoms = training_data(made, cases, made.organs)
    assert (kidneys["dataset"], kidneys["licence"], kidneys["non_commercial"]) == ("kidneys", "CC BY-NC-SA 4.0", True)
    assert (kidneys["train"], kidneys["val"], kidneys["organs"]) == (2, 1, ["kidney"])
    assert (phantoms["synthetic"], phantoms["non_commercial"], phantoms["organs"]) == (True, False, ["liver"])
    assert phantoms["licence"] == "synthetic, made in code"
    assert "SMITH" not in json.dumps([kidneys, phantoms])
    (_, withheld) = training_data(made, cases, made.organs, withheld=True)
    assert withheld["organs"] == ["liver", "kidney"]
    (table,) = training_data(made, [Case("ours", "c", "b00", Path("x"), (), None, "train")], ["liver"])
    assert (table["licence"], table["non_commercial"], table["synthetic"]) == ("", False, False)


class TestFoldersFollowTheirStudy:
    def save(self, folder: Path, **changes: Any) -> None:
        save_model(
            folder,
            UNet(Network(features=[2, 3], convolutions_per_level=1), 3),
            labels={"liver": 1, "kidney": 2},
            preprocessing=Preprocessing(),
            **{"window": (8, 8, 8), "overlap": 0.5, "stride": (2, 2, 2), "key": "k", "provenance": {"study": "s"}},
            **changes,
        )

    def test_a_model_keeps_the_organs_that_it_has(self, tmp_path: Path) -> None:
        self.save(tmp_path, largest_component=["spleen", "kidney"])
        assert load_model(tmp_path).largest_component == ("kidney",)
        assert "component is kept of kidney" in (tmp_path / FILE).read_text()

    def test_an_update_changes_nothing_else(self, tmp_path: Path) -> None:
        self.save(tmp_path)
        before, weights = read_card(tmp_path), (tmp_path / WEIGHTS).stat()
        update_card(tmp_path, largest_component=["liver", "spleen"], data=[record()])
        assert load_model(tmp_path).largest_component == ("liver",)
        after = read_card(tmp_path)
        assert after["provenance"] == {"study": "s", "data": [record()]}
        assert {**after, "largest_component": [], "provenance": {"study": "s"}} == before
        assert (tmp_path / WEIGHTS).stat() == weights
        text = (tmp_path / FILE).read_text()
        assert "component is kept of liver" in text
        assert "TotalSegmentator v2" in text

    def test_an_update_with_nothing_new_writes_nothing(self, tmp_path: Path) -> None:
        self.save(tmp_path, largest_component=["liver"])
        before = {path: path.stat().st_ino for path in tmp_path.iterdir()}
        update_card(tmp_path, largest_component=["liver"])
        assert {path: path.stat().st_ino for path in tmp_path.iterdir()} == before

    @pytest.mark.parametrize("value", [["spleen"], [1], 3, None])
    def test_a_card_that_names_other_organs_is_refused(self, value: Any, tmp_path: Path) -> None:
        self.save(tmp_path)
        (tmp_path / CARD).write_text(json.dumps({**read_card(tmp_path), "largest_component": value}))
        with pytest.raises(Exception, match="damaged or does not fit"):
            load_model(tmp_path)

    def test_through_the_stages(self, tmp_path: Path) -> None:
        """Trained, predicted; then `evaluation.largest_component` changes: predicted again, nothing trained again."""
        for i in range(3):
            folder = tmp_path / "kits" / f"case_{i:05d}"
            folder.mkdir(parents=True)
            label = np.zeros((12, 12, 12), np.uint8)
            label[3:7, 3:7, 3:7] = 1
            for name, values in (("imaging", label.astype(np.int16) * 100), ("segmentation", label)):
                nib.save(nib.nifti1.Nifti1Image(values, np.diag([3.0, 3.0, 3.0, 1])), folder / f"{name}.nii.gz")
        (tmp_path / "splits.csv").write_text("case,split\ncase_00000,train\ncase_00001,val\ncase_00002,test\n")

        def made(*kept: str) -> Study:
            full = study(tmp_path).model_dump(mode="json", exclude_unset=True)["datasets"]["kidneys"]
            return study(
                tmp_path,
                organs=["kidney"],
                datasets={"kidneys": {**full, "split": {"kind": "file", "path": str(tmp_path / "splits.csv")}}},
                preprocessing={"spacing_mm": [3, 3, 3], "crop_to_body": False},
                network={"features": [2, 3], "convolutions_per_level": 1},
                cache={"taps": []},
                training={"steps": 1, "batch_size": 1, "patch_size": [8, 8, 8], "threads": 1},
                inference={"threads": 1},
                evaluation={"largest_component": list(kept)},
            )

        first, layout = made(), Layout(tmp_path / "results" / "s")
        student, teacher = layout.student("individual", RUN), layout.teacher("kidneys", RUN)
        prepare(first, "kidneys", "b00")
        train_teacher(first, "kidneys", RUN, CPU)
        train_student(first, "individual", RUN, CPU)
        predict(first, "individual", RUN, "kidneys", "b00", CPU)
        for folder in (student, teacher):
            (data,) = read_card(folder)["provenance"]["data"]
            assert (data["dataset"], data["train"], data["val"], data["organs"]) == ("kidneys", 1, 1, ["kidney"])
            text = (folder / FILE).read_text()
            assert "**Not for commercial use.**" in top(text)
            assert "case_0000" not in text
            assert load_model(folder).largest_component == ()
        assert "put together from the teachers' networks" in (student / FILE).read_text()
        manifest = layout.manifest("train_student", "individual", RUN)
        trained = manifest.read_bytes()
        predicted = read_manifest(layout.manifest("predict", "individual", RUN, "kidneys", "b00"))

        then = made("kidney")
        predict(then, "individual", RUN, "kidneys", "b00", CPU)
        assert read_manifest(layout.manifest("predict", "individual", RUN, "kidneys", "b00")) != predicted
        assert load_model(student).largest_component == ("kidney",)
        weights = {folder: (folder / WEIGHTS).stat() for folder in (student, teacher)}
        train_teacher(then, "kidneys", RUN, CPU)
        train_student(then, "individual", RUN, CPU)
        assert {folder: (folder / WEIGHTS).stat() for folder in (student, teacher)} == weights
        assert manifest.read_bytes() == trained
        assert load_model(teacher).largest_component == ("kidney",)


def test_the_commit_is_one_of_this_checkout_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code_commit.cache_clear()
    found = code_commit()
    checkout = (Path(__file__).parents[2] / ".git").exists()
    assert found is None or (checkout and re.fullmatch(r"[0-9a-f]{40}(-dirty)?", found))
    code_commit.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))  # no git
    assert code_commit() is None
    code_commit.cache_clear()
