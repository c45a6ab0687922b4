"""The cases of a study: which there are, in which block and split, without opening a file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mskd.cases import by_block, check_study_cases, data_root, fold_of_run, held_out, list_cases, seed_of_run
from mskd.config.loading import parse_study
from mskd.config.study import Study
from mskd.datasets.blocks import block_names, block_of
from mskd.datasets.stated_splits import read_builtin
from mskd.errors import ConfigError, DataError


def write_msd(folder: Path, names: list[str]) -> None:
    """Write empty files in the MSD layout: nothing here opens them."""
    for name in names:
        for kind in ("imagesTr", "labelsTr"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            (folder / kind / f"{name}.nii.gz").touch()


def study_of(tmp_path: Path, *, runs: dict[str, Any] | None = None, **section: Any) -> Study:
    keys = {"path": str(tmp_path / "data"), "label_map": {1: "liver"}, **section}
    datasets = {"d": keys}
    if section.get("role") == "external":
        datasets["train"] = {"path": "/nowhere", "label_map": {1: "liver"}}
    return parse_study({"results": str(tmp_path / "results"), "datasets": datasets, "runs": runs or {}})


def names(prefix: str, numbers: range) -> list[str]:
    return [f"{prefix}_{number}" for number in numbers]


def placed(study: Study, fold: int = 0) -> dict[str, tuple[str, str]]:
    """Return case → (block, split)."""
    return {case.name: (case.block, case.split) for case in list_cases(study, "d", fold)}


@pytest.mark.parametrize(
    ("layout", "first", "image"),
    [
        ("msd", "liver_000", "imagesTr/liver_000.nii.gz"),
        ("kits", "case_00000", "case_00000/imaging.nii.gz"),
        ("lits", "volume-0", "volume-0.nii"),
        ("btcv", "img0001", "RawData/Training/img/img0001.nii.gz"),
    ],
)
def test_phantoms_are_known_before_they_are_made(tmp_path: Path, layout: str, first: str, image: str) -> None:
    phantom = {"layout": layout, "n_train": 3, "n_val": 1, "n_test": 2}
    study = study_of(tmp_path, path=None, phantom=phantom, blocks=2)
    cases = list_cases(study, "d")
    assert [case.split for case in cases] == ["train"] * 3 + ["val"] + ["test"] * 2
    root = tmp_path / "results" / "study" / "phantoms" / "d"
    assert data_root(study, "d") == root
    assert (cases[0].name, cases[0].id, cases[0].image) == (first, f"d/{first}", root / image)
    assert all(root in label.path.parents and label.organ is None for case in cases for label in case.labels)
    assert all(case.withheld is None for case in cases)
    assert not (tmp_path / "results").exists()


def test_more_phantoms_move_no_other_to_another_block(tmp_path: Path) -> None:
    few = placed(study_of(tmp_path, path=None, phantom={"n_train": 4, "n_val": 0, "n_test": 0}, blocks=5))
    many = placed(study_of(tmp_path, path=None, phantom={"n_train": 40, "n_val": 0, "n_test": 0}, blocks=5))
    assert {name: many[name] for name in few} == few
    assert {block for block, _ in many.values()} == set(block_names(5))


def test_cases_on_disk(tmp_path: Path) -> None:
    write_msd(tmp_path / "data", names("liver", range(12)))
    study = study_of(tmp_path, blocks=3)
    cases = list_cases(study, "d")
    assert [case.name for case in cases] == names("liver", range(12))  # natural order
    assert cases[2].image == tmp_path / "data" / "imagesTr" / "liver_2.nii.gz"
    assert [label.path for label in cases[2].labels] == [tmp_path / "data" / "labelsTr" / "liver_2.nii.gz"]
    assert all(case.block == block_of(case.id, 3) for case in cases)


def test_a_new_case_moves_no_other(tmp_path: Path) -> None:
    write_msd(tmp_path / "data", names("liver", range(60)))
    study = study_of(tmp_path, blocks=7)
    before = placed(study)
    write_msd(tmp_path / "data", ["liver_1000", "a_first"])
    after = placed(study)
    assert set(after) - set(before) == {"liver_1000", "a_first"}
    assert {name: after[name] for name in before} == before
    assert {split for _, split in before.values()} == {"train", "val", "test"}


def test_another_dataset_moves_no_case(tmp_path: Path) -> None:
    write_msd(tmp_path / "data", names("liver", range(30)))
    before = placed(study_of(tmp_path))
    more = parse_study(
        {
            "organs": ["spleen", "liver"],
            "datasets": {
                "a_new_one": {"path": "/nowhere", "label_map": {1: "spleen"}},
                "d": {"path": str(tmp_path / "data"), "label_map": {1: "liver"}},
            },
        }
    )
    assert placed(more) == before


def test_a_teacher_that_exists_already_is_not_cross_fitted(tmp_path: Path) -> None:
    """Only those of the study are counted for parts; it has no dataset that it learns from."""
    write_msd(tmp_path / "data", names("liver", range(12)))
    seen = {"kind": "labels", "path": str(tmp_path / "seen"), "classes": {1: "liver"}}
    study = parse_study(
        {
            "results": str(tmp_path / "results"),
            "datasets": {"d": {"path": str(tmp_path / "data"), "label_map": {1: "liver"}}},
            "teachers": {"d": {}, "given": seen},
            "methods": {"mskd": {"distillation": {"targets": "cross_fitted"}}},
        }
    )
    assert check_study_cases(study)["d"]["train"] > 1
    given_alone = study.model_copy(update={"teachers": {"given": study.teachers["given"]}})
    assert check_study_cases(given_alone) == check_study_cases(study)


def test_external_datasets_are_all_test(tmp_path: Path) -> None:
    write_msd(tmp_path / "data", names("liver", range(5)))
    study = study_of(tmp_path, role="external", split={"kind": "all", "into": "train"})
    assert {split for _, split in placed(study).values()} == {"test"}
    folded = study_of(tmp_path, role="external", runs={"folds": 3})
    assert {split for _, split in placed(folded, fold=1).values()} == {"test"}


def test_folds_test_each_case_once(tmp_path: Path) -> None:
    write_msd(tmp_path / "data", names("liver", range(60)))
    study = study_of(tmp_path, runs={"folds": 4})
    tested = Counter(name for fold in range(4) for name, (_, split) in placed(study, fold).items() if split == "test")
    assert tested == Counter(names("liver", range(60)))
    assert len({tuple(block for block, _ in placed(study, fold).values()) for fold in range(4)}) == 1


def test_split_file(tmp_path: Path) -> None:
    write_msd(tmp_path / "data", ["a", "b", "c"])
    table = tmp_path / "split.tsv"
    table.write_text("case\tsplit\na\ttest\nb\ttrain\nc\tval\ngone\ttrain\n")
    split = {"kind": "file", "path": str(table)}
    with pytest.raises(DataError, match=r"names that are no case: gone[\s\S]*allow_missing: true"):
        list_cases(study_of(tmp_path, split=split), "d")
    cases = list_cases(study_of(tmp_path, split={**split, "allow_missing": True}), "d")
    assert {case.name: case.split for case in cases} == {"a": "test", "b": "train", "c": "val"}


def test_missing_split_file(tmp_path: Path) -> None:
    write_msd(tmp_path / "data", ["a"])
    with pytest.raises(DataError, match=r"gone\.tsv"):
        list_cases(study_of(tmp_path, split={"kind": "file", "path": str(tmp_path / "gone.tsv")}), "d")


def test_builtin_split_of_a_part_of_the_download(tmp_path: Path) -> None:
    table = read_builtin("spleen")
    there = sorted(table)[:20]
    write_msd(tmp_path / "data", [f"spleen_{number}" for number in there])
    split = {"kind": "builtin", "name": "spleen", "val_fraction": 0}
    with pytest.raises(ConfigError, match=r"21 are not there[\s\S]*allow_missing: true"):
        list_cases(study_of(tmp_path, split=split), "d")
    cases = list_cases(study_of(tmp_path, split={**split, "allow_missing": True}), "d")
    assert {case.name: case.split for case in cases} == {f"spleen_{n}": table[n] for n in there}


def test_builtin_split_is_found_by_the_name_of_the_dataset(tmp_path: Path) -> None:
    numbers = read_builtin("spleen")
    write_msd(tmp_path / "data", [f"spleen_{number}" for number in numbers])
    data = {"spleen": {"path": str(tmp_path / "data"), "label_map": {1: "liver"}, "split": {"kind": "builtin"}}}
    counts = Counter(case.split for case in list_cases(parse_study({"datasets": data}), "spleen"))
    assert (counts["test"], counts["train"] + counts["val"]) == (9, 32)


def test_withheld_labels_lie_beside_the_data(tmp_path: Path) -> None:
    write_msd(tmp_path / "data", ["a"])
    split = {"kind": "all", "into": "train"}
    without = study_of(tmp_path, split=split)
    with_them = study_of(tmp_path, split=split, withheld=True, withheld_label_map={1: "liver"})
    assert [case.withheld for case in list_cases(without, "d")] == [None]
    assert [case.withheld for case in list_cases(with_them, "d")] == [tmp_path / "data" / "withheld" / "a.nii.gz"]


def test_structures_are_separate_files(tmp_path: Path) -> None:
    for name in ("kidney_left", "kidney_right", "liver"):
        path = tmp_path / "data" / "s0001" / "segmentations" / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "data" / "s0001" / "ct.nii.gz").touch()
    study = study_of(
        tmp_path,
        adapter="totalsegmentator",
        structures={"liver": "liver"},
        label_map={},
        options={"structures": "liver,kidney_left"},
        split={"kind": "all", "into": "train"},
    )
    [case] = list_cases(study, "d")
    assert {label.organ for label in case.labels} == {"liver", "kidney_left"}


def test_missing_folder_names_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data[\s\S]*way out"):
        list_cases(study_of(tmp_path), "d")


def test_by_block_leaves_out_empty_blocks_and_keeps_order(tmp_path: Path) -> None:
    write_msd(tmp_path / "data", names("liver", range(12)))
    cases = list_cases(study_of(tmp_path, blocks=50), "d")
    blocks = by_block(cases)
    assert list(blocks) == sorted({case.block for case in cases})
    assert sorted(case.id for held in blocks.values() for case in held) == sorted(case.id for case in cases)
    for block, held in blocks.items():
        assert [case for case in cases if case.block == block] == held
    assert by_block([]) == {}


def test_runs_are_read_from_their_names(tmp_path: Path) -> None:
    study = study_of(tmp_path, runs={"seeds": [0, 12], "folds": 11})
    pairs = [(fold_of_run(run), seed_of_run(run)) for run in study.run_names]
    assert pairs == [(fold, seed) for fold in range(11) for seed in (0, 12)]


@pytest.mark.parametrize("n_cases", [2, 3, 7])
def test_parts_leave_every_training_case_out_once_and_differ_by_one_case_at_most(tmp_path: Path, n_cases: int) -> None:
    phantom = {"n_train": n_cases, "n_val": 1, "n_test": 2}
    study = study_of(tmp_path, runs={"parts": 3}, path=None, phantom=phantom)
    cases = list_cases(study, "d")
    parts = [held_out(study, run, cases) for run in study.part_runs("fold0-seed0")]
    assert sorted(case.name for part in parts for case in part) == sorted(c.name for c in cases if c.split == "train")
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert held_out(study, "fold0-seed0", cases) == []
    assert (fold_of_run("fold3-seed7-part1"), seed_of_run("fold3-seed7-part1")) == (3, 7)


def test_counts_of_a_study(tmp_path: Path) -> None:
    phantom = {"n_train": 3, "n_val": 1, "n_test": 2}
    assert check_study_cases(study_of(tmp_path, path=None, phantom=phantom)) == {"d": {"train": 3, "val": 1, "test": 2}}
    write_msd(tmp_path / "data", ["a"])
    study = study_of(tmp_path, split={"kind": "all", "into": "test"})
    with pytest.raises(ConfigError, match=r"datasets\.d has no training case[\s\S]*split: \{kind: hash"):
        check_study_cases(study)
