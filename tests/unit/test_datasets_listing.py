"""The registry of adapters, case names, blocks, and what holds for every adapter."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mskd.datasets.blocks import block_names, block_of
from mskd.datasets.case import check_case_name, natural_key
from mskd.datasets.collection import ListingError
from mskd.datasets.listing import adapter_facts, adapter_names, find_cases
from mskd.errors import ConfigError, DataError

EXPECTED = [
    *("abdomenatlas", "amos", "btcv", "flare22", "kits", "lits", "msd"),
    *("nih_pancreas", "nnunet", "single", "table", "totalsegmentator"),
]
OPTIONS = {"single": {"image": "ct.nii.gz"}}


def test_adapter_names() -> None:
    assert set(EXPECTED) <= set(adapter_names())


@pytest.mark.parametrize("adapter", EXPECTED)
def test_facts(adapter: str) -> None:
    facts = adapter_facts(adapter)
    assert facts.title
    assert facts.layout
    assert all(facts.options.values())
    assert facts.licence or not facts.non_commercial


@pytest.mark.parametrize("adapter", EXPECTED)
def test_missing_folder(adapter: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere[\s\S]*way out"):
        find_cases(adapter, tmp_path / "nowhere", OPTIONS.get(adapter))


@pytest.mark.parametrize("adapter", EXPECTED)
def test_empty_folder(adapter: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="way out"):
        find_cases(adapter, tmp_path, OPTIONS.get(adapter))


@pytest.mark.parametrize("adapter", EXPECTED)
def test_file_instead_of_folder(adapter: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file"):
        find_cases(adapter, tmp_path / "file", OPTIONS.get(adapter))


@pytest.mark.parametrize("adapter", EXPECTED)
def test_unknown_option(adapter: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no option colour"):
        find_cases(adapter, tmp_path, {"colour": "red"})


def test_unknown_option_value(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="error, skip, keep"):
        find_cases("kits", tmp_path, {"unlabelled": "maybe"})


@pytest.mark.parametrize("adapter", ["mds", "../msd", "os.path", ""])
def test_unknown_adapter(adapter: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        find_cases(adapter, tmp_path)


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, mskd.datasets.listing as l, mskd.datasets.splits, mskd.datasets.blocks\n"
        "assert not any(m.startswith('mskd.datasets.adapters.') for m in sys.modules)\n"
        "[l.adapter_facts(name) for name in l.adapter_names()]\n"
        "assert not {'numpy', 'nibabel', 'torch', 'pandas', 'pydantic'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_unreadable_file_is_an_error_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(self))

    (tmp_path / "case_00000").mkdir()
    monkeypatch.setattr(Path, "is_file", refuse)
    with pytest.raises(DataError, match="permission denied"):
        find_cases("kits", tmp_path)


def test_listing_error_survives_a_process_boundary(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"volume-{number}.nii").touch()
    (tmp_path / "segmentation-3.nii").touch()
    with pytest.raises(ListingError) as caught:
        find_cases("lits", tmp_path)
    error = pickle.loads(pickle.dumps(caught.value))  # noqa: S301
    assert str(error) == str(caught.value)
    assert "and 9 more faults" in str(error)
    assert (len(error.problems), len(error.cases)) == (29, 1)
    assert error.case == error.problems[0].case


def test_file_names_cannot_steer_the_terminal(tmp_path: Path) -> None:
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).mkdir()
    (tmp_path / "imagesTr" / "a\x1b[2Jb.nii.gz").touch()
    with pytest.raises(DataError) as caught:
        find_cases("msd", tmp_path)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        *("", "a/b", "a\\b", "..", ".hidden", "-rf", "a\nb", "a\0", "a\x7f", " a", "a ", "x" * 151),
        *("a\u202eb", "a\u2028b", "bad\udcff"),
    ],
)
def test_refused_names(name: str) -> None:
    with pytest.raises(DataError) as caught:
        check_case_name(name, "file.nii.gz")
    assert "table" in caught.value.fix


def test_plain_names() -> None:
    for name in ("liver_1", "volume-1", "case_00000", "A.1+2", "x" * 150):
        assert check_case_name(name, "f") == ()


def test_unwise_names() -> None:
    assert check_case_name("a b'$;ü", "f") == (
        "character ' ' (SPACE)",
        "character '$' (DOLLAR SIGN)",
        'character "\'" (APOSTROPHE)',
        "character ';' (SEMICOLON)",
        "character 'ü' (LATIN SMALL LETTER U WITH DIAERESIS)",
    )


@given(st.text(st.characters()))
def test_accepted_names_are_one_path_component(name: str) -> None:
    try:
        check_case_name(name, "f")
    except DataError:
        return
    assert Path("root", name).name == name
    assert name.encode()


@given(st.lists(st.text("ab019_²", max_size=6)))
def test_natural_key_orders_anything(names: list[str]) -> None:
    keys = [natural_key(name) for name in sorted(names, key=natural_key)]
    assert keys == sorted(keys)  # type: ignore[type-var]


def test_natural_key_numbers() -> None:
    names = ["c2", "c10", "c010", "c1", "c" + "9" * 5000]
    assert sorted(names, key=natural_key)[:4] == ["c1", "c2", "c010", "c10"]


@given(st.text(st.characters(codec="utf-8")), st.integers(1, 2000))
def test_block_is_one_of_the_names(case_id: str, n_blocks: int) -> None:
    assert block_of(case_id, n_blocks) in block_names(n_blocks)


@given(st.lists(st.text("abc0123", min_size=1), min_size=1), st.integers(1, 300))
def test_one_block_more_divides_one_block_and_leaves_the_others_alone(ids: list[str], n_blocks: int) -> None:
    new, moved = block_names(n_blocks + 1)[-1], set()
    for case_id in ids:
        before, after = block_of(case_id, n_blocks), block_of(case_id, n_blocks + 1)
        if before != after:
            assert after == new
            moved.add(before)
    assert len(moved) <= 1


def test_blocks_are_fixed_for_ever() -> None:
    # sha256("liver/liver_1") begins with these eight bytes.
    first = int.from_bytes(bytes.fromhex("a3561870dcc826f0"), "big")
    assert block_of("liver/liver_1", 8) == f"b{first % 8:02d}"
    # 101 blocks are 128 of which the last 27 are not divided off yet
    whole = first % 128
    assert block_of("liver/liver_1", 101) == f"b{whole if whole < 101 else whole - 64:02d}"
    assert block_names(3) == ("b00", "b01", "b02")
    with pytest.raises(ConfigError, match="at least 1"):
        block_of("liver/liver_1", 0)
