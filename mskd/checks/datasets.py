"""Findings that only all cases of a dataset together can show, and what the study accepts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from mskd.checks.case import BACKGROUND, CaseResult, LabelRules
from mskd.checks.finding import Finding
from mskd.console import printable
from mskd.datasets.collection import WHOLE_DATASET

EVERY_CASE = "*"


def value_findings(dataset: str, root: str, rules: LabelRules, results: Mapping[str, CaseResult]) -> list[Finding]:
    """Return what is odd about the values that occur in a dataset's label files.

    A value that label_map does not name is said once, with the number of cases: a multi-organ dataset of which a study
    uses some organs has many on purpose, in every case.

    Args:
        dataset: Dataset.
        root: Its folder.
        rules: What its values mean.
        results: Results by case name.
    """
    labelled = {name: result for name, result in results.items() if result.labelled}
    if not labelled:
        return []
    found = []
    counts = Counter(value for result in labelled.values() for value in result.unexpected)
    for cases, values in sorted(_by_cases(labelled, counts).items()):
        shown = ", ".join(map(str, values[:12])) + (f" and {len(values) - 12} more" if len(values) > 12 else "")
        write = ", ".join(f"{value}: {BACKGROUND}" for value in values[:3])
        fix = f"name them in datasets.{dataset}.label_map, if only as `{write}`; a tumour belongs to its organ"
        case = cases[0] if len(cases) == 1 and len(labelled) > 1 else WHOLE_DATASET
        of = "this case" if case != WHOLE_DATASET else f"{len(cases)} of {len(labelled)} cases, such as {cases[0]}"
        said = f"{shown}, in {of}; they count as background"
        found.append(Finding("label.unexpected", dataset, case, root, "values of label_map", said, fix))
    meant = {
        **{str(value): organ for value, organ in rules.label_map.items()},
        **rules.structures,
    }
    seen = {value for result in labelled.values() for value in result.values}
    organs = {organ for result in labelled.values() for organ in result.organs}
    for organ in rules.labelled:
        if organ not in organs:
            of_organ = ", ".join(value for value, named in meant.items() if named == organ)
            fix = f"correct datasets.{dataset}.label_map (or structures): nothing could be learned of it"
            said = f"no voxel with {of_organ} in {len(labelled)} cases"
            expected = f"{organ} in the labels"
            found.append(Finding("label.organ_never", dataset, WHOLE_DATASET, root, expected, said, fix))
    for value, organ in meant.items():
        if value not in seen and organ in organs:  # what would count for nothing need not occur
            fix = f"check the value in datasets.{dataset}; remove it if this download does not have it"
            said = f"no voxel in {len(labelled)} cases"
            expected = f"{value} ({organ}) in the labels"
            found.append(Finding("label.never", dataset, WHOLE_DATASET, root, expected, said, fix))
    return found


def _by_cases(labelled: Mapping[str, CaseResult], counts: Counter[int]) -> dict[tuple[str, ...], list[int]]:
    """Return values by the cases that hold them: those in one case by that case, all others together."""
    alone: dict[tuple[str, ...], list[int]] = {}
    for name, result in labelled.items():
        own = sorted(value for value in result.unexpected if counts[value] == 1)
        if own:
            alone[(name,)] = own
    common = sorted(value for value, count in counts.items() if count > 1)
    if common:
        cases = tuple(name for name, result in labelled.items() if set(common) & set(result.unexpected))
        alone[cases] = common
    return alone


def accepted(dataset: str, findings: Iterable[Finding], accept: Mapping[str, Sequence[str]]) -> list[Finding]:
    """Return findings of a dataset, those that the study accepts marked, and one for each entry that fits none.

    Args:
        dataset: Dataset.
        findings: Of this dataset.
        accept: Case name, or `*`, → codes.
    """
    used: set[tuple[str, str]] = set()
    marked = []
    for finding in findings:
        fitting = [
            case
            for case, codes in accept.items()
            if finding.code in codes and (case == EVERY_CASE or printable(case) == finding.case)
        ]
        used |= {(case, finding.code) for case in fitting}
        marked.append(finding.as_accepted() if fitting else finding)
    for case, codes in accept.items():
        for code in codes:
            if (case, code) not in used:
                marked.append(
                    Finding(
                        "accept.unused",
                        dataset,
                        WHOLE_DATASET if case == EVERY_CASE else case,
                        "(study file)",
                        f"a finding {code} of {'any case' if case == EVERY_CASE else case}",
                        "none",
                        f"remove `{case}: [{code}]` from datasets.{dataset}.accept, or correct the name",
                    )
                )
    return marked
