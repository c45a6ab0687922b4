"""Faults planted one by one in a clean folder: each is found under its own code, and nothing else is."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from mskd.checks.codes import CODES
from mskd.checks.finding import Finding
from mskd.config.loading import parse_study
from mskd.config.study import Study
from mskd.dag import Graph
from mskd.errors import MskdError
from mskd.layout import Layout
from mskd.manifest import read_manifest
from mskd.stages.check_data import CheckReport, check_data, write_verdict
from mskd.stages.make_phantoms import make_dataset

NAMES = [f"abdomen_{index:03d}" for index in range(3)]
CASE = NAMES[1]
SPACING = (8.0, 8.0, 10.0)
LIVER, SPLEEN = 1, 2
Plant = Callable[[Path], Any]


@pytest.fixture(scope="session")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a clean folder in the MSD layout: three synthetic scans with liver and spleen."""
    root = tmp_path_factory.mktemp("clean") / "data"
    scanner = {"spacing_mm": SPACING, "slice_thickness_mm": 10.0}
    counts = {"n_train": 3, "n_val": 0, "n_test": 0, "seed": 5}
    make_dataset(root, {"task": "Task01_Abdomen", "organs": ["liver", "spleen"], "scanner": scanner, **counts})
    shutil.rmtree(root / "withheld")
    (root / "dataset.json").unlink()  # names and pairs are planted file by file
    return root


@pytest.fixture
def data(clean: Path, tmp_path: Path) -> Path:
    return shutil.copytree(clean, tmp_path / "data")


def study_of(root: Path, **section: Any) -> Study:
    keys: dict[str, Any] = {
        "path": str(root),
        "label_map": {LIVER: "liver", SPLEEN: "spleen"},
        "split": {"kind": "all", "into": "train"},
        **section,
    }
    return parse_study(
        {"results": str(root.parent / "results"), "organs": ["liver", "spleen"], "datasets": {"abdomen": keys}}
    )


def check(root: Path, **section: Any) -> CheckReport:
    return check_data(study_of(root, **section), jobs=1)


def said(findings: tuple[Finding, ...]) -> set[tuple[str, str]]:
    return {(finding.code, finding.case) for finding in findings}


def image_of(root: Path, name: str = CASE) -> Path:
    return root / "imagesTr" / f"{name}.nii.gz"


def label_of(root: Path, name: str = CASE) -> Path:
    return root / "labelsTr" / f"{name}.nii.gz"


def save(path: Path, array: NDArray[Any], affine: NDArray[np.float64]) -> None:
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    nib.save(image, path)


def voxels(change: Callable[[NDArray[Any]], NDArray[Any]], kind: Callable[[Path], Path] = image_of) -> Plant:
    """Plant a change of a file's voxels; the grid stays that of its header."""

    def plant(root: Path) -> None:
        image = nib.load(kind(root))
        save(kind(root), change(np.asarray(image.dataobj).copy()), image.affine)

    return plant


def header(change: Callable[[Any], Any], *kinds: Callable[[Path], Path]) -> Plant:
    """Plant a change of a header in memory; image and label alike where not said otherwise."""

    def plant(root: Path) -> None:
        for kind in kinds or (image_of, label_of):
            image = nib.load(kind(root))
            image = nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header)
            change(image)
            nib.save(image, kind(root))

    return plant


def raw_header(field: str, value: Any, *kinds: Callable[[Path], Path]) -> Plant:
    """Plant a value in a header as bytes, which no library would write."""

    def plant(root: Path) -> None:
        for kind in kinds or (image_of, label_of):
            content = bytearray(gzip.decompress(kind(root).read_bytes()))
            fields = nib.Nifti1Header(bytes(content[:348]), check=False)
            fields[field] = value
            content[:348] = fields.binaryblock
            kind(root).write_bytes(gzip.compress(bytes(content), 1))

    return plant


def grid(change: Callable[[NDArray[np.float64]], NDArray[np.float64]], *kinds: Callable[[Path], Path]) -> Plant:
    """Plant another affine, in sform and qform alike."""

    def plant(root: Path) -> None:
        for kind in kinds or (image_of, label_of):
            image = nib.load(kind(root))
            save(kind(root), np.asarray(image.dataobj), change(image.affine.copy()))

    return plant


def renamed(to: str) -> Plant:
    def plant(root: Path) -> None:
        for kind in (image_of, label_of):
            kind(root).rename(kind(root, to))

    return plant


def table(text: str) -> Plant:
    return lambda root: (root.parent / "split.tsv").write_text("case\tsplit\n" + text)


def only(value: int, keep: slice) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Keep the voxels of an organ in one slab."""

    def change(label: NDArray[Any]) -> NDArray[Any]:
        kept = label[:, :, keep].copy()
        label[label == value] = 0
        label[:, :, keep] = kept
        return label

    return change


def shrunk(label: NDArray[Any]) -> NDArray[Any]:
    places = np.argwhere(label == SPLEEN)
    label[label == SPLEEN] = 0
    label[tuple(places[len(places) // 2])] = SPLEEN
    return label


def with_value(number: float, kind: type = np.float32) -> Callable[[NDArray[Any]], NDArray[Any]]:
    def change(array: NDArray[Any]) -> NDArray[Any]:
        array = array.astype(kind)
        array[3, 4, 5] = number
        return array

    return change


def grown(label: NDArray[Any]) -> NDArray[Any]:
    label[4:-4, 4:-4, 2:-2][label[4:-4, 4:-4, 2:-2] == 0] = SPLEEN
    return label


def mirrored(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.diag([-1.0, 1.0, 1.0, 1.0]) @ affine


def scaled(factor: float, *, shift: float = 0.0) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    return lambda affine: np.diag([factor, factor, factor, 1.0]) @ affine + np.eye(4, k=3) * shift


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def corrupt(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 40] = bytes(40)
    path.write_bytes(bytes(content))


def copy_case(root: Path) -> None:
    shutil.copy(image_of(root, NAMES[0]), image_of(root, "zz_copy"))
    shutil.copy(label_of(root, NAMES[0]), label_of(root, "zz_copy"))


def copy_flipped(root: Path) -> None:
    """Plant a copy with other axes, directions and data type."""
    for kind, dtype in ((image_of, np.float32), (label_of, np.uint8)):
        image = nib.load(kind(root, NAMES[0]))
        turned = image.as_reoriented(nib.orientations.axcodes2ornt("SPL", (("L", "R"), ("P", "A"), ("I", "S"))))
        save(kind(root, "zz_copy"), np.asarray(turned.dataobj).astype(dtype), turned.affine)


def window(image: NDArray[Any]) -> NDArray[Any]:
    return np.clip((image.astype(np.float32) + 200) / 500 * 255, 0, 255).astype(np.uint8)


def magnetic_resonance(image: NDArray[Any]) -> NDArray[Any]:
    """Return something with dark air and no scale: brightness is the distance of HU from those of lung."""
    return np.abs(np.clip(image, -1000, 400).astype(np.int16) // 3 + 340).astype(np.int16) * 4 % 700


FOUR = {"kind": "file", "path": "SPLIT", "val_fraction": 0}
ROWS = f"{NAMES[0]}\ttrain\n{NAMES[2]}\ttest\n"

# Name: how it is planted, keys of the dataset, and what is found: codes of the case CASE, or (code, case).
FAULTS: dict[str, tuple[Plant, dict[str, Any], set[Any]]] = {
    # the listing
    "label missing": (lambda r: label_of(r).unlink(), {}, {"listing.missing_label"}),
    "image missing": (lambda r: image_of(r).unlink(), {}, {"listing.missing_image"}),
    "image twice": (lambda r: shutil.copy(image_of(r), str(image_of(r))[:-3]), {}, {"listing.twice"}),
    "empty folder": (
        lambda r: [file.unlink() for file in r.rglob("*.nii.gz")],
        {},
        {("listing.empty", "(all)")},
    ),
    "no folder": (lambda r: shutil.rmtree(r), {}, {("listing.layout", "(all)")}),
    "name of an option": (renamed("-rf"), {}, {("name.refused", "'-rf'")}),
    "name with a control character": (renamed("a\x1b[2Jb"), {}, {("name.refused", "'a\\x1b[2Jb'")}),
    "name for a shell": (renamed("a $(b);c"), {}, {("name.unwise", "a $(b);c")}),
    # the split
    "case without a row": (table(ROWS), {"split": FOUR}, {"split.unplaced"}),
    "row without a case": (
        table(f"{ROWS}{CASE}\ttest\ngone\ttrain\n"),
        {"split": FOUR},
        {("split.unknown_case", "gone")},
    ),
    "two rows for a case": (table(f"{ROWS}{CASE}\ttest\n{CASE}\ttrain\n"), {"split": FOUR}, {"split.row"}),
    "unknown split": (table(f"{ROWS}{CASE}\tholdout\n"), {"split": FOUR}, {"split.row"}),
    "empty split": (table(f"{ROWS}{CASE}\t\n"), {"split": FOUR}, {"split.row"}),
    "several rows at fault": (
        table(f"{NAMES[0]}\ttrain\n{CASE}\tno\ngone\ttest\n"),
        {"split": FOUR},
        {"split.row", ("split.unplaced", NAMES[2]), ("split.unknown_case", "gone")},
    ),
    "no table": (lambda r: None, {"split": FOUR}, {("split.unusable", "(all)")}),
    "nothing to train on": (
        lambda r: None,
        {"split": {"kind": "all", "into": "test"}},
        {("split.unusable", "(all)")},
    ),
    "no built-in split": (
        lambda r: None,
        {"split": {"kind": "builtin", "name": "liver"}},
        {("split.unusable", "(all)")},
    ),
    # files
    "withheld missing": (
        lambda r: [
            (r / "withheld").mkdir(exist_ok=True),
            *(shutil.copy(label_of(r, n), r / "withheld") for n in NAMES if n != CASE),
        ],
        {"withheld": True, "withheld_label_map": {1: "liver", 2: "spleen"}},
        {"file.missing"},
    ),
    "empty image": (lambda r: image_of(r).write_bytes(b""), {}, {"file.empty"}),
    "empty label file": (lambda r: label_of(r).write_bytes(b""), {}, {"file.empty"}),
    "truncated image": (lambda r: truncate(image_of(r)), {}, {"file.damaged"}),
    "truncated label": (lambda r: truncate(label_of(r)), {}, {"file.damaged"}),
    "corrupt image": (lambda r: corrupt(image_of(r)), {}, {"file.damaged"}),
    "text instead of an image": (lambda r: image_of(r).write_text("<html>404"), {}, {"file.damaged"}),
    "gzip of something else": (
        lambda r: image_of(r).write_bytes(gzip.compress(b"x" * 5000)),
        {},
        {"file.damaged"},
    ),
    # headers
    "four dimensions": (voxels(lambda a: np.stack([a, a], -1)), {}, {"header.dimensions"}),
    "two dimensions": (voxels(lambda a: a[:, :, 0]), {}, {"header.dimensions"}),
    "single slice": (voxels(lambda a: a[:, :, 9:10]), {}, {"header.single_slice", "label.shape"}),
    "absurd size": (raw_header("dim", [3, 32767, 32767, 32767, 1, 1, 1, 1], image_of), {}, {"header.size"}),
    "singular affine": (raw_header("srow_x", [0, 0, 0, 0], image_of), {}, {"header.affine"}),
    "affine with NaN": (raw_header("srow_y", [np.nan, 8, 0, 0], image_of), {}, {"header.affine"}),
    "sform and qform": (
        header(lambda i: i.header.set_qform(np.diag([-8.0, 8, 10, 1]), 1), image_of),
        {},
        {"header.transforms"},
    ),
    "pixdim": (
        lambda r: [raw_header("qform_code", 0)(r), raw_header("pixdim", [1, 1, 1, 1, 0, 0, 0, 0], image_of)(r)],
        {},
        {"header.transforms"},
    ),
    "no transform": (
        lambda r: [raw_header(f"{form}_code", 0)(r) for form in ("sform", "qform")],
        {},
        {"header.no_transform", "anatomy.mirrored"},  # readers then take the first axis for right to left
    ),
    "metres": (header(lambda i: i.header.set_xyzt_units("meter"), image_of), {}, {"header.units"}),
    "micrometres": (header(lambda i: i.header.set_xyzt_units("micron"), image_of), {}, {"header.units"}),
    "lengths in metres": (grid(scaled(1e-2)), {}, {"header.spacing", "organ.volume"}),
    "huge voxels": (grid(scaled(3)), {}, {"header.spacing", "organ.volume"}),
    "colours": (
        voxels(lambda a: np.zeros(a.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")])),
        {},
        {"header.data_type"},
    ),
    "complex numbers": (voxels(lambda a: a.astype(np.complex64)), {}, {"header.data_type"}),
    # intensities
    "NaN": (voxels(with_value(np.nan)), {}, {"image.not_finite"}),
    "infinity": (voxels(with_value(-np.inf)), {}, {"image.not_finite"}),
    "constant": (voxels(np.zeros_like), {}, {"image.constant"}),
    "0 to 1": (voxels(lambda a: (a + np.float32(1024)) / np.float32(4000)), {}, {"image.normalised"}),
    "z-scores": (voxels(lambda a: ((a - a.mean()) / a.std()).astype(np.float32)), {}, {"image.normalised"}),
    "8 bits": (voxels(window), {}, {"image.windowed"}),
    "1024 too much": (voxels(lambda a: (a + 1024).astype(np.uint16)), {}, {"image.offset"}),
    "MR": (voxels(magnetic_resonance), {}, {"image.not_ct"}),
    "PET": (voxels(lambda a: np.exp(a.astype(np.float32) / 100)), {}, {"image.not_ct"}),
    "half of each HU": (voxels(lambda a: a // 2), {}, {"image.uncalibrated"}),
    "double HU": (voxels(lambda a: a * 2), {}, {"image.uncalibrated"}),
    "1024 too little": (voxels(lambda a: a - 1024), {}, {"image.uncalibrated"}),
    "wrong slope in the header": (raw_header("scl_slope", 0.4, image_of), {}, {"image.uncalibrated"}),
    "clipped": (voxels(lambda a: np.clip(a, -325, 325)), {}, {"image.clipped"}),
    # labels
    "another shape": (voxels(lambda a: a[:, :, :-1], label_of), {}, {"label.shape"}),
    "flipped label": (grid(lambda a: a @ np.diag([1.0, -1, 1, 1]), label_of), {}, {"label.orientation"}),
    "label of other axes": (
        lambda r: save(label_of(r), np.zeros((34, 43, 50), np.uint8), np.eye(4)[[2, 1, 0, 3]]),
        {},
        {"label.orientation"},
    ),
    "shifted label": (grid(scaled(1, shift=9.0), label_of), {}, {"label.affine"}),
    "label of another voxel size": (grid(scaled(1.1), label_of), {}, {"label.affine"}),
    "fractions": (voxels(with_value(0.5), label_of), {}, {"label.fractional"}),
    "NaN in the label": (voxels(with_value(np.nan), label_of), {}, {"label.fractional"}),
    "infinite label": (voxels(with_value(np.inf), label_of), {}, {"label.fractional"}),
    "slope of the label": (raw_header("scl_slope", 0.5, label_of), {}, {"label.fractional"}),
    "image for a label": (lambda r: shutil.copy(image_of(r), label_of(r)), {}, {"label.no_labels"}),
    "unexpected value": (voxels(with_value(7, np.uint8), label_of), {}, {"label.unexpected"}),
    "negative value": (voxels(with_value(-1, np.int16), label_of), {}, {"label.unexpected"}),
    "large value": (voxels(with_value(1_000_000, np.int32), label_of), {}, {"label.unexpected"}),
    "empty label": (voxels(np.zeros_like, label_of), {}, {"label.empty"}),
    "no spleen": (voxels(lambda a: np.where(a == SPLEEN, 0, a).astype(np.uint8), label_of), {}, {"organ.absent"}),
    "one voxel of spleen": (voxels(shrunk, label_of), {}, {"organ.volume"}),
    "half the body is spleen": (voxels(grown, label_of), {}, {"organ.volume"}),
    "value that never occurs": (
        lambda r: None,
        {"label_map": {1: "liver", 2: "spleen", 3: "spleen"}},
        {("label.never", "(all)")},
    ),
    "organ that never occurs": (
        lambda r: None,
        {"label_map": {1: "liver", 3: "spleen", 2: "background"}},
        {("label.organ_never", "(all)"), *(("organ.absent", name) for name in NAMES)},
    ),
    "value without a name in every case": (
        lambda r: [voxels(with_value(7, np.uint8), lambda r, n=name: label_of(r, n))(r) for name in NAMES],
        {},
        {("label.unexpected", "(all)")},
    ),
    "mirrored header": (grid(mirrored), {}, {"anatomy.mirrored"}),
    "mirrored header, spleen alone": (
        lambda r: [grid(mirrored)(r), *(voxels(lambda a: a * (a == SPLEEN), label_of)(r),)],
        {},
        {"anatomy.mirrored", "organ.absent"},
    ),
    "mirrored header, liver alone": (
        lambda r: [grid(mirrored)(r), *(voxels(lambda a: a * (a == LIVER), label_of)(r),)],
        {},
        {"anatomy.mirrored", "organ.absent"},
    ),
    # copies
    "a scan twice": (copy_case, {}, {("duplicate.image", "zz_copy")}),
    "a scan twice in other axes": (copy_flipped, {}, {("duplicate.image", "zz_copy")}),
    "a scan learned from and tested on": (
        lambda r: [copy_case(r), table(f"{ROWS}{CASE}\ttrain\nzz_copy\ttest\n")(r)],
        {"split": FOUR},
        {("duplicate.leak", "zz_copy")},
    ),
    "accepted where nothing is": (
        lambda r: None,
        {"accept": {CASE: ["organ.volume"], "*": ["image.offset"], "gone": ["organ.absent"]}},
        {("accept.unused", case) for case in (CASE, "(all)", "gone")},
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault(fault: str, data: Path) -> None:
    plant, section, expected = FAULTS[fault]
    plant(data)
    if section.get("split", {}).get("path") == "SPLIT":
        section = {**section, "split": {**section["split"], "path": str(data.parent / "split.tsv")}}
    report = check(data, **section)
    assert said(report.findings) == {(code, CASE) if isinstance(code, str) else code for code in expected}
    for finding in report.findings:
        assert all((finding.file, finding.expected, finding.found, finding.fix))
        assert (data / "imagesTr").parent.as_posix() in finding.file or finding.code.startswith(("split", "accept"))


def test_organ_cut_by_the_edge(data: Path) -> None:
    middle = int(np.median(np.argwhere(np.asarray(nib.load(label_of(data)).dataobj) == LIVER)[:, 2]))
    for kind in (image_of, label_of):
        image = nib.load(kind(data))
        save(kind(data), np.asarray(image.dataobj)[:, :, :middle], image.affine)
    assert said(check(data).findings) == {("organ.truncated", CASE)}


class TestSegmentationsThatTeach:
    """They are looked at with the data, so that a missing one is no surprise hours later, or at the first line."""

    def study(self, data: Path, **changes: Any) -> Study:
        seen = data.parent / "seen"
        seen.mkdir(exist_ok=True)
        for name in NAMES:
            shutil.copy(label_of(data, name), seen / f"{name}.nii.gz")
        written = study_of(data).model_dump(mode="json")
        teacher = {"kind": "labels", "path": str(seen), "classes": {1: "liver"}}
        return parse_study({**written, "teachers": {"seen": teacher}, "methods": {"mskd": {}}, **changes})

    def test_sound_ones_are_no_finding(self, data: Path) -> None:
        assert check_data(self.study(data), jobs=1).findings == ()

    def test_one_is_missing(self, data: Path) -> None:
        study = self.study(data)
        (data.parent / "seen" / f"{CASE}.nii.gz").unlink()
        report = check_data(study, jobs=1)
        assert said(report.findings) == {("teacher.missing", CASE)}
        with pytest.raises(MskdError, match="1 errors in the data"):
            write_verdict(study, report)
        # the workflow is read all the same, and goes on without the case where the study says so
        assert len(Graph(study).segmentations()) == 2
        going_on = self.study(data, on_bad_case="skip")
        (data.parent / "seen" / f"{CASE}.nii.gz").unlink()
        write_verdict(going_on, check_data(going_on, jobs=1))
        skipped = read_manifest(Layout(going_on.root).manifest("check_data", "study")).skipped
        assert list(skipped) == [f"abdomen/{CASE}"]
        assert "teachers.seen" in skipped[f"abdomen/{CASE}"]

    def test_one_lies_on_another_grid(self, data: Path) -> None:
        study = self.study(data)
        path = data.parent / "seen" / f"{CASE}.nii.gz"
        image = nib.load(path)
        save(path, np.asarray(image.dataobj), image.affine @ np.diag([1.09, 1, 1, 1]))
        assert said(check_data(study, jobs=1).findings) == {("label.affine", CASE)}

    def test_who_is_not_asked_needs_none(self, data: Path) -> None:
        study = self.study(data, cache={"splits": ["train"]})
        path = data.parent / "seen" / f"{CASE}.nii.gz"
        path.unlink()
        split = {"kind": "file", "path": str(data.parent / "split.tsv")}
        rows = [f"{name}\t{part}" for name, part in zip(NAMES, ("train", "test", "val"), strict=True)]
        Path(split["path"]).write_text("\n".join(["case\tsplit", *rows, ""]))
        datasets = study.model_dump(mode="json")["datasets"]
        datasets["abdomen"]["split"] = split
        changed = parse_study({**study.model_dump(mode="json"), "datasets": datasets})
        assert check_data(changed, jobs=1).findings == ()


def test_at_least_forty_kinds_of_faults_are_planted() -> None:
    found = {code if isinstance(code, str) else code[0] for *_, codes in FAULTS.values() for code in codes}
    elsewhere = {"file.unreadable", "organ.truncated", "listing.missing_files", "teacher.missing"}
    assert found | elsewhere == set(CODES)
    assert len(FAULTS) >= 40


def test_clean_folder(data: Path) -> None:
    report = check(data)
    assert report.findings == ()
    assert (report.cases, report.files, report.notes) == ({"abdomen": 3}, 6, ())


@pytest.mark.parametrize(
    ("layout", "organs", "label_map"),
    [
        ("msd", ["pancreas"], {1: "pancreas"}),
        ("kits", ["kidney"], {1: "kidney"}),
        ("lits", ["liver"], {1: "liver"}),
        (
            "btcv",
            [],
            {
                **{1: "spleen", 2: "kidney", 3: "kidney", 4: "gallbladder", 6: "liver", 7: "stomach"},
                **{8: "aorta", 9: "ivc", 11: "pancreas"},
            },
        ),
    ],
)
@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_is_found_in_clean_layouts(
    layout: str, organs: list[str], label_map: dict[int, str], seed: int, tmp_path: Path
) -> None:
    phantom = {"layout": layout, "organs": organs, "n_train": 2, "n_val": 0, "n_test": 0, "seed": seed}
    phantom["scanner"] = {"spacing_mm": SPACING, "slice_thickness_mm": 10.0, "hu_slope": 0.97, "hu_offset": 6}
    root = tmp_path / "data"
    make_dataset(root, phantom)
    if layout == "lits":
        shutil.rmtree(root / "withheld")  # its adapter reads folders below the root
    named = list(dict.fromkeys(label_map.values()))
    section = {"adapter": layout, "path": str(root), "label_map": label_map, "split": {"kind": "all", "into": "train"}}
    study = parse_study({"results": str(tmp_path / "r"), "organs": named, "datasets": {"d": section}})
    report = check_data(study, jobs=1)
    assert report.findings == ()
    assert report.cases == {"d": 2}


def test_structures_in_files_of_their_own(data: Path, tmp_path: Path) -> None:
    for name in NAMES:
        folder = tmp_path / "total" / name / "segmentations"
        folder.mkdir(parents=True)
        shutil.copy(image_of(data, name), folder.parent / "ct.nii.gz")
        label = nib.load(label_of(data, name))
        for organ, value in (("liver", LIVER), ("spleen", SPLEEN)):
            mask = np.asarray(label.dataobj) == value
            save(folder / f"{organ}.nii.gz", mask.astype(np.uint8), label.affine)
    structures = {"liver": "liver", "spleen": "spleen"}
    section = {"adapter": "totalsegmentator", "structures": structures, "label_map": {}}
    assert check(tmp_path / "total", **section).findings == ()
    mask = nib.load(tmp_path / "total" / CASE / "segmentations" / "liver.nii.gz")
    save(Path(mask.get_filename()), np.asarray(mask.dataobj) * np.uint8(255), mask.affine)
    report = check(tmp_path / "total", **section)
    assert said(report.findings) == {("label.unexpected", CASE), ("organ.absent", CASE)}


def test_unreadable_file(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = Path.open

    def refuse(self: Path, *arguments: Any, **options: Any) -> Any:
        if self == image_of(data):
            raise PermissionError(13, "Permission denied", str(self))
        return usual(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    report = check(data)
    assert said(report.findings) == {("file.unreadable", CASE)}
    assert report.findings[0].found == "permission denied"


def test_list_of_missing_files(data: Path) -> None:
    (data / "dataset.json").write_text(
        '{"training": [{"image": "imagesTr/gone.nii.gz", "label": "labelsTr/gone.nii.gz"}]}'
    )
    report = check(data, options={"cases_from": "json"})
    assert ("listing.missing_files", "gone") in said(report.findings)


def test_copies_across_datasets(data: Path, tmp_path: Path) -> None:
    train = {"path": str(data), "label_map": {1: "liver", 2: "spleen"}, "split": {"kind": "all", "into": "train"}}
    other = shutil.copytree(data, tmp_path / "other")
    for name in NAMES[1:]:
        image_of(other, name).unlink()
        label_of(other, name).unlink()

    def found(**section: Any) -> set[tuple[str, str]]:
        datasets = {"abdomen": train, "second": {**train, "path": str(other), **section}}
        organs = ["liver", "spleen"]
        study = parse_study({"results": str(tmp_path / "r"), "organs": organs, "datasets": datasets})
        return {(f"{f.dataset}/{f.case}", f.code) for f in check_data(study, jobs=1).findings}

    assert found() == {(f"second/{NAMES[0]}", "duplicate.image")}
    assert found(role="external") == {(f"second/{NAMES[0]}", "duplicate.leak")}
    assert found(role="external", metrics_role="resubstitution") == set()
    assert found(role="external", path=str(data)) == {(f"second/{name}", "duplicate.leak") for name in NAMES}
    assert found(role="external", accept={"*": ["duplicate.leak"]}) == {(f"second/{NAMES[0]}", "duplicate.leak")}


def test_folds_leak_between_copies(data: Path, tmp_path: Path) -> None:
    copy_case(data)
    section = {"path": str(data), "label_map": {1: "liver", 2: "spleen"}, "split": {"val_fraction": 0}}
    for seed in range(20):
        split = {**section["split"], "seed": seed}
        study = parse_study(
            {
                "results": str(tmp_path / "r"),
                "organs": ["liver", "spleen"],
                "datasets": {"abdomen": {**section, "split": split}},
                "runs": {"folds": 2},
            }
        )
        codes = {finding.code for finding in check_data(study, jobs=1).findings}
        if codes == {"duplicate.leak"}:
            return
        assert codes == {"duplicate.image"} or "split.unusable" in codes
    pytest.fail("no seed of twenty put the copies into different folds")


def test_what_has_not_changed_is_not_read_again(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    voxels(with_value(7, np.uint8), label_of)(data)
    first = check(data)
    assert said(first.findings) == {("label.unexpected", CASE)}
    read: list[str] = []
    from mskd.stages import check_data as stage

    checked = stage.check_case

    def noted(files: Any, rules: Any) -> Any:
        read.append(files.name)
        return checked(files, rules)

    monkeypatch.setattr(stage, "check_case", noted)
    assert check(data) == first
    assert read == []
    truncate(image_of(data, NAMES[2]))
    assert said(check(data).findings) == {*said(first.findings), ("file.damaged", NAMES[2])}
    assert read == [NAMES[2]]
    read.clear()
    assert check(data, accept={CASE: ["label.unexpected"]}).accepted
    assert read == []
    check(data, label_map={1: "liver", 2: "spleen", 7: "ignore"})
    assert sorted(read) == NAMES
    read.clear()
    (record,) = (data.parent / "results" / "study" / "checks").glob(f"abdomen/*/{CASE}.json")
    record.write_text("{")
    check(data, label_map={1: "liver", 2: "spleen", 7: "ignore"})
    assert read == [CASE]


def test_processes_find_the_same(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    voxels(with_value(np.nan))(data)
    corrupt(label_of(data, NAMES[2]))
    monkeypatch.setattr("mskd.stages.check_data.SERIAL_BYTES", 0)
    many = check_data(study_of(data), jobs=2)
    shutil.rmtree(data.parent / "results")
    assert many == check(data)
    assert said(many.findings) == {("image.not_finite", CASE), ("file.damaged", NAMES[2])}
