"""One scan under two names: public collections reuse each other's, and some hold a scan twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mskd.checks.finding import Finding


@dataclass(frozen=True)
class Use:
    """A case and what the study does with it.

    Attributes:
        dataset: Its dataset.
        name: Its name there.
        image: Its image.
        splits: Its split in each fold; empty where that is not known.
        scored: Whether a score on it claims to be of a scan never seen (not a resubstitution).
        trains: Whether its dataset is learned from.
    """

    dataset: str
    name: str
    image: Path
    splits: Sequence[str]
    scored: bool
    trains: bool


def duplicate_findings(groups: Sequence[Sequence[Use]]) -> list[Finding]:
    """Return a finding for each case whose image is that of an earlier case; what the study declares is none.

    Args:
        groups: Cases with the same image content, in the order of the study.
    """
    found = []
    for group in groups:
        for position, use in enumerate(group):
            others = [other for other in group[:position] if not _declared(use, other)]
            leaks = [other for other in others if _leak(use, other)]
            if others:
                found.append(_finding(use, (leaks or others)[0], leak=bool(leaks)))
    return found


def _finding(use: Use, other: Use, *, leak: bool) -> Finding:
    where = f"{other.dataset}/{other.name}"
    if leak:
        fix = "put both into the same split by a split file, or leave one out: scores would be of a scan that was seen"
    else:
        fix = "leave one out, or accept it, if both labels are wanted"
    return Finding(
        "duplicate.leak" if leak else "duplicate.image",
        use.dataset,
        use.name,
        str(use.image),
        "an image of its own",
        f"the image of {where}, {other.image}" + (", learned from and tested on" if leak else ""),
        fix,
    )


def _declared(one: Use, other: Use) -> bool:
    """Return whether the study says itself that a scan is seen again: scored as resubstitution."""
    return one.dataset != other.dataset and any(not use.trains and not use.scored for use in (one, other))


def _leak(one: Use, other: Use) -> bool:
    """Return whether a fold learns from one of them and scores the other."""
    for first, second in ((one, other), (other, one)):
        learned = [split != "test" for split in first.splits] if first.trains else []
        tested = [split == "test" for split in second.splits] if second.scored else []
        # datasets that are only tested on state one split, which is that of every fold
        folds = max(len(learned), len(tested))
        if any(a and b for a, b in zip(_repeated(learned, folds), _repeated(tested, folds), strict=False)):
            return True
    return False


def _repeated(values: list[bool], count: int) -> list[bool]:
    return values * count if len(values) == 1 else values


def same_content(fingerprints: Mapping[str, str]) -> list[list[str]]:
    """Return the keys that share a fingerprint, groups and keys in their order; what nobody shares is left out."""
    groups: dict[str, list[str]] = {}
    for key, fingerprint in fingerprints.items():
        groups.setdefault(fingerprint, []).append(key)
    return [keys for fingerprint, keys in groups.items() if fingerprint and len(keys) > 1]
