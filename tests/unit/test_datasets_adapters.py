"""Every adapter on files in exactly its layout, with the dirt that downloads have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mskd.datasets.case import LabelFile, RawCase
from mskd.datasets.collection import ListingError
from mskd.datasets.listing import find_cases
from mskd.errors import ConfigError, DataError


def write(root: Path, *names: str) -> Path:
    """Make empty files, and the dirt that macOS and Windows leave beside each."""
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        for dirt in (f"._{file.name}", ".DS_Store", "Thumbs.db"):
            (file.parent / dirt).touch()
    return root


def write_json(root: Path, content: object) -> None:
    (root / "dataset.json").write_text(json.dumps(content))


def names(cases: list[RawCase] | tuple[RawCase, ...]) -> list[str]:
    return [case.name for case in cases]


def faults(adapter: str, root: Path, options: dict[str, str] | None = None) -> ListingError:
    with pytest.raises(ListingError) as caught:
        find_cases(adapter, root, options)
    return caught.value


def msd(root: Path, *cases: str) -> Path:
    for case in cases:
        write(root, f"imagesTr/{case}.nii.gz", f"labelsTr/{case}.nii.gz")
    write(root, "imagesTs/liver_900.nii.gz")
    entries = [{"image": f"./imagesTr/{c}.nii.gz", "label": f"./labelsTr/{c}.nii.gz"} for c in cases]
    write_json(root, {"name": "Liver", "training": entries, "test": ["./imagesTs/liver_900.nii.gz"]})
    return root


class TestMsd:
    def test_list(self, tmp_path: Path) -> None:
        root = msd(tmp_path, "liver_10", "liver_2")
        cases = find_cases("msd", root)
        assert names(cases) == ["liver_2", "liver_10"]
        assert cases[0].image == root / "imagesTr/liver_2.nii.gz"
        assert cases[0].labels == (LabelFile(root / "labelsTr/liver_2.nii.gz"),)
        assert cases[0].native_split is None

    def test_folder_without_json_or_with_an_outer_folder(self, tmp_path: Path) -> None:
        root = msd(tmp_path / "outer" / "Task03_Liver", "liver_2")
        (root / "dataset.json").unlink()
        assert names(find_cases("msd", root)) == names(find_cases("msd", root.parent)) == ["liver_2"]

    def test_empty_list_falls_back_to_folders(self, tmp_path: Path) -> None:
        root = msd(tmp_path, "a")
        write_json(root, {"training": []})
        assert names(find_cases("msd", root)) == ["a"]

    def test_image_outside_the_list(self, tmp_path: Path) -> None:
        root = write(msd(tmp_path, "a"), "imagesTr/b.nii.gz", "labelsTr/b.nii.gz")
        error = faults("msd", root)
        assert "imagesTr/b.nii.gz" in str(error)
        assert "cases_from" in str(error)
        assert names(find_cases("msd", root, {"cases_from": "folder"})) == ["a", "b"]
        assert names(find_cases("msd", root, {"cases_from": "json"})) == ["a"]

    @pytest.mark.parametrize("source", ["json", "folder"])
    def test_every_missing_file_is_named(self, tmp_path: Path, source: str) -> None:
        root = msd(tmp_path, "a", "b", "c")
        (root / "labelsTr/a.nii.gz").unlink()
        (root / "imagesTr/b.nii.gz").unlink()
        error = faults("msd", root, {"cases_from": source})
        assert [problem.case for problem in error.problems] == ["a", "b"]
        assert names(error.cases) == ["c"]
        assert str(root / "labelsTr/a.nii.gz") in str(error)
        assert str(root / "imagesTr/b.nii.gz") in str(error)

    def test_listed_files_both_missing(self, tmp_path: Path) -> None:
        root = msd(tmp_path, "a", "b")
        (root / "labelsTr/a.nii.gz").unlink()
        (root / "imagesTr/a.nii.gz").unlink()
        assert "neither file" in str(faults("msd", root))

    @pytest.mark.parametrize(("policy", "expected"), [("skip", ["b"]), ("keep", ["a", "b"])])
    def test_unlabelled(self, tmp_path: Path, policy: str, expected: list[str]) -> None:
        root = msd(tmp_path, "a", "b")
        (root / "labelsTr/a.nii.gz").unlink()
        cases = find_cases("msd", root, {"unlabelled": policy})
        assert names(cases) == expected
        assert [case.labels == () for case in cases] == [name == "a" for name in expected]

    @pytest.mark.parametrize("entry", ["/etc/passwd", "../x.nii.gz", "", 3, None, "a\0b"])
    def test_entries_that_leave_the_folder(self, tmp_path: Path, entry: object) -> None:
        root = msd(tmp_path, "a")
        write_json(root, {"training": [{"image": entry, "label": "labelsTr/a.nii.gz"}]})
        with pytest.raises(DataError, match="below it"):
            find_cases("msd", root)

    @pytest.mark.parametrize("text", ["", "[]", "{", '{"training": 3}', '{"training": ["a"]}', "\xff"])
    def test_broken_json(self, tmp_path: Path, text: str) -> None:
        (msd(tmp_path, "a") / "dataset.json").write_bytes(text.encode("latin-1"))
        with pytest.raises(DataError, match=r"dataset\.json"):
            find_cases("msd", tmp_path)

    def test_compressed_and_not(self, tmp_path: Path) -> None:
        root = write(tmp_path, "imagesTr/a.nii", "imagesTr/a.nii.gz", "labelsTr/a.nii.gz")
        with pytest.raises(DataError, match="one file for this case"):
            find_cases("msd", root)


class TestNnunet:
    def dataset(self, root: Path, **content: object) -> Path:
        for case in ("liver_1", "liver_2"):
            write(root, f"imagesTr/{case}_0000.nii.gz", f"labelsTr/{case}.nii.gz")
        stated = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}, "numTraining": 2}
        write_json(root, {**stated, "file_ending": ".nii.gz", **content})
        return root

    def test_training_only(self, tmp_path: Path) -> None:
        root = write(self.dataset(tmp_path), "imagesTs/liver_3_0000.nii.gz")
        cases = find_cases("nnunet", root)
        assert names(cases) == ["liver_1", "liver_2"]
        assert cases[0].image.name == "liver_1_0000.nii.gz"
        assert {case.native_split for case in cases} == {None}

    def test_test_labels(self, tmp_path: Path) -> None:
        root = write(self.dataset(tmp_path), "imagesTs/liver_3_0000.nii.gz", "labelsTs/liver_3.nii.gz")
        cases = find_cases("nnunet", root)
        assert [case.native_split for case in cases] == ["train", "train", "test"]

    def test_count(self, tmp_path: Path) -> None:
        error = faults("nnunet", self.dataset(tmp_path, numTraining=3))
        assert "3 training cases" in str(error)

    def test_file_ending(self, tmp_path: Path) -> None:
        root = write(tmp_path, "imagesTr/a_0000.nrrd", "labelsTr/a.nrrd")
        write_json(root, {"file_ending": ".nrrd"})
        assert names(find_cases("nnunet", root)) == ["a"]
        write_json(root, {"file_ending": "/../x"})
        with pytest.raises(DataError, match="file_ending"):
            find_cases("nnunet", root)

    def test_channels(self, tmp_path: Path) -> None:
        root = write(self.dataset(tmp_path), "imagesTr/liver_1_0001.nii.gz", "imagesTr/liver_2_0001.nii.gz")
        with pytest.raises(DataError, match="option 'channel'"):
            find_cases("nnunet", root)
        assert find_cases("nnunet", root, {"channel": "1"})[0].image.name == "liver_1_0001.nii.gz"
        with pytest.raises(ConfigError, match="channel"):
            find_cases("nnunet", root, {"channel": "x"})

    def test_missing_label_and_missing_channel(self, tmp_path: Path) -> None:
        root = write(self.dataset(tmp_path), "imagesTr/liver_7.nii.gz")
        (root / "labelsTr/liver_2.nii.gz").unlink()
        error = faults("nnunet", root)
        assert [problem.case for problem in error.problems] == ["liver_2", "liver_7", "(all)"]

    def test_dataset_key(self, tmp_path: Path) -> None:
        root = write(tmp_path, "imagesTr/x.nii.gz", "labelsTr/y.nii.gz")
        write_json(root, {"dataset": {"case": {"images": ["imagesTr/x.nii.gz"], "label": "labelsTr/y.nii.gz"}}})
        (case,) = find_cases("nnunet", root)
        assert (case.name, case.image.name) == ("case", "x.nii.gz")
        write_json(root, {"dataset": {"case": {"images": ["../x.nii.gz"], "label": "labelsTr/y.nii.gz"}}})
        with pytest.raises(DataError, match="below it"):
            find_cases("nnunet", root)


class TestAmos:
    FILES = (
        "imagesTr/amos_0001.nii.gz",
        "labelsTr/amos_0001.nii.gz",
        "imagesTr/amos_0507.nii.gz",
        "labelsTr/amos_0507.nii.gz",
        "imagesVa/amos_0008.nii.gz",
        "labelsVa/amos_0008.nii.gz",
        "imagesTs/amos_0002.nii.gz",
    )

    @pytest.mark.parametrize("listed", [True, False])
    def test_ct_only(self, tmp_path: Path, listed: bool) -> None:
        root = write(tmp_path / "amos22", *self.FILES)
        if listed:
            pair = "{{'image': './images{0}/{1}', 'label': './labels{0}/{1}'}}".replace("'", '"')
            entries = [json.loads(pair.format("Tr", f"amos_{n}.nii.gz")) for n in ("0001", "0507")]
            content = {"training": entries, "validation": [json.loads(pair.format("Va", "amos_0008.nii.gz"))]}
            write_json(root, content)
        for path in (root, tmp_path):
            cases = find_cases("amos", path)
            assert [(c.name, c.native_split) for c in cases] == [("amos_0001", "train"), ("amos_0008", "val")]

    def test_channel_suffix_and_missing_label(self, tmp_path: Path) -> None:
        root = write(tmp_path, "imagesTr/amos_0001_0000.nii.gz", "labelsTr/amos_0001.nii.gz", "imagesTr/amos_4.nii.gz")
        error = faults("amos", root)
        assert [problem.case for problem in error.problems] == ["amos_4"]
        assert names(error.cases) == ["amos_0001"]

    def test_name_without_number(self, tmp_path: Path) -> None:
        root = write(tmp_path, "imagesTr/scan.nii.gz", "labelsTr/scan.nii.gz")
        assert "CT and MRI" in str(faults("amos", root))


class TestKits:
    def case(self, root: Path, number: int, *files: str) -> None:
        write(root, *(f"case_{number:05d}/{f}" for f in files or ("imaging.nii.gz", "segmentation.nii.gz")))

    @pytest.mark.parametrize("inside", ["", "data", "dataset"])
    def test_places_and_kits19_test_cases(self, tmp_path: Path, inside: str) -> None:
        write(tmp_path, "README.md", "data/kits.json" if inside == "data" else "LICENSE")
        self.case(tmp_path / inside, 1)
        self.case(tmp_path / inside, 0)
        self.case(tmp_path / inside, 210, "imaging.nii.gz")
        cases = find_cases("kits", tmp_path)
        assert names(cases) == ["case_00000", "case_00001"]
        assert cases[0].image == tmp_path / inside / "case_00000/imaging.nii.gz"
        assert len(find_cases("kits", tmp_path, {"unlabelled": "keep"})) == 3

    def test_kits21_majority_label(self, tmp_path: Path) -> None:
        labels = ("aggregated_MAJ_seg.nii.gz", "aggregated_OR_seg.nii.gz", "segmentations/kidney_a1.nii.gz")
        self.case(tmp_path, 250, "imaging.nii.gz", *labels)
        (case,) = find_cases("kits", tmp_path)
        assert case.labels[0].path.name == "aggregated_MAJ_seg.nii.gz"
        (case,) = find_cases("kits", tmp_path, {"label_file": "aggregated_OR_seg.nii.gz"})
        assert case.labels[0].path.name == "aggregated_OR_seg.nii.gz"

    def test_later_edition_misses_a_label(self, tmp_path: Path) -> None:
        self.case(tmp_path, 250)
        self.case(tmp_path, 251, "imaging.nii.gz")
        self.case(tmp_path, 252, "segmentation.nii.gz")
        self.case(tmp_path, 253, "notes.txt")
        error = faults("kits", tmp_path)
        assert [problem.case for problem in error.problems] == ["case_00251", "case_00252", "case_00253"]

    @pytest.mark.parametrize("image", ["case_00003/imaging.nii.gz", "case_00003.nii.gz", "master_00003.nii.gz"])
    def test_images_apart(self, tmp_path: Path, image: str) -> None:
        self.case(tmp_path / "kits", 3, "segmentation.nii.gz")
        write(tmp_path / "images", image)
        (case,) = find_cases("kits", tmp_path / "kits", {"images": "../images"})
        assert case.image.samefile(tmp_path / "images" / image)

    def test_images_apart_missing_folder(self, tmp_path: Path) -> None:
        self.case(tmp_path, 3)
        with pytest.raises(DataError, match="nowhere"):
            find_cases("kits", tmp_path, {"images": "nowhere"})


class TestLits:
    def test_batches(self, tmp_path: Path) -> None:
        write(tmp_path, "Training Batch 1/volume-2.nii", "Training Batch 1/segmentation-2.nii")
        write(tmp_path, "Training Batch 2/volume-10.nii.gz", "labels/segmentation-10.nii", "readme.txt")
        write(tmp_path, "Test/test-volume-0.nii")
        cases = find_cases("lits", tmp_path)
        assert names(cases) == ["volume-2", "volume-10"]
        assert cases[1].labels[0].path == tmp_path / "labels/segmentation-10.nii"

    def test_flat_and_missing(self, tmp_path: Path) -> None:
        write(tmp_path, "volume-0.nii", "segmentation-0.nii", "volume-1.nii", "segmentation-2.nii")
        error = faults("lits", tmp_path)
        assert [problem.case for problem in error.problems] == ["volume-1", "volume-2"]
        assert names(error.cases) == ["volume-0"]

    def test_twice(self, tmp_path: Path) -> None:
        write(tmp_path, "volume-0.nii", "b/volume-0.nii", "segmentation-0.nii")
        with pytest.raises(DataError, match="one file for this case"):
            find_cases("lits", tmp_path)

    def test_folder_cycle_ends(self, tmp_path: Path) -> None:
        write(tmp_path, "a/volume-0.nii", "a/segmentation-0.nii")
        (tmp_path / "batch").symlink_to(tmp_path / "a")
        with pytest.raises(DataError, match="volume-0"):
            find_cases("lits", tmp_path)
        (tmp_path / "batch").unlink()
        (tmp_path / "a" / "loop").symlink_to(tmp_path / "nowhere")
        assert names(find_cases("lits", tmp_path)) == ["volume-0"]


class TestBtcv:
    def test_every_entry_point(self, tmp_path: Path) -> None:
        training = tmp_path / "Abdomen/RawData/Training"
        write(training, "img/img0002.nii.gz", "label/label0002.nii.gz")
        write(training, "img/img0001.nii.gz", "label/label0001.nii.gz")
        write(training.parent, "Testing/img/img0061.nii.gz")
        for root in (training, training.parent, training.parent.parent, tmp_path):
            cases = find_cases("btcv", root)
            assert names(cases) == ["img0001", "img0002"]
            assert cases[0].labels[0].path.name == "label0001.nii.gz"

    def test_missing(self, tmp_path: Path) -> None:
        write(tmp_path, "img/img0001.nii.gz", "label/label0002.nii.gz")
        error = faults("btcv", tmp_path)
        assert "label0001.nii.gz" in str(error)
        assert "img0002.nii.gz" in str(error)

    def test_imagestr(self, tmp_path: Path) -> None:
        write(tmp_path, "imagesTr/img0001.nii.gz", "labelsTr/label0001.nii.gz")
        assert names(find_cases("btcv", tmp_path)) == ["img0001"]


class TestFlare22:
    def test_labelled(self, tmp_path: Path) -> None:
        root = write(tmp_path, "images/FLARE22_Tr_0001_0000.nii.gz", "labels/FLARE22_Tr_0001.nii.gz")
        (case,) = find_cases("flare22", root)
        assert case.name == "FLARE22_Tr_0001"
        assert case.image.name == "FLARE22_Tr_0001_0000.nii.gz"

    def test_missing(self, tmp_path: Path) -> None:
        write(tmp_path, "images/FLARE22_Tr_0001_0000.nii.gz", "labels/FLARE22_Tr_0002.nii.gz")
        error = faults("flare22", tmp_path)
        assert "labels/FLARE22_Tr_0001.nii.gz" in str(error)
        assert "images/FLARE22_Tr_0002_0000.nii.gz" in str(error)


class TestStructureFolders:
    def cases(self, root: Path, prefix: str) -> Path:
        for number in (1, 2, 10):
            masks = (f"{prefix}{number}/segmentations/{organ}.nii.gz" for organ in ("spleen", "liver"))
            write(root, f"{prefix}{number}/ct.nii.gz", *masks)
        return root

    def test_totalsegmentator(self, tmp_path: Path) -> None:
        self.cases(tmp_path, "s000")
        table = "\ufeffimage_id;age;split\ns0001;60;train\ns0002;;val\ns00010;7;test\ns0999;1;train\n"
        (tmp_path / "meta.csv").write_text(table)
        cases = find_cases("totalsegmentator", tmp_path)
        assert [(c.name, c.native_split) for c in cases] == [
            ("s0001", "train"),
            ("s0002", "val"),
            ("s00010", "test"),
        ]
        assert [label.organ for label in cases[0].labels] == ["liver", "spleen"]

    def test_structures(self, tmp_path: Path) -> None:
        cases = find_cases("totalsegmentator", self.cases(tmp_path, "s"), {"structures": "spleen, liver"})
        assert [label.organ for label in cases[0].labels] == ["spleen", "liver"]
        assert cases[0].native_split is None
        error = faults("totalsegmentator", tmp_path, {"structures": "colon"})
        assert [problem.case for problem in error.problems] == ["s1", "s10", "s2"]

    def test_broken_download(self, tmp_path: Path) -> None:
        root = self.cases(tmp_path, "BDMAP_")
        (root / "BDMAP_2/segmentations/liver.nii.gz").unlink()
        (root / "BDMAP_10/ct.nii.gz").unlink()
        write(root, "BDMAP_11/ct.nii.gz", "BDMAP_1/combined_labels.nii.gz", "notes/readme.txt")
        error = faults("abdomenatlas", root)
        assert [problem.case for problem in error.problems] == ["BDMAP_10", "BDMAP_11", "BDMAP_2"]
        assert "liver.nii.gz" in error.problems[2].expected
        assert names(error.cases) == ["BDMAP_1"]

    @pytest.mark.parametrize("table", ["image_id,split\ns1,training\n", "id;split\n", "image_id;split\ns1\n"])
    def test_bad_meta(self, tmp_path: Path, table: str) -> None:
        (self.cases(tmp_path, "s") / "meta.csv").write_text(table)
        with pytest.raises(DataError, match=r"meta\.csv"):
            find_cases("totalsegmentator", tmp_path)


class TestTable:
    def table(self, root: Path, text: str, name: str = "cases.csv") -> Path:
        write(root, "scans/a.nii.gz", "masks/a.nii.gz", "masks/a liver.nii.gz", "dicom/b/0001.dcm")
        (root / name).write_text(text, encoding="utf-8")
        return root / name

    @pytest.mark.parametrize(("name", "separator"), [("c.csv", ","), ("c.csv", ";"), ("c.tsv", "\t")])
    def test_rows(self, tmp_path: Path, name: str, separator: str) -> None:
        rows = ["case,image,label,split,age", "a,scans/a.nii.gz,masks/a.nii.gz,test,60", "b, dicom/b ,,,", ""]
        file = self.table(tmp_path, "\ufeff" + "\r\n".join(rows).replace(",", separator), name)
        a, b = find_cases("table", file)
        assert a == RawCase("a", tmp_path / "scans/a.nii.gz", (LabelFile(tmp_path / "masks/a.nii.gz"),), "test")
        assert b == RawCase("b", tmp_path / "dicom/b")

    def test_binary_files_and_absolute_paths(self, tmp_path: Path) -> None:
        image = tmp_path / "scans/a.nii.gz"
        (case,) = find_cases("table", self.table(tmp_path, f"case,image,label:liver\na,{image},masks/a liver.nii.gz"))
        assert case.image == image
        assert case.labels == (LabelFile(tmp_path / "masks/a liver.nii.gz", "liver"),)

    def test_labels_that_lie_by_orientation(self, tmp_path: Path) -> None:
        file = self.table(tmp_path, "case,image,label\na,dicom/b,masks/a.nii.gz")
        (case,) = find_cases("table", file, {"label_grid": "orientation"})
        assert case.labels == (LabelFile(tmp_path / "masks/a.nii.gz", grid="orientation"),)
        with pytest.raises(ConfigError, match="label_grid: 'affine' is not one of scan, orientation"):
            find_cases("table", file, {"label_grid": "affine"})

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("", "columns case, image"),
            ("case,image,label\n", "at least one row"),
            ("case,image\na,scans/a.nii.gz", "a column 'label'"),
            ("case,image,label\na,scans/x.nii.gz,masks/a.nii.gz", "scans/x.nii.gz"),
            ("case,image,label\na,scans/a.nii.gz,masks/x.nii.gz", "masks/x.nii.gz"),
            ("case,image,label\na,,masks/a.nii.gz", "empty cell"),
            ("case,image,label\na,scans/a.nii.gz", "3 cells"),
            ("case,image,label,label\na,scans/a.nii.gz,,", "once"),
            ("case,image,label,split\na,scans/a.nii.gz,,training", "train, val or test"),
            ("case,image,label\na,scans/a.nii.gz,\na,dicom/b,", "one image per case name"),
            ("case,image,label\n../a,scans/a.nii.gz,", "path separator"),
            ('case,image,label\n"a\nb",scans/a.nii.gz,', "U+000A"),
            ("case,image,label\n,scans/a.nii.gz,", "empty name"),
        ],
    )
    def test_faults(self, tmp_path: Path, text: str, said: str) -> None:
        with pytest.raises(DataError) as caught:
            find_cases("table", self.table(tmp_path, text))
        assert said in str(caught.value)

    @pytest.mark.parametrize("content", [None, b"\xff\xfe\x00", b'case,image,label\n"a'])
    def test_unreadable(self, tmp_path: Path, content: bytes | None) -> None:
        if content is not None:
            (tmp_path / "t.csv").write_bytes(content)
        with pytest.raises(DataError, match="table"):
            find_cases("table", tmp_path / "t.csv")


class TestSingle:
    def test_names(self, tmp_path: Path) -> None:
        write(tmp_path, "ct.nii.gz", "labels.nii.gz")
        (case,) = find_cases("single", tmp_path, {"image": "ct.nii.gz", "label": "labels.nii.gz"})
        assert case == RawCase("ct", tmp_path / "ct.nii.gz", (LabelFile(tmp_path / "labels.nii.gz"),))
        (case,) = find_cases("single", tmp_path, {"image": "ct.nii.gz", "name": "x"})
        assert (case.name, case.labels) == ("x", ())

    def test_missing(self, tmp_path: Path) -> None:
        write(tmp_path, "ct.nii.gz")
        assert "labels.nii.gz" in str(faults("single", tmp_path, {"image": "ct.nii.gz", "label": "labels.nii.gz"}))
        with pytest.raises(ConfigError, match="option image"):
            find_cases("single", tmp_path)
