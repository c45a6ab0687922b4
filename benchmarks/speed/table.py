"""From rows to the tables of docs/speed.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.speed.pairing import BROKEN, DIFFERENT, MEASURED, SKIPPED
from mskd.markdown import escaped, pipe_table

LINEAR = 0.05  # an exponent that is so near to 1 is called linear

GROWTH = (
    "Ours alone, at three points that run in turns, each in a process of its own. The exponent is the slope of log "
    "time over log size from the first point to the last: 1 is linear.\n"
)
HEAD = (
    "| what | against | ours | theirs | ours / theirs: median (range) | target | reached | peak memory ours, theirs |\n"
    "|---|---|---|---|---|---|---|---|\n"
)


def page(rows: Sequence[dict[str, Any]]) -> str:
    """Return the whole page: times side by side, answers, commands, growth, and what they were measured with."""
    paired = [row for row in rows if row["kind"] == "pair"]
    parts = ["# Speed, side by side\n", _introduction(rows)]
    if paired:
        parts += ["## Times\n", HEAD + "".join(_line(row) for row in paired), _notes(paired)]
        parts += ["## Answers\n", _answers(paired)]
    if commands := [row for row in rows if row["kind"] == "command"]:
        parts += ["## Commands\n", _commands(commands)]
    if growth := [row for row in rows if row["kind"] == "growth"]:
        parts += ["## Growth\n", GROWTH, *map(_grown, growth)]
    return "\n".join(parts)


def _introduction(rows: Sequence[dict[str, Any]]) -> str:
    if not rows:
        return "Nothing is measured yet: `mskd bench`.\n"
    lines = [
        "Made by `mskd bench`. The answers are compared first; a row whose answers differ has no time. Then both sides "
        "run in turns, each in a process of its own; the ratio is the median over rounds of ours / theirs. Peak memory "
        "is the largest resident memory during the work: libraries and inputs in memory count, setting up does not.\n"
    ]
    if any(row["options"]["quick"] for row in rows):
        lines.append("**Some rows come from `--quick`: they show that the harness works, not how fast anything is.**\n")
    for made in _distinct([{"machine": _still(row["machine"]), "versions": row["versions"]} for row in rows]):
        hardware = ", ".join(f"{name} {value}" for name, value in made["machine"].items())
        software = ", ".join(f"{name} {value}" for name, value in made["versions"].items())
        lines.append(f"- Machine: {hardware}.\n- Versions: {software}.")
    commands = _distinct([row["command"] for row in rows])
    lines += [f"- Command: `{command}`." for command in commands]
    return "\n".join(lines) + "\n"


def _still(machine: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in machine.items() if name != "load_before"}


def _line(row: dict[str, Any]) -> str:
    cells = [row["work"], row["against"]]
    if row["status"] == MEASURED:
        reached = "yes" if row["ratio"] <= row["target"] else "**no**"
        cells += [
            seconds(row["ours_s"]),
            seconds(row["theirs_s"]),
            f"{row['ratio']:.3f} ({row['ratio_min']:.3f}–{row['ratio_max']:.3f}, n = {row['rounds']})",
            f"≤ {row['target']:.3g}",
            reached,
            f"{row['peak_mib']['ours']}, {row['peak_mib']['theirs']} MiB",
        ]
    else:
        said = {DIFFERENT: "**answers differ: not timed**", SKIPPED: "skipped", BROKEN: "**failed**"}[row["status"]]
        reason = f": {_last_line(row)}" if row.get("reason") else ""
        cells += ["–", "–", said + reason, f"≤ {row['target']:.3g}", "–", "–"]
    return "| " + " | ".join(cells) + " |\n"


def _last_line(row: dict[str, Any]) -> str:
    return escaped(row["reason"].splitlines()[-1])


def _notes(rows: Sequence[dict[str, Any]]) -> str:
    return "".join(f"- {row['against']}: {row['note']}\n" for row in rows if row.get("note"))


def _answers(rows: Sequence[dict[str, Any]]) -> str:
    lines = ["| row | compared | found | allowed | agrees |\n|---|---|---|---|---|\n"]
    for row in rows:
        for check in row.get("checks", []):
            sign = {"<=": "≤", ">=": "≥"}[check["relation"]]
            agrees = "yes" if check["passed"] else "**no**"
            lines.append(
                f"| {row['name']} | {check['name']} | {check['value']:.6g} | {sign} {check['limit']:g} | {agrees} |\n"
            )
    return "".join(lines)


def _commands(rows: Sequence[dict[str, Any]]) -> str:
    lines = ["| command | time: median (range) | target | reached | peak memory |\n|---|---|---|---|---|\n"]
    for row in rows:
        if row["status"] != MEASURED:
            lines.append(f"| {row['work']} | {row['status']}: {_last_line(row)} | | – | |\n")
            continue
        reached = "yes" if row["ours_s"] <= row["target_s"] else "**no**"
        spread = _spread(row["ours_s"], row["times_s"])
        lines.append(f"| {row['work']} | {spread} | ≤ {row['target_s']} s | {reached} | {row['peak_mib']} MiB |\n")
    return "".join(lines)


def _grown(row: dict[str, Any]) -> str:
    lines = [f"### {sentence(row['work'])}, by {row['along']}\n"]
    if row["status"] != MEASURED:
        return "\n".join([*lines, f"**{row['status']}**: {_last_line(row)}\n"])
    cells = [
        [point["size"], _spread(point["seconds"], point["times_s"]), f"{point['peak_mib']} MiB"]
        for point in row["points"]
    ]
    lines.append(pipe_table([row["along"], "time: median (range)", "peak memory"], cells))
    return "\n".join([*lines, "", f"{_grows(row)} {sentence(row['note'])}.\n"])


def _grows(row: dict[str, Any]) -> str:
    """Say how time grows from the first point to the last."""
    first, last, slope = row["points"][0], row["points"][-1], row["exponent"]
    more, longer = (_factor(last[name] / first[name]) for name in ("x", "seconds"))
    how = "linearly" if abs(slope - 1) <= LINEAR else "less than linearly" if slope < 1 else "more than linearly"
    return (
        f"{more} times as many {row['along']} take {longer} times as long: exponent **{slope:.2f}**, {how} "
        f"(between the last two points {row['exponent_of_last_two']:.2f})."
    )


def _factor(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def sentence(text: str) -> str:
    """Return text with a capital first letter."""
    return text[:1].upper() + text[1:]


def _spread(middle: float, times_s: Sequence[float]) -> str:
    return f"{seconds(middle)} ({seconds(min(times_s))}–{seconds(max(times_s))}, n = {len(times_s)})"


def seconds(value: float) -> str:
    """Return a time with three digits."""
    return f"{1000 * value:.3g} ms" if value < 1 else f"{value:.3g} s"


def _distinct(items: list[Any]) -> list[Any]:
    found: list[Any] = []
    for item in items:
        if item not in found:
            found.append(item)
    return found
