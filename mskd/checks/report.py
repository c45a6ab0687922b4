"""What the checks found: on a screen, and for machines."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

from mskd.checks.finding import Finding
from mskd.console import printable

if TYPE_CHECKING:
    from rich.table import Table

    from mskd.stages.check_data import CheckReport

VERSION = 1
SHOWN = 5  # findings of one kind in one dataset; --all shows the others
_COLOURS = {"error": "bold red", "warning": "yellow"}


def report_json(report: CheckReport) -> str:
    """Return the report as JSON: version, study, counts, cases by dataset, notes, findings."""
    data = {
        "version": VERSION,
        "study": report.study,
        "counts": {
            "errors": len(report.errors),
            "warnings": len(report.warnings),
            "accepted": len(report.accepted),
            "files": report.files,
        },
        "cases": dict(report.cases),
        "notes": list(report.notes),
        "findings": [finding.to_json() for finding in report.findings],
    }
    return json.dumps(data, indent=1)


def show_report(report: CheckReport, *, everything: bool = False) -> None:
    """Print a table for each dataset with findings, and a summary; of a kind that many cases have, the first few."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    for dataset in report.cases:
        findings = [finding for finding in report.findings if finding.dataset == dataset]
        if findings:
            console.print(_table(dataset, findings, everything=everything))
    for note in report.notes:
        console.print(note)
    console.print(summary(report))


def summary(report: CheckReport) -> str:
    """Return the numbers in one line."""
    cases = sum(report.cases.values())
    checked = f"{_count(cases, 'case')} of {_count(len(report.cases), 'dataset')}, {_count(report.files, 'file')}"
    if not report.findings:
        return f"nothing found; checked {checked}"
    parts = [_count(len(report.errors), "error"), _count(len(report.warnings), "warning")]
    parts += [f"{len(report.accepted)} accepted"] if report.accepted else []
    return f"{', '.join(parts)}; checked {checked}"


def _table(dataset: str, findings: list[Finding], *, everything: bool) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(title=dataset, title_justify="left", box=SIMPLE_HEAD, show_lines=False, title_style="bold")
    table.add_column("finding")
    table.add_column("case", overflow="fold")
    table.add_column("expected, found, way out", overflow="fold", ratio=1)
    counts: Counter[tuple[str, bool]] = Counter()
    totals = Counter((finding.code, finding.accepted) for finding in findings)
    for finding in findings:
        kind = (finding.code, finding.accepted)
        counts[kind] += 1
        said = "accepted" if finding.accepted else finding.severity
        style = "dim" if finding.accepted else _COLOURS[finding.severity]
        if counts[kind] <= SHOWN or everything:
            lines = [
                finding.file,
                f"expected: {finding.expected}",
                f"found:    {finding.found}",
                *([] if finding.accepted else [f"way out:  {finding.fix}"]),
            ]
            # plain Text: nothing in a name is taken for markup
            label = Text(f"{said}\n", style).append(finding.code, "")
            table.add_row(label, Text(printable(finding.case)), Text("\n".join(lines)))
        elif counts[kind] == SHOWN + 1:
            more = f"… and {totals[kind] - SHOWN} more of this kind (--all)"
            table.add_row(Text(f"{said}\n", style).append(finding.code, ""), Text(""), Text(more))
    return table


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
