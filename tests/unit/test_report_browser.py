"""The report and the viewer in a real browser: no error, sorting, scatter, a drawn volume, no sideways scrolling."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mskd.evaluation.frames import concatenate, score_frame
from mskd.evaluation.metrics import OrganScore
from mskd.evaluation.statistics import Procedure, add_statistics, difference_table, gap_table
from mskd.evaluation.tables import comparison_table
from mskd.report.inputs import ReportInputs, TrainingCurve
from mskd.report.page import write_report
from mskd.report.viewer import MAX_VOXELS, ViewerCase, niivue_source, write_viewer

CHROMIUM = next((found for name in ("chromium", "google-chrome") if (found := shutil.which(name))), None)
DRIVER = shutil.which("chromedriver")
EVIL = "<script>document.title='owned'</script>"
OPTIONS = [
    *("--headless=new", "--no-sandbox", "--no-first-run", "--disable-quic", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
]
QUICK = Procedure(resamples=999)
needs_niivue = pytest.mark.skipif(niivue_source() is None, reason="ipyniivue is not installed")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("no Chromium with its chromedriver on this machine")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for option in OPTIONS:
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def errors(browser: Any) -> list[str]:
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def eventually(browser: Any, script: str) -> Any:
    """Return what a script says as soon as it is true."""
    for _ in range(240):
        if found := browser.execute_script(script):
            return found
        time.sleep(0.25)
    raise AssertionError(f"never true: {script}\n{errors(browser)}")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a report of five methods, two organs and names that are markup."""
    folder = tmp_path_factory.mktemp("report")
    frames = []
    for rank, method in enumerate(("individual", "self_training", "full_labels", "mskd", "no_features")):
        for case in range(6):
            dice = 0.6 + 0.05 * rank + 0.01 * case * (-1) ** (rank * case)
            scores = [OrganScore(organ, dice, 30 - 5 * rank + case, dice, "scored") for organ in ("liver", EVIL)]
            where = {"dataset": "multi", "role": "external", "case": f"multi/{EVIL}{case}", "scan_diagonal_mm": 500.0}
            frames.append(score_frame(scores, study="s", method=method, fold=0, seed=0, **where))  # type: ignore[arg-type]
    metrics = concatenate(frames)
    progress = folder / "metrics.jsonl"
    progress.write_text('{"step": 1, "loss": 1.0, "val_dice": 0.1}\n{"step": 2, "loss": 0.5, "val_dice": 0.6}\n')
    ablated = metrics[metrics["method"].isin(["mskd", "no_features"])]
    compared = metrics[metrics["method"] != "no_features"]
    volume = np.random.default_rng(0).normal(40, 30, (40, 30, 20))
    label = np.zeros(volume.shape, np.uint8)
    label[10:25, 8:20, 5:15] = 1
    cases = [
        ViewerCase(f"{EVIL}{n}", volume, np.diag([4.0, 4, 5, 1]), {"reference": label, "a": label, "b": label.T.T})
        for n in range(2)
    ]
    viewer = write_viewer(folder, cases, {"liver": 1, EVIL: 2}, study=EVIL)
    write_report(
        folder,
        ReportInputs(
            study=EVIL,
            metrics=metrics,
            table=add_statistics(comparison_table(compared), compared, QUICK),
            ablation=add_statistics(comparison_table(ablated), ablated, QUICK),
            differences=difference_table(compared, QUICK),
            ablation_differences=difference_table(ablated, QUICK),
            gap=gap_table(metrics, QUICK),
            curves=[TrainingCurve(EVIL, progress, "students")],
            viewer=None if viewer is None else viewer.name,
            configuration_yaml=f"study: {EVIL}",
        ),
    )
    return folder


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_shows_tables_plots_and_names_without_an_error(browser: Any, report: Path, width: int) -> None:
    browser.set_window_size(width, 900)
    browser.get((report / "index.html").as_uri())
    assert errors(browser) == []
    assert browser.title != "owned"
    assert EVIL in browser.find_element("tag name", "h1").text
    tables = browser.find_elements("tag name", "table")
    assert len(tables) >= 2
    assert all(table.is_displayed() and table.size["height"] > 50 for table in tables)
    plots = browser.find_elements("css selector", "figure.plot img")
    assert len(plots) >= 3
    for plot in plots:
        browser.execute_script("arguments[0].loading = 'eager'; arguments[0].scrollIntoView()", plot)
        eventually(
            browser, "return [...document.images].filter(i => i.loading === 'eager').every(i => i.naturalWidth > 99)"
        )
    # what is wider than the screen scrolls inside itself
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    text = browser.find_element("tag name", "body").text
    assert "closes" in text
    assert "Wilcoxon" in text


def test_a_click_sorts_numbers_as_numbers_and_a_second_click_turns_them_round(browser: Any, report: Path) -> None:
    browser.set_window_size(1280, 900)
    browser.get((report / "index.html").as_uri())
    table = browser.find_element("tag name", "table")
    heads = [head.text for head in table.find_elements("tag name", "th")]
    column = next(i for i, head in enumerate(heads) if head.startswith("HD95 found"))

    def values() -> list[float]:
        rows = table.find_elements("css selector", "tbody tr")
        return [float(row.find_elements("tag name", "td")[column].text.split(" ")[0]) for row in rows]

    button = table.find_elements("css selector", "th button")[column]
    before = values()
    button.click()
    assert values() == sorted(before)
    assert values() != before
    button.click()
    assert values() == sorted(before, reverse=True)


def test_the_scatter_counts_wins_and_follows_the_choice(browser: Any, report: Path) -> None:
    browser.get((report / "index.html").as_uri())
    assert len(browser.find_elements("css selector", "#scatter-plot circle.dot")) == 12
    words = browser.find_element("id", "scatter-words")
    assert words.text == "mskd is ahead of individual in 12 of 12."
    browser.execute_script(
        "const s = document.getElementById('scatter-up'); s.value = s.options.length - 2;"
        "s.dispatchEvent(new Event('change'))"
    )
    assert not words.text.startswith("mskd is ahead")
    assert errors(browser) == []


@needs_niivue
@pytest.mark.parametrize("width", [390, 1280])
def test_the_viewer_draws_the_scan_and_the_labels(browser: Any, report: Path, width: int) -> None:
    browser.set_window_size(width, 900)
    browser.get((report / "viewer.html").as_uri())
    eventually(browser, "return document.getElementById('state').textContent.includes('beside the reference')")
    assert errors(browser) == []
    assert browser.title != "owned"
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    for canvas in browser.find_elements("tag name", "canvas"):
        browser.execute_script("arguments[0].scrollIntoView()", canvas)
        shot = _pixels(canvas.screenshot_as_png)
        spread = shot.max(axis=2).astype(int) - shot.min(axis=2)
        assert shot.std() > 10, "nothing is drawn"
        assert (spread > 60).mean() > 0.02, "no label is drawn in colour"
    browser.execute_script(
        "const s = document.getElementById('method'); s.value = 1; s.dispatchEvent(new Event('change'))"
    )
    eventually(browser, "return document.getElementById('state').textContent.includes(': b beside')")
    assert errors(browser) == []


def test_without_niivue_or_cases_there_is_no_viewer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert write_viewer(tmp_path, [], {"liver": 1}, study="s") is None
    monkeypatch.setattr("mskd.report.viewer.PACKAGE", "no_such_package_anywhere")
    volume = np.zeros((4, 4, 4))
    case = ViewerCase("a", volume, np.eye(4), {"reference": volume, "a": volume})
    assert write_viewer(tmp_path, [case], {"liver": 1}, study="s") is None
    assert list(tmp_path.iterdir()) == []


@needs_niivue
def test_large_scans_are_thinned_out_and_pages_are_equal_byte_for_byte(tmp_path: Path) -> None:
    volume = np.zeros((3 * MAX_VOXELS, 8, 8))
    case = ViewerCase("a", volume, np.eye(4), {"reference": volume, "a": volume})
    pages = [write_viewer(tmp_path / name, [case], {"liver": 1}, study="s") for name in ("x", "y")]
    first, second = (page.read_bytes() for page in pages if page is not None)
    assert first == second


def _pixels(png: bytes) -> Any:
    import io

    from matplotlib.image import imread

    return (255 * imread(io.BytesIO(png))[..., :3]).astype(np.uint8)
