"""Synthetic datasets on disk: the public layouts, determinism, and what is made again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from mskd.config.phantom import Layout, PhantomDataset, Scanner
from mskd.datasets.listing import find_cases
from mskd.phantom.layouts import label_values, orient, phantom_case_files, write_case
from mskd.phantom.population import write_dataset
from mskd.phantom.tissue import ORGAN_VALUES

SCANNER = {"spacing_mm": (8.0, 8.0, 10.0), "slice_thickness_mm": 10.0}
LIVER, SPLEEN, KIDNEYS = ORGAN_VALUES["liver"], ORGAN_VALUES["spleen"], [2, 3]

# Layout: organs, image and label of the first case, axes, value in the label file → values in the full map.
LAYOUTS: dict[Layout, tuple[list[str], str, str, str, dict[int, list[int]]]] = {
    "msd": (["spleen"], "imagesTr/spleen_000.nii.gz", "labelsTr/spleen_000.nii.gz", "RAS", {1: [SPLEEN]}),
    "kits": (["kidney"], "case_00000/imaging.nii.gz", "case_00000/segmentation.nii.gz", "IPL", {1: KIDNEYS}),
    "lits": (["liver"], "volume-0.nii", "segmentation-0.nii", "LPS", {1: [LIVER]}),
    "btcv": (
        [],
        "RawData/Training/img/img0001.nii.gz",
        "RawData/Training/label/label0001.nii.gz",
        "LAS",
        {value: [value] for value in ORGAN_VALUES.values()},
    ),
}


def spec(layout: Layout = "msd", *, scanner: dict[str, Any] | None = None, **options: Any) -> PhantomDataset:
    plain = {"organs": LAYOUTS[layout][0], "task": "Task09_Spleen", "n_train": 1, "n_val": 0, "n_test": 1, "seed": 3}
    return PhantomDataset.model_validate(
        {"layout": layout, **plain, "scanner": {**SCANNER, **(scanner or {})}, **options}
    )


def read(path: Path) -> tuple[NDArray[Any], NDArray[np.float64]]:
    image = nib.load(path)
    return np.asarray(image.dataobj), np.asarray(image.affine)


def read_canonical(path: Path) -> NDArray[Any]:
    return np.asarray(nib.as_closest_canonical(nib.load(path)).dataobj)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the folder of a dataset in each layout."""
    roots = {}
    for layout in LAYOUTS:
        roots[layout] = tmp_path_factory.mktemp(layout)
        write_dataset(roots[layout], spec(layout), key="k")
    return roots


@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_are_those_of_the_layout(layout: Layout, written: dict[str, Path]) -> None:
    _, image_name, label_name, axes, own = LAYOUTS[layout]
    root = written[layout]
    case = phantom_case_files(root, spec(layout))[0]
    assert (case.image, case.label) == (root / image_name, root / label_name)
    image, affine = read(case.image)
    label, label_affine = read(case.label)
    withheld, withheld_affine = read(case.withheld)
    assert (image.dtype, label.dtype, withheld.dtype) == (np.int16, np.uint8, np.uint8)
    assert image.shape == label.shape == withheld.shape
    assert np.array_equal(affine, label_affine)
    assert np.array_equal(affine, withheld_affine)
    assert "".join(nib.aff2axcodes(affine)) == axes
    header = nib.load(case.image).header
    assert header.get_xyzt_units()[0] == "mm"
    assert np.allclose(header.get_qform(), header.get_sform(), atol=1e-4)
    assert sorted(header.get_zooms()) == [8.0, 8.0, 10.0]
    # The label file carries the dataset's own organs, the withheld one all.
    assert set(np.unique(withheld)) == {0, *ORGAN_VALUES.values()}
    assert set(np.unique(label)) == {0, *own}
    for value, full in own.items():
        assert np.array_equal(label == value, np.isin(withheld, full))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_adapter_finds_the_cases(layout: Layout, written: dict[str, Path], tmp_path: Path) -> None:
    root = tmp_path / "dataset"
    root.symlink_to(written[layout], target_is_directory=True)
    expected = phantom_case_files(root, spec(layout))
    if layout == "lits":
        # Its adapter also reads folders below the root; the withheld maps have the volumes' names.
        root = tmp_path / "public"
        root.mkdir()
        for file in written[layout].glob("*.nii"):
            (root / file.name).symlink_to(file)
        expected = phantom_case_files(root, spec(layout))
    found = find_cases(layout, root)
    assert [(case.name, case.image, case.labels[0].path) for case in found] == [
        (case.name, case.image, case.label) for case in expected
    ]


def test_splits_follow_the_numbers_of_cases() -> None:
    cases = phantom_case_files(Path("root"), spec(n_train=2, n_val=1, n_test=2))
    assert [case.split for case in cases] == ["train", "train", "val", "test", "test"]
    assert [case.index for case in cases] == [0, 1, 2, 3, 4]
    assert len({case.name for case in cases}) == 5


def test_dataset_json_lists_the_files(written: dict[str, Path]) -> None:
    root = written["msd"]
    content = json.loads((root / "dataset.json").read_text(encoding="utf-8"))
    assert content["labels"] == {"0": "background", "1": "spleen"}
    assert content["modality"] == {"0": "CT"}
    assert content["numTraining"] == len(content["training"]) == 2
    for entry in content["training"]:
        assert (root / entry["image"]).is_file()
        assert (root / entry["label"]).is_file()
    assert not (written["kits"] / "dataset.json").exists()


def test_label_values_by_organs() -> None:
    assert label_values(spec("msd", organs=["liver", "kidney"])) == {LIVER: 1, 2: 2, 3: 2}
    assert label_values(spec("msd", organs=["left_kidney", "spleen"])) == {3: 1, SPLEEN: 2}
    assert label_values(spec("btcv", organs=["kidney", "pancreas"])) == {2: 2, 3: 3, 11: 11}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_layout_mirrors_the_patient(layout: Layout, written: dict[str, Path]) -> None:
    labels, affine = read(phantom_case_files(written[layout], spec(layout))[0].withheld)

    def centre(value: int) -> NDArray[np.float64]:
        return np.asarray(affine @ [*(axis.mean() for axis in np.nonzero(labels == value)), 1])

    assert centre(LIVER)[0] > centre(SPLEEN)[0] + 50
    assert centre(ORGAN_VALUES["stomach"])[1] > centre(3)[1] + 30
    assert centre(LIVER)[2] > centre(2)[2]


@pytest.mark.parametrize("code", ["RAS", "LPS", "IPL", "SAR", "PIR"])
def test_orient_keeps_every_voxel_in_its_place(code: str) -> None:
    array = np.random.default_rng(0).integers(0, 1000, (4, 5, 6)).astype(np.int16)
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    affine[:3, 3] = [-10, 20, 30]
    stored, moved = orient(array, affine, code)
    assert "".join(nib.aff2axcodes(moved)) == code
    for voxel in np.ndindex(stored.shape):
        world = moved @ [*voxel, 1]
        back = np.rint(np.linalg.inv(affine) @ world).astype(int)[:3]
        assert stored[voxel] == array[tuple(back)]


def test_orientation_of_the_scanner_changes_the_file_alone(tmp_path: Path) -> None:
    usual = write_case(tmp_path / "usual", spec(), 0)
    other = write_case(tmp_path / "other", spec(scanner={"orientation": "LPS"}), 0)
    assert nib.aff2axcodes(nib.load(other.image).affine) == ("L", "P", "S")
    assert np.array_equal(read_canonical(usual.image), read_canonical(other.image))
    assert np.array_equal(read_canonical(usual.label), read_canonical(other.label))


def test_equal_seeds_give_equal_bytes(tmp_path: Path) -> None:
    first = write_dataset(tmp_path / "first", spec(), key="k")
    # More training cases: the cases that both have stay as they are, whatever their split.
    second = write_dataset(tmp_path / "second", spec(n_train=2), key="k")
    assert len(second) == 3
    assert {name: second[name] for name in first} == first
    assert len({digests["image"] for digests in second.values()}) == 3


@pytest.mark.parametrize("change", [{"seed": 4}, {"task": "Task03_Liver"}, {"deformation": 0.5}])
def test_other_populations_differ(change: dict[str, Any], written: dict[str, Path], tmp_path: Path) -> None:
    other = write_case(tmp_path, spec(**change), 0)
    same = phantom_case_files(written["msd"], spec())[0]
    labels = read(other.withheld)[0], read(same.withheld)[0]
    assert (labels[0] != labels[1])[(labels[0] > 0) | (labels[1] > 0)].mean() > 0.05


def test_a_scanner_sees_the_same_patients_as_another(written: dict[str, Path], tmp_path: Path) -> None:
    other = write_case(tmp_path, spec(scanner={"phase": "unenhanced", "noise_hu": 30.0}), 0)
    same = phantom_case_files(written["msd"], spec())[0]
    assert np.array_equal(read(other.withheld)[0], read(same.withheld)[0])
    liver = read(same.withheld)[0] == LIVER
    assert read(same.image)[0][liver].mean() - read(other.image)[0][liver].mean() > 30


def test_a_case_that_stands_is_kept_and_a_broken_one_made_again(tmp_path: Path) -> None:
    three = spec(n_val=1)
    first = write_dataset(tmp_path, three, key="k")
    deleted, cut, kept = phantom_case_files(tmp_path, three)
    deleted.label.unlink()
    cut.image.write_bytes(cut.image.read_bytes()[:1000])
    before = kept.image.stat().st_mtime_ns
    seen = []
    assert write_dataset(tmp_path, three, key="k", progress=lambda case: seen.append(case.name)) == first
    assert seen == list(first)
    assert deleted.label.is_file()
    assert read(cut.image)[0].shape == read(kept.image)[0].shape
    assert kept.image.stat().st_mtime_ns == before


def test_another_key_makes_every_case_again(tmp_path: Path) -> None:
    only = {"n_test": 0}
    write_dataset(tmp_path, spec(**only), key="k")
    case = phantom_case_files(tmp_path, spec(**only))[0]
    before = case.image.stat().st_mtime_ns
    write_dataset(tmp_path, spec(**only, scanner={"hu_offset": 100.0}), key="other")
    assert case.image.stat().st_mtime_ns > before
    assert not list(tmp_path.rglob("*.part-*"))


def test_presets_of_a_scanner_reach_the_file(tmp_path: Path) -> None:
    scanner = {"hu_slope": 0.5, "hu_offset": 100.0, "noise_hu": 0.0, "fov_mm": (240.0, 240.0, 100.0)}
    usual = write_case(tmp_path / "a", spec(scanner={"noise_hu": 0.0, "fov_mm": (240.0, 240.0, 100.0)}), 0)
    tilted = write_case(tmp_path / "b", spec(scanner=scanner), 0)
    a, b = read(usual.image)[0].astype(float), read(tilted.image)[0].astype(float)
    assert a.shape == (30, 30, 10)
    soft = (a > -200) & (a < 200)
    assert np.abs(b[soft] - (0.5 * a[soft] + 100)).max() <= 1


def test_the_scanner_is_checked() -> None:
    with pytest.raises(ValueError, match="write one letter of each of R/L, A/P, S/I"):
        Scanner(orientation="RRS")
    with pytest.raises(ValueError, match="must be positive"):
        Scanner(spacing_mm=(1.0, 0.0, 1.0))
