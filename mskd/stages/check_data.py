"""Stage: look at every file of a study before anything is computed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

from mskd.cases import Case, data_root, place_cases
from mskd.checks.case import CaseFiles, CaseResult, LabelRules, check_case
from mskd.checks.datasets import accepted, value_findings
from mskd.checks.duplicates import Use, duplicate_findings, same_content
from mskd.checks.finding import Finding
from mskd.checks.listing import list_dataset, split_dataset
from mskd.checks.segmentations import segmentation_findings
from mskd.config.faults import closest
from mskd.config.study import Study
from mskd.console import progress
from mskd.datasets.collection import WHOLE_DATASET
from mskd.errors import ConfigError, MskdError
from mskd.fingerprint import code_fingerprint
from mskd.layout import Layout
from mskd.leaves import check_leaves, metrics_role
from mskd.manifest import Manifest
from mskd.provenance import content_key
from mskd.storage import write_json

STAGE = "check_data"
STUDY = "study"  # the one manifest, of the whole study
SERIAL_BYTES = 20_000_000  # less than this is read sooner than worker processes start


@dataclass
class CheckedDataset:
    """A dataset while it is checked.

    Attributes:
        name: Its name.
        cases: The cases whose files are looked at.
        rules: What its label files mean.
        splits: Split of each case in each fold; empty where it cannot be made.
        findings: What the listing and the split show.
        blocks: Block of each case: a folder of their records.
        asked: Cases that teachers are asked about.
        not_made: Phantoms that are not made yet.
        results: What the checks of each case found.
    """

    name: str
    cases: list[CaseFiles]
    rules: LabelRules
    splits: dict[str, list[str]]
    findings: list[Finding]
    blocks: dict[str, str]
    asked: list[Case] = field(default_factory=list)
    not_made: int = 0
    results: dict[str, CaseResult] = field(default_factory=dict)


@dataclass(frozen=True)
class CheckReport:
    """What the checks of a study found.

    Attributes:
        study: Its name.
        findings: By dataset in the study's order, errors first; accepted ones last.
        cases: Number of cases looked at, by dataset.
        files: Number of files looked at.
        notes: What could not be looked at, one line each.
    """

    study: str
    findings: tuple[Finding, ...]
    cases: Mapping[str, int]
    files: int
    notes: tuple[str, ...]

    @property
    def errors(self) -> list[Finding]:
        """Errors that the study does not accept."""
        return [finding for finding in self.findings if finding.severity == "error" and not finding.accepted]

    @property
    def warnings(self) -> list[Finding]:
        """Warnings that the study does not accept."""
        return [finding for finding in self.findings if finding.severity == "warning" and not finding.accepted]

    @property
    def accepted(self) -> list[Finding]:
        """Findings that the study accepts."""
        return [finding for finding in self.findings if finding.accepted]


def check_data(study: Study, datasets: Sequence[str] = (), jobs: int = 0) -> CheckReport:
    """Check every case of a study; what was checked and has not changed is not read again.

    Args:
        study: The study.
        datasets: Datasets to look at; all without it.
        jobs: Processes; each holds one image at a time. 0: as many as there are cores.

    Raises:
        ConfigError: If a dataset is none of the study's.
        MskdError: If a worker process was killed, or the results cannot be written.
    """
    for name in datasets:
        if name not in study.datasets:
            near = closest(name, study.datasets)
            hint = f"; did you mean {near}?" if near else ""
            raise ConfigError(f"--dataset: the study has no {name!r}; it has {', '.join(study.datasets)}{hint}")
    jobs = jobs or _cores()
    checked = [_listed(study, name) for name in study.datasets if not datasets or name in datasets]
    _check_cases(study, checked, jobs)
    duplicates = _duplicates(study, checked)
    findings: list[Finding] = []
    for dataset in checked:
        found = [*dataset.findings, *(f for result in dataset.results.values() for f in result.findings)]
        found += segmentation_findings(study, dataset.asked)
        found += value_findings(dataset.name, str(data_root(study, dataset.name)), dataset.rules, dataset.results)
        found += [finding for finding in duplicates if finding.dataset == dataset.name]
        marked = accepted(dataset.name, found, study.datasets[dataset.name].accept)
        findings += sorted(marked, key=lambda finding: (finding.accepted, finding.severity))
    return CheckReport(
        study=study.study,
        findings=tuple(findings),
        cases={dataset.name: len(dataset.cases) for dataset in checked},
        files=sum(len(_paths(case, dataset.rules)) for dataset in checked for case in dataset.cases),
        notes=tuple(
            f"{d.name}: {d.not_made} of {d.not_made + len(d.cases)} synthetic scans are not made yet and not checked"
            for d in checked
            if d.not_made
        ),
    )


def write_verdict(study: Study, report: CheckReport) -> None:
    """Write the manifest that `prepare` waits for: which cases the study goes on without.

    Raises:
        MskdError: If there are errors, and the study does not skip bad cases, or they concern a whole dataset.
    """
    bad: dict[str, list[str]] = {}
    for finding in report.errors:
        bad.setdefault(f"{finding.dataset}/{finding.case}", []).append(
            f"{finding.code}: {finding.file}: expected {finding.expected}, found {finding.found}"
        )
    whole = [finding for finding in report.errors if finding.case == WHOLE_DATASET]
    if whole or (bad and study.on_bad_case == "stop"):
        raise MskdError(
            f"{len(report.errors)} errors in the data, nothing was computed\n"
            "  way out: mend them; or accept those that are meant (datasets.<name>.accept: {case: [code]}); or write "
            "`on_bad_case: skip`, which leaves such cases out and says so under the tables"
        )
    skipped = {case: "; ".join(reasons) for case, reasons in sorted(bad.items())}
    Manifest(STAGE, {}, skipped).write(Layout(study.root).manifest(STAGE, STUDY))


def _listed(study: Study, name: str) -> CheckedDataset:
    """List the cases of a dataset and their splits."""
    leaves = check_leaves(study, name)
    rules = LabelRules(leaves["label_map"], leaves["structures"], tuple(leaves["labelled"]), leaves["withheld"])
    raw, findings = list_dataset(study, name)
    splits: dict[str, list[str]] = {}
    if raw:
        splits, of_split = split_dataset(study, name, raw, {finding.case for finding in findings})
        findings = [*findings, *of_split]
    placed = place_cases(study, name, raw, dict.fromkeys([case.name for case in raw], "train"))
    cases = [CaseFiles(c.dataset, c.name, c.image, c.labels, c.withheld) for c in placed]
    blocks = {case.name: case.block for case in placed}
    listed = len(cases)
    if study.datasets[name].phantom is not None:  # the workflow makes what is missing
        cases = [case for case in cases if all(path.exists() for path in _paths(case, rules))]
    there, trains = {case.name for case in cases}, study.datasets[name].role == "train"
    asked = [c for c in placed if trains and c.name in there and set(splits.get(c.name, ())) & set(study.cache.splits)]
    return CheckedDataset(name, cases, rules, splits, findings, blocks, asked, not_made=listed - len(cases))


def _check_cases(study: Study, checked: Sequence[CheckedDataset], jobs: int) -> None:
    """Fill in the results of every case: those that stand, and the others from worker processes."""
    layout = Layout(study.root)
    code = code_fingerprint("mskd.checks.case")
    open_cases: list[tuple[CheckedDataset, CaseFiles, str]] = []
    for dataset in checked:
        leaves = check_leaves(study, dataset.name)
        for case in dataset.cases:
            key = content_key(leaves=leaves, code=code, files=_states(_paths(case, dataset.rules)))
            standing = _standing(layout.check(dataset.name, dataset.blocks[case.name], case.name), key)
            if standing is None:
                open_cases.append((dataset, case, key))
            else:
                dataset.results[case.name] = standing
    open_cases.sort(key=lambda entry: -_bytes(entry[1]))  # a big one must not come last
    done = sum(len(dataset.cases) for dataset in checked) - len(open_cases)
    to_do = [(case, dataset.rules) for dataset, case, _ in open_cases]
    if to_do:
        jobs = jobs if sum(_bytes(case) for case, _ in to_do) > SERIAL_BYTES else 1
        with progress("check", done + len(to_do), done=done) as advance:
            for position, result in _run(to_do, jobs):
                dataset, case, key = open_cases[position]
                write_json(
                    layout.check(dataset.name, dataset.blocks[case.name], case.name), {"key": key, **result.to_json()}
                )
                dataset.results[case.name] = result
                advance(1, case.id)
    for dataset in checked:  # findings in the order of the cases, whatever was done first
        dataset.results = {case.name: dataset.results[case.name] for case in dataset.cases}


def _duplicates(study: Study, checked: Sequence[CheckedDataset]) -> list[Finding]:
    """Return the findings of images that occur twice, in one dataset or across them."""
    uses = {case.id: _use(study, dataset, case) for dataset in checked for case in dataset.cases}
    fingerprints = {f"{d.name}/{name}": result.fingerprint for d in checked for name, result in d.results.items()}
    return duplicate_findings([[uses[case] for case in group] for group in same_content(fingerprints)])


def _use(study: Study, dataset: CheckedDataset, case: CaseFiles) -> Use:
    section = study.datasets[dataset.name]
    return Use(
        dataset=dataset.name,
        name=case.name,
        image=case.image,
        splits=dataset.splits.get(case.name, []),
        scored=metrics_role(section) != "resubstitution",
        trains=section.role == "train",
    )


def _run(cases: Sequence[tuple[CaseFiles, LabelRules]], jobs: int) -> Iterator[tuple[int, CaseResult]]:
    """Yield the position and result of each case as it is done, from several processes where there are several."""
    if jobs == 1 or len(cases) < 2:
        for position, (case, rules) in enumerate(cases):
            yield position, check_case(case, rules)
        return
    pool = ProcessPoolExecutor(min(jobs, len(cases)), mp_context=get_context("spawn"))
    try:
        started: dict[Future[CaseResult], int] = {
            pool.submit(check_case, case, rules): position for position, (case, rules) in enumerate(cases)
        }
        for future in as_completed(started):
            position = started.pop(future)
            try:
                yield position, future.result()
            except BrokenProcessPool as error:
                raise MskdError(
                    f"a process that checked data was killed, at {cases[position][0].id} or a case beside it; "
                    f"mostly memory ran out\n  way out: run the same command with fewer --jobs (now {jobs}); "
                    "what is done is kept"
                ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _paths(case: CaseFiles, rules: LabelRules) -> list[Path]:
    """Return the files of a case that any stage reads."""
    labels = [label.path for label in case.labels if label.organ is None or label.organ in rules.structures]
    return [case.image, *labels, *([case.withheld] if case.withheld is not None else [])]


def _states(paths: Iterable[Path]) -> dict[str, list[int]]:
    """Return size and time of every file, of a DICOM folder those of all its files; nothing for one that is missing."""
    states = {}
    for path in paths:
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            try:
                status = file.stat()
            except OSError:  # said by the checks
                continue
            states[str(file)] = [status.st_size, status.st_mtime_ns]
    return states


def _bytes(case: CaseFiles) -> int:
    return sum(size for size, _ in _states([case.image]).values())


def _standing(path: Path, key: str) -> CaseResult | None:
    """Return what an earlier run found, None if there is nothing or its files have changed."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return CaseResult.from_json(record) if record.pop("key") == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
