"""The contract of metrics.csv, the counting rules of the comparison table, and the four formats."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from mskd.errors import DataError
from mskd.evaluation.figures import box_plot, save_figure
from mskd.evaluation.formats import write_tables
from mskd.evaluation.frames import (
    COLUMNS,
    concatenate,
    read_all_metrics,
    read_metrics,
    scan_diagonal_mm,
    score_frame,
    write_metrics,
)
from mskd.evaluation.layout import best_methods, of_dataset, terminal_table, wide_form
from mskd.evaluation.metrics import OrganScore
from mskd.evaluation.statistics import Procedure, add_statistics, statistics_notes
from mskd.evaluation.tables import TABLE_COLUMNS, case_scores, comparison_table

SCORED = OrganScore("liver", 0.9, 3.0, 0.8, "scored")
MISSED = OrganScore("liver", 0.0, None, 0.0, "missed")
SPURIOUS = OrganScore("liver", None, None, None, "spurious")
ABSENT = OrganScore("liver", None, None, None, "absent")


def rows(
    scores: Sequence[OrganScore],
    case: str,
    *,
    method: str = "mskd",
    seed: int = 0,
    dataset: str = "multi",
    role: str = "external",
    diagonal_mm: float = 500.0,
) -> pd.DataFrame:
    return score_frame(
        scores,
        study="demo",
        method=method,
        fold=0,
        seed=seed,
        dataset=dataset,
        role=role,
        case=case,
        scan_diagonal_mm=diagonal_mm,
    )


def organ(name: str, dice: float, hd95_mm: float = 2.0) -> OrganScore:
    return OrganScore(name, dice, hd95_mm, dice, "scored")


def only(table: pd.DataFrame, **where: str) -> pd.Series:
    for column, value in where.items():
        table = table[table[column] == value]
    assert len(table) == 1
    return table.iloc[0]


def population() -> pd.DataFrame:
    """Three methods on a multi-organ set with unkind names and on a single-organ set."""
    rng = np.random.default_rng(3)
    frames = []
    for method in ("mskd", "individual", "full_labels"):
        for seed in (0, 1):
            for number in range(4):
                scores = [organ(name, float(rng.uniform(0.6, 0.9))) for name in ("liver", "<b>$_&|[red]")]
                case = f"multi/<script>{number}"
                frames.append(rows(scores, case, method=method, seed=seed, dataset="multi_<i>%"))
                frames.append(rows(scores[:1], f"a/{number}", method=method, seed=seed, dataset="a", role="test"))
    return concatenate(frames)


def test_metrics_survive_a_round_trip_byte_for_byte(tmp_path: Path) -> None:
    frame = concatenate([rows([SCORED], "NA"), rows([MISSED], "null"), rows([SPURIOUS], "c,\n\"d'")])
    first, second = tmp_path / "deep" / "metrics.csv", tmp_path / "again.csv"
    write_metrics(frame, first)
    read = read_metrics(first)
    pd.testing.assert_frame_equal(read, frame)
    write_metrics(read, second)
    assert first.read_bytes() == second.read_bytes()
    assert first.read_text().splitlines()[1] == (
        "demo,mskd,0,0,multi,external,NA,liver,0.900000,3.0000,0.800000,scored,500.00"
    )
    assert [path.name for path in first.parent.iterdir()] == ["metrics.csv"]


def test_no_rows_still_have_the_columns(tmp_path: Path) -> None:
    write_metrics(concatenate([]), tmp_path / "metrics.csv")
    read = read_metrics(tmp_path / "metrics.csv")
    assert tuple(read.columns) == COLUMNS
    table = comparison_table(concatenate([read, rows([ABSENT], "a")]))
    assert tuple(table.columns) == TABLE_COLUMNS
    assert table.empty
    assert comparison_table(read).empty


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("status", "found", "status one of scored, missed, spurious, absent"),
        ("role", "train", "role one of test, external, resubstitution"),
        ("dice", 1.5, "dice within 0 … 1"),
        ("hd95_mm", -1.0, "hd95_mm of 0 or more"),
        ("hd95_mm", np.nan, "a number in hd95_mm where status is scored"),
        ("organ", "mean", "organ names other than"),
    ],
)
def test_a_row_that_breaks_the_contract_is_named(tmp_path: Path, column: str, value: object, message: str) -> None:
    frame = rows([SCORED], "case_7")
    frame[column] = value
    with pytest.raises(DataError, match=re.escape(message)) as error:
        write_metrics(frame, tmp_path / "metrics.csv")
    assert error.value.case == "case_7"
    assert not (tmp_path / "metrics.csv").exists()


def test_unreadable_metrics_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    with pytest.raises(DataError, match="no such file"):
        read_metrics(path)
    path.write_text("")
    with pytest.raises(DataError, match="comma-separated"):
        read_metrics(path)
    path.write_text("study,method\ndemo,mskd\n")
    with pytest.raises(DataError, match="no fold, seed"):
        read_metrics(path)
    write_metrics(rows([SCORED], "a"), path)
    with pytest.raises(DataError, match="one row per run, case and organ"):
        read_all_metrics([path, path])
    path.write_text(path.read_text().replace("0.900000", "high"))
    with pytest.raises(DataError, match="numbers or nothing"):
        read_metrics(path)


def test_counts_and_the_two_means_of_hd95() -> None:
    """Two found at 3 mm, one missed in a 500 mm scan, one spurious, one absent."""
    scores = {"a": SCORED, "b": SCORED, "c": MISSED, "d": SPURIOUS, "e": ABSENT}
    table = comparison_table(concatenate([rows([score], case) for case, score in scores.items()]))
    row = only(table, organ="liver")
    assert (row["n"], row["n_missed"], row["n_spurious"]) == (3, 1, 1)
    assert row["dice_mean"] == pytest.approx(0.6)
    assert row["dice_std"] == pytest.approx(np.std([0.9, 0.9, 0.0], ddof=1))
    assert row["hd95_mean_mm"] == pytest.approx(3.0)
    assert row["hd95_std_mm"] == pytest.approx(0.0)
    assert row["hd95_penalised_mean_mm"] == pytest.approx((3 + 3 + 500) / 3)
    assert row["nsd_mean"] == pytest.approx(1.6 / 3)
    assert all(table[column].dtype == np.int64 for column in ("n", "n_missed", "n_spurious"))


def test_an_organ_that_nobody_found_has_no_hd95_but_a_penalty() -> None:
    row = only(comparison_table(rows([MISSED], "a")), organ="liver")
    assert np.isnan(row["hd95_mean_mm"])
    assert np.isnan(row["dice_std"])
    assert row["hd95_penalised_mean_mm"] == 500.0


def test_runs_are_averaged_per_case_first() -> None:
    """A case scored by three seeds weighs as much as a case scored by one."""
    frames = [rows([organ("liver", dice)], "a", seed=seed) for seed, dice in enumerate((0.6, 0.7, 0.8))]
    frames += [rows([organ("liver", 0.9)], "b"), rows([MISSED], "c"), rows([SCORED], "c", seed=1)]
    metrics = concatenate(frames)
    row = only(comparison_table(metrics), organ="liver")
    assert (row["n"], row["n_missed"]) == (3, 1)
    assert row["dice_mean"] == pytest.approx((0.7 + 0.9 + 0.45) / 3)
    missed = only(case_scores(metrics), case="c")
    assert missed["hd95_mm"] == pytest.approx(3.0)
    assert missed["hd95_penalised_mm"] == pytest.approx(251.5)


def test_the_mean_row_weighs_organs_alike() -> None:
    frames = [rows([organ("liver", 0.8), organ("spleen", 0.4)], "a"), rows([organ("liver", 1.0)], "b")]
    table = comparison_table(concatenate(frames), organs=["spleen", "liver"])
    assert list(table["organ"]) == ["spleen", "liver", "mean"]
    row = only(table, organ="mean")
    assert row["n"] == 2
    assert row["dice_mean"] == pytest.approx((0.9 + 0.4) / 2)
    assert row["dice_std"] == pytest.approx(np.std([0.6, 1.0], ddof=1))


def test_datasets_and_roles_are_not_pooled_and_the_order_is_for_readers() -> None:
    frames = [
        rows([SCORED], "a", method=method, dataset=dataset, role=role)
        for method in ("zeta", "mskd", "individual")
        for dataset, role in (("b", "test"), ("a", "test"), ("a", "resubstitution"))
    ]
    table = comparison_table(concatenate(frames))
    assert set(table["n"]) == {1}
    shown = table[table["organ"] == "liver"]
    assert list(shown["method"]) == ["individual", "mskd", "zeta"] * 3
    assert list(shown["dataset"]) == ["a"] * 6 + ["b"] * 3
    chosen = comparison_table(concatenate(frames), methods=["mskd"], datasets=["b"])
    assert chosen.iloc[0][["method", "dataset"]].tolist() == ["mskd", "b"]


def test_formats_are_deterministic_whatever_the_order_of_rows(tmp_path: Path) -> None:
    metrics = population()
    shuffled = metrics.sample(frac=1.0, random_state=1)
    first = write_tables(comparison_table(metrics), tmp_path / "a", notes=["HD95: as MONAI."])
    second = write_tables(comparison_table(shuffled), tmp_path / "b", notes=["HD95: as MONAI."])
    assert [path.name for path in first] == [f"comparison.{suffix}" for suffix in ("csv", "md", "tex", "html")]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_csv_has_whole_counts_and_fractions(tmp_path: Path) -> None:
    write_tables(comparison_table(rows([MISSED], "a")), tmp_path)
    lines = (tmp_path / "comparison.csv").read_text().splitlines()
    assert lines[0].split(",") == list(TABLE_COLUMNS)
    assert lines[1] == "mskd,multi,liver,1,1,0,0.000000,,,,500.0000,0.000000,,external"


def test_names_are_text_in_every_format(tmp_path: Path) -> None:
    notes = ["Label map: <u>liver</u> = 1_2 & 50 %."]
    write_tables(comparison_table(population()), tmp_path, notes=notes, labels={"mskd": "MS_KD <em>"})
    page = (tmp_path / "comparison.html").read_text()
    for tag in ("<b>", "<i>", "<u>", "<em>"):
        assert tag not in page
    assert "&lt;b&gt;$_&amp;|[red]" in page
    assert "&lt;u&gt;liver" in page
    assert "&amp;lt;" not in page
    assert not re.search(r"https?:|@import|url\(", page)
    markdown = (tmp_path / "comparison.md").read_text()
    assert r"\<b\>\$\_&amp;\|\[red\]" in markdown
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in markdown.splitlines() if line.startswith("|")}
    assert widths == {10}
    latex = (tmp_path / "comparison.tex").read_text()
    assert r"\textless{}b\textgreater{}\$\_\&\textbar{}[red]" in latex
    assert r"= 1\_2 \& 50 \%." in latex


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
@pytest.mark.parametrize("n_organs", [1, 4, 9])
def test_latex_compiles_in_a_two_column_paper(tmp_path: Path, n_organs: int) -> None:
    frames = []
    for rank, method in enumerate(["mskd", "individual", "self_training"]):
        for case in range(8):
            dice = 0.9 - 0.02 * rank - 0.003 * case * (1 + rank)
            scores = [organ(f"organ_{number}", dice) for number in range(n_organs)]
            frames.append(rows(scores, f"c{case}", method=method))
    frame, procedure = concatenate(frames), Procedure(resamples=999)
    notes = ["Mean ± sd; tolerance 2 mm; 50 % of #1.", *statistics_notes(frame, procedure, "MS-KD")]
    write_tables(add_statistics(comparison_table(frame), frame, procedure), tmp_path, notes=notes)
    assert r"\dag" in (tmp_path / "comparison.tex").read_text()
    (tmp_path / "paper.tex").write_text(
        r"\documentclass[twocolumn]{article}\usepackage{booktabs,graphicx}"
        r"\begin{document}Text.\input{comparison.tex}\end{document}"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False, timeout=60)
    log = done.stdout.decode("utf-8", errors="replace")
    assert done.returncode == 0, log[-2000:]
    assert "Overfull \\hbox" not in log


def test_wide_form_and_terminal() -> None:
    table = comparison_table(population())
    chosen = of_dataset(table, "multi_<i>%", "external")
    assert list(wide_form(chosen, "dice_mean").columns) == ["<b>$_&|[red]", "liver", "mean"]
    assert list(wide_form(chosen, "n").index) == ["individual", "full_labels", "mskd"]
    assert all("full_labels" not in methods for methods in best_methods(chosen, "dice_mean", highest=True).values())
    console = Console(file=io.StringIO(), width=120, color_system=None)
    console.print(terminal_table(table, "multi_<i>%", "external", {"mskd": "[blue]ours"}))
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[red]" in printed
    assert "[blue]ours" in printed
    assert "Dice in % on multi_<i>% (external)" in printed


def test_scan_diagonal() -> None:
    assert scan_diagonal_mm((3, 4, 12), (1.0, 1.0, 1.0)) == 13.0


@pytest.mark.parametrize("measure", ["dice", "hd95_mm", "nsd"])
def test_box_plots_are_deterministic(tmp_path: Path, measure: str) -> None:
    metrics = population()
    written = []
    for name in ("a", "b"):
        figure = box_plot(metrics, "multi_<i>%", "external", measure=measure, labels={"mskd": "a$b$"})
        written.append([path.read_bytes() for path in save_figure(figure, tmp_path / name)])
    assert written[0] == written[1]
    assert b"<dc:date>" not in written[0][1]


def test_a_box_plot_without_a_found_organ_is_empty_but_drawn(tmp_path: Path) -> None:
    figure = box_plot(rows([MISSED], "a"), "multi", "external", measure="hd95_mm")
    assert [path.suffix for path in save_figure(figure, tmp_path / "x.y")] == [".png", ".svg"]
    assert (tmp_path / "x.y.png").is_file()
