"""Fingerprints change with code that matters, and with nothing else; checked on copies of the package."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mskd

PACKAGE = Path(mskd.__file__).parent

TOP = '''"""Top."""

from __future__ import annotations

import math

from mskd.errors import MskdError
from mskd.middle import half


def area(radius: float) -> float:
    """Return an area."""
    return half(2 * math.pi * radius**2)
'''
MIDDLE = '''"""Middle."""

from mskd.parts import bottom


class Halver:
    """Halves."""

    def halve(self, value: float) -> float:
        """Return a half."""
        return value / bottom.TWO


def half(value: float) -> float:
    return Halver().halve(value)
'''
BOTTOM = '"""Bottom."""\n\nTWO = 2\n'
ASK = """
import json, sys
import mskd
from mskd.fingerprint import code_fingerprint
answers = {" ".join(group): code_fingerprint(*group) for group in json.loads(sys.argv[1])}
print(json.dumps({"at": mskd.__file__, "answers": answers}))
"""


def fingerprints(root: Path, *groups: list[str]) -> dict[str, str]:
    """Return fingerprints by a fresh process that imports the package below `root`."""
    done = subprocess.run(
        [sys.executable, "-c", ASK, json.dumps(groups)],
        env={**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert Path(answer["at"]).is_relative_to(root)
    return dict(answer["answers"])


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A package with our fingerprint module and three modules of known imports; returns the folder above it."""
    package = tmp_path / "mskd"
    (package / "parts").mkdir(parents=True)
    for name in ("__init__.py", "fingerprint.py", "errors.py"):
        shutil.copy(PACKAGE / name, package / name)
    (package / "top.py").write_text(TOP)
    (package / "middle.py").write_text(MIDDLE)
    (package / "parts" / "__init__.py").write_text('"""Parts."""\n')
    (package / "parts" / "bottom.py").write_text(BOTTOM)
    (package / "parts" / "other.py").write_text("X = 1\n")
    return tmp_path


def of_top(root: Path) -> str:
    return fingerprints(root, ["mskd.top"])["mskd.top"]


def edit(root: Path, file: str, old: str, new: str) -> None:
    path = root / "mskd" / file
    text = path.read_text()
    assert text.count(old) == 1, (file, old, text.count(old))
    path.write_text(text.replace(old, new))


class TestWhatDoesNotCount:
    def test_comments_docstrings_and_formatting(self, small: Path) -> None:
        before = of_top(small)
        edit(small, "top.py", '"""Top."""', '"""Another text.\n\nOf several lines.\n"""')
        edit(small, "top.py", '    """Return an area."""\n', "")
        edit(small, "top.py", "half(2 * math.pi * radius**2)", "half(\n        2*math.pi*(radius ** 2),\n    )  # why")
        edit(small, "middle.py", '    """Halves."""', "    '''Halves, twice.'''")
        edit(small, "middle.py", '        """Return a half."""\n', '        """Other."""\n        # a comment\n')
        edit(small, "parts/bottom.py", "TWO = 2", "\n\nTWO = (2)")
        assert of_top(small) == before

    def test_a_docstring_where_there_was_none(self, small: Path) -> None:
        before = of_top(small)
        edit(small, "middle.py", "    return Halver", '    """New."""\n    return Halver')
        assert of_top(small) == before

    @pytest.mark.parametrize("name", ["errors.py", "__init__.py", "fingerprint.py"])
    def test_neutral_modules(self, small: Path, name: str) -> None:
        before = of_top(small)
        with (small / "mskd" / name).open("a") as stream:
            stream.write("\n\nNEW_CONSTANT = 3\n")
        assert of_top(small) == before

    def test_modules_that_are_not_imported(self, small: Path) -> None:
        before = of_top(small)
        (small / "mskd" / "parts" / "other.py").write_text("X = 2\n")
        (small / "mskd" / "parts" / "brand_new.py").write_text("from mskd.top import area\n")
        assert of_top(small) == before

    def test_place_and_process(self, small: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
        elsewhere = tmp_path_factory.mktemp("elsewhere")
        shutil.copytree(small / "mskd", elsewhere / "mskd")
        assert of_top(elsewhere) == of_top(small)


class TestWhatCounts:
    @pytest.mark.parametrize(
        ("file", "old", "new"),
        [
            ("top.py", "radius**2", "radius**3"),
            ("top.py", "(radius: float)", "(radius: float = 1.0)"),
            ("top.py", "2 * math.pi", "math.pi * 2"),
            ("middle.py", "value / bottom.TWO", "value * bottom.TWO"),
            ("parts/bottom.py", "TWO = 2", "TWO = 2.0"),
        ],
    )
    def test_code_here_and_in_what_is_imported(self, small: Path, file: str, old: str, new: str) -> None:
        before = fingerprints(small, ["mskd.top"], ["mskd.parts.other"])
        edit(small, file, old, new)
        after = fingerprints(small, ["mskd.top"], ["mskd.parts.other"])
        assert after["mskd.top"] != before["mskd.top"]
        assert after["mskd.parts.other"] == before["mskd.parts.other"]

    def test_strings_that_are_no_docstrings(self, small: Path) -> None:
        edit(small, "parts/bottom.py", "TWO = 2", 'TWO = 2\nNAME = """a"""')
        before = of_top(small)
        edit(small, "parts/bottom.py", '"""a"""', '"""b"""')
        assert of_top(small) != before

    def test_code_after_a_docstring_stays(self, small: Path) -> None:
        edit(small, "middle.py", '"""Halves."""\n', '"""Halves."""\n\n    SIDE = 1\n')
        before = of_top(small)
        edit(small, "middle.py", "SIDE = 1", "SIDE = 2")
        assert of_top(small) != before

    def test_the_way_down_only(self, small: Path) -> None:
        groups = ["mskd.top"], ["mskd.middle"], ["mskd.parts.bottom"]
        before = fingerprints(small, *groups)
        edit(small, "middle.py", "value / bottom.TWO", "value * bottom.TWO")
        after = fingerprints(small, *groups)
        assert {name for name in before if before[name] != after[name]} == {"mskd.top", "mskd.middle"}

    def test_imports_inside_functions(self, small: Path) -> None:
        edit(small, "parts/bottom.py", "TWO = 2", "TWO = 2\n\n\ndef f():\n    from mskd.parts import other\n")
        before = of_top(small)
        (small / "mskd" / "parts" / "other.py").write_text("X = 2\n")
        assert of_top(small) != before

    def test_relative_imports(self, small: Path) -> None:
        edit(small, "parts/bottom.py", "TWO = 2", "from .other import X\n\nTWO = 2")
        edit(small, "middle.py", "from mskd.parts import bottom", "from .parts import bottom")
        before = of_top(small)
        (small / "mskd" / "parts" / "other.py").write_text("X = 2\n")
        assert of_top(small) != before

    def test_circles_end(self, small: Path) -> None:
        edit(small, "parts/bottom.py", "TWO = 2", "import mskd.top\n\nTWO = 2")
        before = fingerprints(small, ["mskd.parts.bottom"])
        edit(small, "top.py", "radius**2", "radius**3")
        assert fingerprints(small, ["mskd.parts.bottom"]) != before

    def test_a_set_of_modules(self, small: Path) -> None:
        found = fingerprints(
            small,
            ["mskd.top", "mskd.parts.other"],
            ["mskd.parts.other", "mskd.top"],
            ["mskd.top"],
            ["mskd.top", "mskd.middle"],
        )
        one, turned, top, implied = found.values()
        assert one == turned
        assert one != top
        assert implied == top  # middle is below top anyway


def test_a_module_that_does_not_exist() -> None:
    from mskd.fingerprint import code_fingerprint

    with pytest.raises(ValueError, match=r"mskd\.nowhere"):
        code_fingerprint("mskd.nowhere")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the real package; returns the folder above it."""
    root = tmp_path_factory.mktemp("copy")
    shutil.copytree(PACKAGE, root / "mskd", ignore=shutil.ignore_patterns("__pycache__"))
    return root


def test_a_new_method_changes_no_other(whole: Path) -> None:
    methods = [f"mskd.methods.{kind}" for kind in ("mskd", "self_training", "naive_union", "individual")]
    groups = [[name] for name in methods] + [["mskd.training.loop"], ["mskd.prepared"]]
    before = fingerprints(whole, *groups)
    new = (whole / "mskd" / "methods" / "naive_union.py").read_text().replace("naive union", "brand new")
    (whole / "mskd" / "methods" / "brand_new.py").write_text(new)
    after = fingerprints(whole, *groups, ["mskd.methods.brand_new"])
    assert after.pop("mskd.methods.brand_new") not in before.values()
    assert after == before
    assert len(set(before.values())) == len(before)


@pytest.mark.parametrize(
    ("file", "changed"),
    [
        ("methods/self_training.py", {"mskd.methods.self_training"}),
        ("losses/distillation.py", {"mskd.methods.mskd"}),
        ("regions.py", {"mskd.methods.mskd", "mskd.methods.self_training"}),
        ("losses/supervision.py", {"mskd.methods.mskd", "mskd.methods.self_training", "mskd.methods.naive_union"}),
        ("preparation.py", {"mskd.preparation"}),
        ("resampling.py", {"mskd.preparation"}),
        ("console.py", set()),
        ("config/training.py", set()),
        ("methods/registry.py", set()),
    ],
)
def test_a_changed_file_changes_what_stands_on_it(whole: Path, file: str, changed: set[str]) -> None:
    names = ["methods.mskd", "methods.self_training", "methods.naive_union", "preparation"]
    groups = [[f"mskd.{name}"] for name in names]
    before = fingerprints(whole, *groups)
    path = whole / "mskd" / file
    text = path.read_text()
    path.write_text(text + "\nADDED_BY_A_TEST = 1\n")
    after = fingerprints(whole, *groups)
    path.write_text(text)
    assert {name for name in before if before[name] != after[name]} == changed
