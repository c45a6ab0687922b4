"""`mskd check-data`: what is on the screen, the JSON, exit codes, what is accepted, and the real scans."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import yaml
from typer.testing import CliRunner, Result

from mskd.checks.codes import CODES
from mskd.checks.finding import Finding
from mskd.cli.app import app
from mskd.config.loading import parse_study
from mskd.errors import ConfigError
from mskd.organs import ORGANS, plausible_ml
from mskd.stages.check_data import CheckReport, check_data
from mskd.stages.make_phantoms import make_phantoms

REPOSITORY = Path(__file__).parents[2]
DATA = Path(os.environ.get("MSKD_DATA", REPOSITORY.parent / "shared" / "data"))
AFFINE = np.diag([8.0, 8.0, 8.0, 1.0])


def write_scan(root: Path, name: str, label: int = 1, *, air: int = -1000) -> None:
    """Write a ball of soft tissue in air and, to the patient's right in it, something as big as a liver."""
    x, y, z = np.meshgrid(*[np.arange(48)] * 3, indexing="ij")
    image = np.where((x - 24) ** 2 + (y - 24) ** 2 + (z - 24) ** 2 < 400, 50, air).astype(np.int16)
    image += np.random.default_rng(sum(map(ord, name))).integers(-20, 20, image.shape).astype(np.int16)
    mask = ((x - 34) ** 2 + (y - 24) ** 2 + (z - 24) ** 2 < 60).astype(np.uint8) * np.uint8(label)
    for folder, array in (("imagesTr", image), ("labelsTr", mask)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, AFFINE), root / folder / f"{name}.nii.gz")


def study_file(tmp_path: Path, **section: Any) -> Path:
    keys = {"path": str(tmp_path / "data"), "split": {"kind": "all", "into": "train"}, **section}
    study = {"study": "s", "results": str(tmp_path / "results"), "datasets": {"liver": keys}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    return tmp_path / "study.yaml"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["check-data", *map(str, arguments)], env={"COLUMNS": "300"})


def test_nothing_found(tmp_path: Path) -> None:
    write_scan(tmp_path / "data", "a")
    done = run(study_file(tmp_path))
    assert done.exit_code == 0
    assert done.stdout == "nothing found; checked 1 case of 1 dataset, 2 files\n"


def test_warnings_alone_are_no_failure(tmp_path: Path) -> None:
    write_scan(tmp_path / "data", "a")
    write_scan(tmp_path / "data", "b", label=7)
    done = run(study_file(tmp_path))
    assert done.exit_code == 0
    for words in ("label.unexpected", "label.empty", "labelsTr/b.nii.gz", "way out:"):
        assert words in done.stdout
    assert "0 errors, 2 warnings; checked 2 cases of 1 dataset, 4 files" in done.stdout


def test_errors_fail_and_come_first(tmp_path: Path) -> None:
    write_scan(tmp_path / "data", "a", label=7)
    write_scan(tmp_path / "data", "b", air=24)
    done = run(study_file(tmp_path))
    assert done.exit_code == 1
    assert done.stdout.index("image.windowed") < done.stdout.index("label.unexpected")
    assert "error" in done.stdout.split("\n")[-2]


def test_json(tmp_path: Path) -> None:
    write_scan(tmp_path / "data", "a")
    write_scan(tmp_path / "data", "b", label=7)
    (tmp_path / "data" / "imagesTr" / "c.nii.gz").touch()
    file = study_file(tmp_path, accept={"b": ["label.empty"]})
    done = run(file, "--json", "-")
    assert done.exit_code == 1
    report = json.loads(done.stdout)
    assert {key: report[key] for key in ("version", "study", "cases", "notes")} == {
        "version": 1,
        "study": "s",
        "cases": {"liver": 2},
        "notes": [],
    }
    assert report["counts"] == {"errors": 1, "warnings": 1, "accepted": 1, "files": 4}
    assert [(f["severity"], f["code"], f["case"], f["accepted"]) for f in report["findings"]] == [
        ("error", "listing.missing_label", "c", False),
        ("warning", "label.unexpected", "b", False),
        ("warning", "label.empty", "b", True),
    ]
    assert set(report["findings"][0]) == {
        *("severity", "code", "dataset", "case", "file", "expected", "found", "fix", "accepted")
    }
    again = run(file, "--json", tmp_path / "out.json")
    assert again.exit_code == 1
    assert "1 error, 1 warning, 1 accepted" in again.stdout
    assert json.loads((tmp_path / "out.json").read_text()) == report


def test_accepted_findings_are_shown_and_stop_nothing(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_scan(tmp_path / "data", name, air=24)
    refused = run(study_file(tmp_path))
    [code] = {f["code"] for f in json.loads(run(study_file(tmp_path), "--json", "-").stdout)["findings"]}
    one = run(study_file(tmp_path, accept={"a": [code]}))
    both = run(study_file(tmp_path, accept={"*": [code]}))
    assert [done.exit_code for done in (refused, one, both)] == [1, 1, 0]
    assert one.stdout.index("error") < one.stdout.index("accepted")
    assert "0 errors, 0 warnings, 2 accepted" in both.stdout
    assert both.stdout.count(code) == 2


def test_of_many_alike_the_first_are_shown(tmp_path: Path) -> None:
    for number in range(8):
        (tmp_path / "data" / "labelsTr").mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / "imagesTr").mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / "imagesTr" / f"case_{number}.nii.gz").touch()
    short, full = run(study_file(tmp_path)), run(study_file(tmp_path), "--all")
    assert short.stdout.count("way out:") == 5
    assert "… and 3 more of this kind (--all)" in short.stdout
    assert full.stdout.count("way out:") == 8
    assert "8 errors" in short.stdout


@pytest.mark.parametrize("name", ["a[red]b[/red]", "x[link=http:y]", "c[bold", "[/]", ":smile:"])
def test_markup_in_names_is_text(tmp_path: Path, name: str) -> None:
    write_scan(tmp_path / "data", name.replace("/", ""))
    done = run(study_file(tmp_path))
    assert done.exit_code == 0
    assert name.replace("/", "") in done.stdout
    assert "name.unwise" in done.stdout


def test_control_characters_go_nowhere(tmp_path: Path) -> None:
    write_scan(tmp_path / "data", "a")
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / "data" / folder / "b\x1b]0;owned\x07\x1b[2J.nii.gz").touch()
        (tmp_path / "data" / folder / b"c\xff.nii.gz".decode(errors="surrogateescape")).touch()
    done = run(study_file(tmp_path))
    assert done.exit_code == 1
    assert not {"\x1b", "\x07", "\udcff"} & set(done.stdout)
    assert done.stdout.count("name.refused") == 2
    report = run(study_file(tmp_path), "--json", tmp_path / "out.json")
    assert report.exit_code == 1
    assert {"\x1b", "\x07"} & set((tmp_path / "out.json").read_text()) == set()


def test_names_with_unprintable_spaces_can_be_accepted(tmp_path: Path) -> None:
    write_scan(tmp_path / "data", "a\u00a0b")
    assert "name.unwise" in run(study_file(tmp_path)).stdout
    done = run(study_file(tmp_path, accept={"a\u00a0b": ["name.unwise"]}))
    assert "0 warnings, 1 accepted" in done.stdout


def test_one_dataset(tmp_path: Path) -> None:
    write_scan(tmp_path / "data", "a")
    file = study_file(tmp_path)
    assert run(file, "--dataset", "liver").exit_code == 0
    with pytest.raises(ConfigError, match="did you mean liver"):
        raise_of(run(file, "--dataset", "livr"))


def raise_of(done: Result) -> None:
    """Raise what a command raised; `mskd.cli.main` prints it."""
    assert done.exception is not None
    raise done.exception


def test_help_shows_an_example() -> None:
    done = run("--help")
    assert "Example: mskd check-data config/demo.yaml" in " ".join(done.stdout.split())


def test_phantoms_are_checked_once_they_are_made(tmp_path: Path) -> None:
    scanner = {"spacing_mm": [8, 8, 10], "slice_thickness_mm": 10}
    phantom = {"organs": ["liver"], "n_train": 2, "n_val": 0, "n_test": 0, "scanner": scanner}
    study = parse_study({"results": str(tmp_path), "datasets": {"liver": {"phantom": phantom}}})
    before = check_data(study)
    assert (before.findings, before.files) == ((), 0)
    assert before.notes == ("liver: 2 of 2 synthetic scans are not made yet and not checked",)
    make_phantoms(study, "liver")
    after = check_data(study)
    assert (after.findings, after.files, after.notes) == ((), 4, ())


def test_a_killed_process_is_an_error_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from concurrent.futures import Future
    from concurrent.futures.process import BrokenProcessPool

    from mskd.errors import MskdError

    class Killed:
        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def submit(self, *_: Any) -> Future[Any]:
            future: Future[Any] = Future()
            future.set_exception(BrokenProcessPool())
            return future

        def shutdown(self, **_: Any) -> None:
            pass

    for name in ("a", "b"):
        write_scan(tmp_path / "data", name)
    monkeypatch.setattr("mskd.stages.check_data.SERIAL_BYTES", 0)
    monkeypatch.setattr("mskd.stages.check_data.ProcessPoolExecutor", Killed)
    study = parse_study(yaml.safe_load(study_file(tmp_path).read_text()))
    with pytest.raises(MskdError, match=r"liver/[ab] [\s\S]*fewer --jobs"):
        check_data(study, jobs=2)


def test_torch_is_not_imported(tmp_path: Path) -> None:
    write_scan(tmp_path / "data", "a")
    code = (
        "import sys\nfrom mskd.cli.app import app\n"
        f"app(['check-data', {str(study_file(tmp_path))!r}], standalone_mode=False)\n"
        "print(*({'torch', 'zarr', 'pandas', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.splitlines()[-1] == ""


def test_the_codes_are_those_of_findings() -> None:
    assert all(kind.severity in ("error", "warning") and kind.meaning for kind in CODES.values())
    with pytest.raises(ValueError, match="no kind of finding"):
        Finding("label.odd", "d", "c", "f", "e", "f", "x")
    finding = Finding("organ.volume", "d", "c", "f", "e", "f", "x").as_accepted()
    assert Finding.from_json(json.loads(json.dumps(finding.to_json()))) == finding


def test_plausible_volumes() -> None:
    for organ in ORGANS.values():
        assert 0 < organ.low_ml < organ.high_ml
    one, both = plausible_ml("kidney_left"), plausible_ml("kidneys")
    assert one is not None
    assert both == (one[0], 2 * one[1])
    assert plausible_ml("Right kidney") == plausible_ml("left-kidney") == one
    assert plausible_ml("liver_tumour") is None
    assert plausible_ml("left_adrenal_gland") is not None


@pytest.mark.data
@pytest.mark.skipif(not (DATA / "real_ct").is_dir(), reason=f"no real CT files at {DATA}/real_ct: set MSKD_DATA")
def test_real_scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSKD_DATA", str(DATA))
    study = yaml.safe_load((REPOSITORY / "config" / "real_ct.yaml").read_text())
    report: CheckReport = check_data(parse_study({**study, "results": str(tmp_path)}), ["spleen", "abdomen", "chest"])
    found = {(finding.case, finding.code) for finding in report.findings}
    assert found == {
        ("msd_spleen_8", "anatomy.mirrored"),
        ("ct_3mm", "organ.truncated"),  # the top of the liver is cut
        ("ct_3mm", "organ.volume"),  # a pancreas of 19 mL: a model's, too small to be true
        ("(all)", "label.unexpected"),  # the study uses four of its 117 structures
    }
    assert not report.errors
