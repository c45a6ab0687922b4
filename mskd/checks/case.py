"""All checks of one case; each file is read once, and one array is in memory at a time. What a worker process runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib

from mskd.checks.anatomy import middle_mm, mirrored_problem
from mskd.checks.finding import Finding, finding_of
from mskd.checks.headers import Problem, file_problem, header_problems
from mskd.checks.intensities import intensity_problem, measure
from mskd.checks.labels import MAX_VALUES, Tally, organ_problems, organ_tallies, tally
from mskd.datasets.case import LabelFile, check_case_name
from mskd.errors import DataError
from mskd.geometry import Affine
from mskd.reference import onto_scan, require_affine
from mskd.scans import read_scan, read_scan_grid, read_stored, require_finite, require_shape

BACKGROUND, IGNORE = "background", "ignore"  # as mskd.config.data, which a worker need not import
STRUCTURE = 1  # value of a structure in its own file


@dataclass(frozen=True)
class CaseFiles:
    """The files of a case.

    Attributes:
        dataset: Name of its dataset.
        name: Name inside the dataset.
        image: Scan on disk.
        labels: Label files.
        withheld: Full label map, or None.
    """

    dataset: str
    name: str
    image: Path
    labels: tuple[LabelFile, ...]
    withheld: Path | None

    @property
    def id(self) -> str:
        """`<dataset>/<case>`."""
        return f"{self.dataset}/{self.name}"


@dataclass(frozen=True)
class LabelRules:
    """What the label files of a dataset mean.

    Attributes:
        label_map: Value in the label file → organ, ignore or background.
        structures: Structure → organ, ignore or background.
        labelled: Organs that every case annotates.
        withheld: Value in the withheld file → organ.
    """

    label_map: Mapping[int, str]
    structures: Mapping[str, str]
    labelled: tuple[str, ...]
    withheld: Mapping[int, str]


@dataclass
class CaseResult:
    """What the checks of a case found, and what the checks of the whole dataset need of it.

    Attributes:
        findings: What is wrong with this case.
        fingerprint: Of the image's content, empty if it could not be read.
        values: Values of label_map, and structures, that occur.
        organs: Organs that occur.
        unexpected: Values that label_map does not name.
        labelled: Whether its labels could be read.
    """

    findings: list[Finding] = field(default_factory=list)
    fingerprint: str = ""
    values: list[str] = field(default_factory=list)
    organs: list[str] = field(default_factory=list)
    unexpected: list[int] = field(default_factory=list)
    labelled: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {**vars(self), "findings": [finding.to_json() for finding in self.findings]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> CaseResult:
        """Rebuild from `to_json`."""
        return cls(**{**data, "findings": [Finding.from_json(entry) for entry in data["findings"]]})


def check_case(files: CaseFiles, rules: LabelRules) -> CaseResult:
    """Check the files of one case; what is wrong with them is returned, not raised."""
    result = CaseResult()
    odd = ", ".join(check_case_name(files.name, files.image))
    if odd:
        fix = "accept it, or name the case otherwise with adapter 'table'"
        _note(result, files, files.image, Problem("name.unwise", "a name of letters, digits and . _ + -", odd, fix))
    grid, middle = _check_image(files, result)
    organs: dict[str, Tally] = {}
    affine: Affine | None = None
    for label in files.labels:
        if label.organ is not None and label.organ not in rules.structures:
            continue
        found = _check_label(files, label, grid, result)
        if found is None:
            return result
        counts, affine = found
        organs |= _read_meaning(files, label, counts, rules, result, organs)
    result.labelled = affine is not None
    result.organs = sorted(organs)
    if affine is not None:
        labelled = files.labels[0].path if len(files.labels) == 1 else files.labels[0].path.parent
        for problem in organ_problems(organs, rules.labelled, affine):
            _note(result, files, labelled, problem)
    if files.withheld is not None:
        found = _check_label(files, LabelFile(files.withheld), grid, result)
        if found is not None:  # both sides of the body say more than one
            organs, affine = organ_tallies(found[0], rules.withheld), found[1]
    mirrored = mirrored_problem(organs, affine, middle) if affine is not None else None
    if mirrored is not None:
        _note(result, files, files.image, mirrored)
    return result


def _check_image(files: CaseFiles, result: CaseResult) -> tuple[tuple[tuple[int, ...], Affine] | None, float | None]:
    """Check the image; return its grid, None if it has none, and the middle of the body."""
    path = files.image
    missing = file_problem(path)
    if missing is not None:
        _note(result, files, path, missing)
        return None, None
    try:
        if path.is_dir():
            (stored, affine), slope, intercept = read_scan(path, files.id), 1.0, 0.0
        else:
            shape, affine = read_scan_grid(path, files.id)
            for problem in header_problems(path):
                _note(result, files, path, problem)
            try:
                stored, slope, intercept, affine = read_stored(path, files.id)
                require_finite(stored, path, files.id)
            except DataError as error:  # its labels can still be compared with its header
                result.findings.append(finding_of(error, files.dataset, case=files.name))
                return (shape, affine), None
    except DataError as error:
        result.findings.append(finding_of(error, files.dataset, case=files.name, code="file.damaged"))
        return None, None
    image = measure(stored, slope, intercept)
    result.fingerprint = image.fingerprint
    unlike_ct = intensity_problem(image)
    if unlike_ct is not None:
        _note(result, files, path, unlike_ct)
    return (stored.shape, affine), middle_mm(stored, slope, intercept, affine)


def _check_label(
    files: CaseFiles, label: LabelFile, grid: tuple[tuple[int, ...], Affine] | None, result: CaseResult
) -> tuple[dict[int, Tally], Affine] | None:
    """Check one label file; return what its values cover and its affine, None if it cannot be used."""
    path = label.path
    missing = file_problem(path)
    if missing is not None:
        _note(result, files, path, missing)
        return None
    try:
        stored, slope, intercept, affine = read_stored(path, files.id)
        for problem in header_problems(path, grid=False):
            _note(result, files, path, problem)
        if (slope, intercept) != (1.0, 0.0):  # rare, and any precision that is lost would look like a fraction
            stored = stored * slope + intercept
        if label.grid == "orientation" and grid is not None:
            stored, affine = onto_scan(stored, affine, path, files.id, *grid), grid[1]
        usable = grid is None or _same_grid(files, path, (stored.shape, affine), grid, result)
        counts = tally(stored, path, files.id)
    except DataError as error:
        result.findings.append(finding_of(error, files.dataset, case=files.name))
        return None
    if len(counts) > MAX_VALUES:
        fix = "check that this is the label and not the image"
        found = f"more than {MAX_VALUES} different values"
        _note(result, files, path, Problem("label.no_labels", "a label map", found, fix))
        return None
    return (counts, affine) if usable else None


def _same_grid(
    files: CaseFiles,
    path: Path,
    found: tuple[tuple[int, ...], Affine],
    grid: tuple[tuple[int, ...], Affine],
    result: CaseResult,
) -> bool:
    """Compare the grid of a label with that of its scan."""
    try:
        require_shape(found[0], path, files.id, grid[0])
        require_affine(found[1], path, files.id, grid[1], grid[0])
    except DataError as error:
        ours, theirs = ("".join(map(str, nib.aff2axcodes(affine))) for affine in (found[1], grid[1]))
        if ours == theirs:
            result.findings.append(finding_of(error, files.dataset, case=files.name))
        else:  # says it more plainly than numbers
            fix = "reorient the label onto the scan, or repair the header that is wrong"
            _note(result, files, path, Problem("label.orientation", f"the axes of its scan, {theirs}", ours, fix))
        return False
    return True


def _read_meaning(
    files: CaseFiles,
    label: LabelFile,
    counts: Mapping[int, Tally],
    rules: LabelRules,
    result: CaseResult,
    before: Mapping[str, Tally],
) -> dict[str, Tally]:
    """Note which values of a label file occur; return what its organs cover, added to the files before."""
    if label.organ is None:
        named: Mapping[int, str] = rules.label_map
        result.values += [str(value) for value in counts if value in named]
    else:
        named = {STRUCTURE: rules.structures[label.organ]}
        result.values += [label.organ] if STRUCTURE in counts else []
    for value in counts:
        if value not in named and value not in result.unexpected:
            result.unexpected.append(value)
    found = organ_tallies(counts, named)
    return {
        organ: before.get(organ, Tally()) + entry for organ, entry in found.items() if organ not in (BACKGROUND, IGNORE)
    }


def _note(result: CaseResult, files: CaseFiles, path: Path, problem: Problem) -> None:
    result.findings.append(Finding(problem.code, files.dataset, files.name, str(path), *problem[1:]))
