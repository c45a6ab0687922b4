"""Markdown from names that are not ours: what they hold is text, never markup."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~$])")


def escaped(text: str) -> str:
    """Escape what Markdown or its HTML would interpret, and line breaks."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split())).replace("&", "&amp;")


def pipe_table(heads: Sequence[str], rows: Iterable[Sequence[object]], *, text_columns: int = 1) -> str:
    """Return a pipe table.

    Args:
        heads: Heads of the columns, Markdown.
        rows: Cells, plain text that is escaped here.
        text_columns: So many columns from the left are aligned left, the others right.
    """
    lines = ["| " + " | ".join(heads) + " |"]
    lines.append("|" + "|".join([" :-- "] * text_columns + [" --: "] * (len(heads) - text_columns)) + "|")
    lines += ["| " + " | ".join(escaped(str(cell)) for cell in row) + " |" for row in rows]
    return "\n".join(lines)
