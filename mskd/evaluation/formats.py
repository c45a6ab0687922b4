"""A comparison table as CSV, Markdown, LaTeX and HTML; equal tables give equal bytes."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from mskd.evaluation.frames import MEAN_ORGAN
from mskd.evaluation.layout import (
    COUNTS,
    MEASURES,
    best_methods,
    interval_text,
    long_form,
    marks,
    mean_and_deviation,
    of_dataset,
    wide_form,
)
from mskd.evaluation.statistics import STATISTICS_COLUMNS
from mskd.evaluation.tables import COUNT_COLUMNS, VALUE_COLUMNS, dataset_titles
from mskd.markdown import escaped, pipe_table
from mskd.storage import write_text

# Where a table is wider than this many organs, LaTeX shrinks it to the width of the page.
_ORGANS_PER_PAGE_WIDTH = 5
_CSV_DECIMALS = {column: 4 if column.endswith("_mm") else 6 for column in (*VALUE_COLUMNS, *STATISTICS_COLUMNS)}
_TEX_SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "†": r"\textsuperscript{\dag}",
    "‡": r"\textsuperscript{\ddag}",
    "×": r"$\times$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "−": r"$-$",
    "→": r"$\to$",
    "–": "--",
    "—": "---",
}
_CSS = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }
h2 { margin-top: 2.5rem; }
section { overflow-x: auto; }
td, th { font-variant-numeric: tabular-nums; white-space: nowrap; }
"""


def write_tables(
    table: pd.DataFrame,
    folder: Path,
    *,
    stem: str = "comparison",
    notes: Sequence[str] = (),
    labels: Mapping[str, str] | None = None,
) -> list[Path]:
    """Write `<stem>.csv`, `.md`, `.tex` and `.html`.

    Args:
        table: a comparison table.
        folder: where the files go.
        stem: name of the files.
        notes: sentences under every table: definition of HD95, tolerance, label maps.
        labels: names to show instead of method ids (not in the CSV).

    Returns:
        The four paths.
    """
    names = labels or {}
    texts = {
        "csv": csv_text(table),
        "md": markdown_text(table, notes, names),
        "tex": latex_text(table, notes, names),
        "html": html_text(table, notes, names),
    }
    paths = []
    for suffix, text in texts.items():
        path = folder / f"{stem}.{suffix}"
        write_text(path, text)
        paths.append(path)
    return paths


def csv_text(table: pd.DataFrame) -> str:
    """Return the table with fractions (not per cent), fixed decimals, and nothing where no value exists."""
    text = table.astype(dict.fromkeys(COUNT_COLUMNS, "int64")).astype(object)
    for column in (column for column in _CSV_DECIMALS if column in table):
        decimals = _CSV_DECIMALS[column]
        text[column] = ["" if pd.isna(value) else f"{value:.{decimals}f}" for value in table[column]]
    return text.to_csv(index=False, lineterminator="\n")


def markdown_text(table: pd.DataFrame, notes: Sequence[str], labels: Mapping[str, str]) -> str:
    """Return one pipe table per dataset, with the notes under it."""
    parts = []
    for dataset, role in dataset_titles(table):
        rows = long_form(of_dataset(table, dataset, role), labels)
        lines = [f"## {escaped(dataset)} ({escaped(role)})", ""]
        lines.append(pipe_table(list(rows.columns), rows.itertuples(index=False), text_columns=2))
        lines += ["", *(escaped(note) + "  " for note in notes)]
        parts.append("\n".join(lines).rstrip() + "\n")
    return "\n".join(parts)


def html_text(table: pd.DataFrame, notes: Sequence[str], labels: Mapping[str, str]) -> str:
    """Return a page of its own with one table per dataset; it loads nothing, and data names are text."""
    import great_tables

    parts = []
    for number, (dataset, role) in enumerate(dataset_titles(table)):
        rows = long_form(of_dataset(table, dataset, role), labels)
        is_mean = [index for index, organ in enumerate(rows["organ"]) if organ == MEAN_ORGAN]
        shown = great_tables.GT(rows, id=f"comparison{number}").cols_align("right", columns=list(rows.columns[2:]))
        shown = shown.tab_style(great_tables.style.text(weight="bold"), great_tables.loc.body(rows=is_mean))
        for note in notes:
            shown = shown.tab_source_note(great_tables.html(html.escape(note)))
        title = html.escape(f"{dataset} ({role})")
        parts.append(f"<section>\n<h2>{title}</h2>\n{shown.as_raw_html()}\n</section>\n")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Comparison</title>\n<style>{_CSS}</style>\n</head>\n<body>\n{''.join(parts)}</body>\n</html>\n"
    )


def latex_text(table: pd.DataFrame, notes: Sequence[str], labels: Mapping[str, str]) -> str:
    """Return one `table*` per dataset: methods by organs, a panel per measure, the best in bold."""
    parts = ["% Needs \\usepackage{booktabs,graphicx}; made for two-column papers (table* spans both).\n"]
    for dataset, role in dataset_titles(table):
        rows = of_dataset(table, dataset, role)
        organs = list(wide_form(rows, "n").columns)
        body = [f"\\begin{{tabular}}{{l{'r' * len(organs)}}}", "\\toprule", _latex_head(rows, organs)]
        for measure in MEASURES:
            body += _latex_panel(rows, organs, measure, labels)
            if measure[1] == "dice_mean":
                body += _latex_intervals(rows, organs, labels)
        body += _latex_counts(rows, organs, labels)
        body += ["\\bottomrule", "\\end{tabular}"]
        inner = "\n".join(body)
        if len(organs) > _ORGANS_PER_PAGE_WIDTH:
            inner = f"\\resizebox{{\\textwidth}}{{!}}{{%\n{inner}%\n}}"
        caption = " ".join([f"Comparison on {_tex(dataset)} ({_tex(role)}).", *map(_tex, notes)])
        parts.append(
            f"\\begin{{table*}}[t]\n\\centering\n\\caption{{{caption}}}\n\\footnotesize\n"
            f"\\setlength{{\\tabcolsep}}{{4pt}}\n{inner}\n\\end{{table*}}\n"
        )
    return "\n".join(parts)


def _latex_head(rows: pd.DataFrame, organs: list[str]) -> str:
    """Return the row of organ names with their number of cases."""
    cells = ["Method"]
    for organ in organs:
        cases = [int(n) for n in rows.loc[rows["organ"] == organ, "n"]]
        low, high = min(cases), max(cases)
        count = str(low) if low == high else f"{low}--{high}"
        cells.append(f"{_tex(organ)} ($n${{}}={{}}{count})")
    return " & ".join(cells) + r" \\"


def _latex_panel(
    rows: pd.DataFrame,
    organs: list[str],
    measure: tuple[str, str, str | None, float, int],
    labels: Mapping[str, str],
) -> list[str]:
    """Return the lines of one measure."""
    heading, mean, deviation, factor, decimals = measure
    means = wide_form(rows, mean)
    deviations = None if deviation is None else wide_form(rows, deviation)
    best = best_methods(rows, mean, highest=factor == 100.0)
    marked = wide_form(rows.assign(mark=marks(rows, mean)), "mark")
    lines = ["\\midrule", f"\\multicolumn{{{len(organs) + 1}}}{{l}}{{\\textit{{{_tex(heading)}}}}} \\\\"]
    for method in means.index:
        cells = [_tex(labels.get(method, method))]
        for organ in organs:
            spread = None if deviations is None else deviations.loc[method, organ]
            cell = _tex(mean_and_deviation(means.loc[method, organ], spread, factor, decimals))
            cell = f"\\textbf{{{cell}}}" if method in best.get(organ, set()) else cell
            cells.append(cell + (_tex(marked.loc[method, organ]) if cell != "--" else ""))
        lines.append(" & ".join(cells) + r" \\")
    return lines


def _latex_intervals(rows: pd.DataFrame, organs: list[str], labels: Mapping[str, str]) -> list[str]:
    """Return the lines of the intervals of the mean Dice and of the ranks, where they are known."""
    lines = []
    if "dice_ci_low" in rows and rows["dice_ci_low"].notna().any():
        low, high = wide_form(rows, "dice_ci_low"), wide_form(rows, "dice_ci_high")
        shown = {
            method: [interval_text(low.loc[method, organ], high.loc[method, organ], 100.0, 1) for organ in organs]
            for method in low.index
        }
        lines += _latex_lines("95 % CI of Dice, %", shown, labels)
    if "dice_rank" in rows and rows["dice_rank"].notna().any():
        ranks = wide_form(rows, "dice_rank")
        shown = {
            method: [mean_and_deviation(ranks.loc[method, organ], None, 1.0, 2) for organ in organs]
            for method in ranks.index
        }
        lines += _latex_lines("Mean rank of Dice over cases", shown, labels)
    return lines


def _latex_lines(heading: str, shown: Mapping[str, Sequence[str]], labels: Mapping[str, str]) -> list[str]:
    """Return a panel of plain cells."""
    width = 1 + max(len(cells) for cells in shown.values())
    lines = ["\\midrule", f"\\multicolumn{{{width}}}{{l}}{{\\textit{{{_tex(heading)}}}}} \\\\"]
    return lines + [
        " & ".join(_tex(cell) for cell in (labels.get(method, method), *cells)) + r" \\"
        for method, cells in shown.items()
    ]


def _latex_counts(rows: pd.DataFrame, organs: list[str], labels: Mapping[str, str]) -> list[str]:
    """Return the lines of the missed and spurious organs."""
    missed, spurious = (wide_form(rows, COUNTS[name]) for name in ("missed", "spurious"))
    lines = [
        "\\midrule",
        f"\\multicolumn{{{len(organs) + 1}}}{{l}}{{\\textit{{Missed / spurious cases}}}} \\\\",
    ]
    for method in missed.index:
        cells = [_tex(labels.get(method, method))]
        for organ in organs:
            pair = (missed.loc[method, organ], spurious.loc[method, organ])
            cells.append("--" if any(pd.isna(count) for count in pair) else f"{int(pair[0])} / {int(pair[1])}")
        lines.append(" & ".join(cells) + r" \\")
    return lines


def _tex(text: str) -> str:
    """Escape what LaTeX would interpret, and line breaks."""
    return "".join(_TEX_SPECIAL.get(letter, letter) for letter in " ".join(text.split()))
