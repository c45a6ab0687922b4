"""What the cache knows about the data: suspicious references, odd scans, scans that are there twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mskd.cache.store import LOGITS, TargetStore
from mskd.cases import Case, is_part
from mskd.config.study import Study
from mskd.console import progress
from mskd.disagreement import coarse_scan, find_disagreement, robust_z, same_scans, unsure_share
from mskd.errors import MskdError
from mskd.layout import Layout, target_place
from mskd.leaves import IGNORE_VALUE
from mskd.manifest import read_manifest
from mskd.prepared import PreparedCase
from mskd.provenance import made_by
from mskd.report.overlay import overlay_figure
from mskd.stages.inputs import asked_cases, prepared_cases
from mskd.storage import atomic_path, write_json, write_text

Margins = dict[str, tuple[npt.NDArray[np.float32], str]]  # organ → margin, and whether the case was held out
DRAWN = 12  # figures
COLUMNS = ["case", "organ", "kind", "score", "dice", "piece_mm3", "x_mm", "y_mm", "z_mm", "held_out"]
HELD_OUT, SEEN, UNKNOWN = "yes", "no", "not known"


@dataclass(frozen=True)
class Audit:
    """What was found; each table's most suspicious row first.

    Attributes:
        cases: A row per case and labelled organ.
        scans: A row per scan.
        duplicates: A row per pair.
    """

    cases: pd.DataFrame
    scans: pd.DataFrame
    duplicates: pd.DataFrame


def audit(study: Study) -> Audit:
    """Look at every case that the cache holds, and write `audit/` beside the study's tables.

    Raises:
        MskdError: If no targets are cached yet.
    """
    asked = _asked(study)
    if not asked:
        raise MskdError(
            f"{study.study}: no targets are cached yet, and the audit compares references with what teachers say\n"
            "  way out:  run the study first (snakemake --configfile …), or the rule cache_targets alone"
        )
    rows, scans, coarse = [], [], {}
    with progress("audit", len(asked)) as advance:
        for case, sources in asked.values():
            prepared = PreparedCase(Layout(study.root).prepared(case.dataset, case.block, case.name), case.id)
            body, labels = prepared.read("body").astype(bool), prepared.read("labels")
            said = _said(study, case, sources)
            rows += list(_organ_rows(study, case, prepared, labels, body, said))
            coarse[case.id] = coarse_scan(prepared.read("image"), body)
            unsure = unsure_share(np.stack([margin for margin, _ in said.values()]))
            scans.append({"case": case.id, "dataset": case.dataset, "unsure": unsure})
            advance(1, case.name)
    found = Audit(_ranked_cases(rows), _ranked_scans(scans), _pairs(coarse))
    folder = audit_folder(study)
    with atomic_path(folder / "figures") as part:  # those of an earlier audit go
        part.mkdir()
        _draw(study, found.cases.head(DRAWN), asked, part)
    for name in ("cases", "scans", "duplicates"):
        table: pd.DataFrame = getattr(found, name)
        write_text(folder / f"{name}.csv", table.to_csv(index=False, lineterminator="\n", float_format="%.4f"))
    write_json(folder / "audit.json", {"cases": len(asked), "made_by": made_by()})
    return found


def audit_folder(study: Study) -> Path:
    """Return where the audit of a study lies."""
    return study.root / "audit"


def _asked(study: Study) -> dict[str, tuple[Case, list[tuple[str, str, str]]]]:
    """Return per case who was asked about it and is cached: (teacher, run, whether it had not learned from it)."""
    layout, found = Layout(study.root), dict[str, tuple[Case, list[tuple[str, str, str]]]]()
    for teacher, section in study.teachers.items():
        for run in study.teacher_runs(teacher):
            for (dataset, block), cases in asked_cases(study, teacher, run).items():
                manifest = layout.manifest("cache_targets", teacher, run, dataset, block)
                if not manifest.is_file():
                    continue
                stored = read_manifest(manifest).entries
                for case in cases:
                    if case.id not in stored:
                        continue
                    own = not section.given and study.teacher_dataset(teacher) == dataset
                    seen = SEEN if own and case.split == "train" and not is_part(run) else HELD_OUT
                    how = UNKNOWN if section.given else seen
                    found.setdefault(case.id, (case, []))[1].append((teacher, run, how))
    skipped = prepared_cases(study, [case for case, _ in found.values()])[1].skipped if found else {}
    return {name: asked for name, asked in found.items() if name not in skipped}


def _said(study: Study, case: Case, sources: list[tuple[str, str, str]]) -> Margins:
    """Return the mean margin per organ; of teachers that have not learned from the case where there are any."""
    known: dict[str, set[str]] = {}
    for teacher, _, how in sources:
        known.setdefault(teacher, set()).add(how)
    margins: dict[str, dict[str, list[npt.NDArray[np.float32]]]] = {}
    for teacher, run, how in sources:
        if how == SEEN and HELD_OUT in known[teacher]:
            continue  # it has said the same case without having learned from it
        place = target_place(study.cache_root, teacher, run, case.dataset, case.block, case.name)
        manifest = Layout(study.root).manifest("cache_targets", teacher, run, case.dataset, case.block)
        content = read_manifest(manifest).entries[case.id]["content"]
        for organ, margin in zip(
            study.teacher_organs(teacher), TargetStore(place, case.id, content).read(LOGITS), strict=True
        ):
            margins.setdefault(organ, {}).setdefault(how, []).append(np.asarray(margin, np.float32))
    best: Margins = {}
    for organ, of_how in margins.items():
        how = next(how for how in (HELD_OUT, UNKNOWN, SEEN) if how in of_how)
        best[organ] = np.mean(of_how[how], axis=0), how
    return best


def _organ_rows(
    study: Study,
    case: Case,
    prepared: PreparedCase,
    labels: npt.NDArray[np.uint8],
    body: npt.NDArray[np.bool_],
    said: Margins,
) -> Iterator[dict[str, Any]]:
    claims = {organ: margin > 0 for organ, (margin, _) in said.items()}
    volume_mm3 = float(np.prod(study.preprocessing.spacing_mm))
    for organ in study.datasets[case.dataset].labelled_organs:
        if organ not in said:
            continue
        margin, how = said[organ]
        others = {name: claim for name, claim in claims.items() if name != organ}
        found = find_disagreement(
            labels == study.label_values[organ], margin, body, others, judged=labels != IGNORE_VALUE
        )
        x, y, z = (prepared.geometry.affine @ [*found.position, 1])[:3]
        yield {
            "case": case.id,
            "organ": organ,
            "kind": found.kind,
            "score": found.score,
            "dice": found.dice,
            "piece_mm3": found.voxels * volume_mm3,
            "x_mm": round(float(x), 1),
            "y_mm": round(float(y), 1),
            "z_mm": round(float(z), 1),
            "held_out": how,
        }


def _draw(
    study: Study, rows: pd.DataFrame, asked: dict[str, tuple[Case, list[tuple[str, str, str]]]], folder: Path
) -> None:
    """Draw the most suspicious cases: contours of reference and teacher through the place that is most wrong."""
    for row in rows[rows["score"] > 0].to_dict("records") if len(rows) else []:
        case, sources = asked[row["case"]]
        prepared = PreparedCase(Layout(study.root).prepared(case.dataset, case.block, case.name), case.id)
        organ = str(row["organ"])
        value = study.label_values[organ]
        margin, _ = _said(study, case, sources)[organ]
        overlay_figure(
            prepared.read("image"),
            np.where(prepared.read("labels") == value, value, 0).astype(np.uint8),
            np.where(margin > 0, value, 0).astype(np.uint8),
            study.preprocessing.spacing_mm,
            {organ: value},
            folder / f"{int(row['rank']):02d}_{case.dataset}_{case.name}_{organ}.png",
            title=f"{case.id}, {organ}: {row['kind']} (prediction: the teacher's)",
        )


def audit_table(study: Study, count: int) -> pd.DataFrame | None:
    """Return the first rows of the table of cases if the study was audited."""
    path = audit_folder(study) / "cases.csv"
    return pd.read_csv(path).head(count) if path.is_file() else None


def _ranked_cases(rows: list[dict[str, Any]]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=COLUMNS)  # the header too where there is nothing to compare
    table.insert(4, "z", table.groupby("organ")["score"].transform(lambda s: robust_z(s.to_numpy())))
    table = table.sort_values(["z", "case"], ascending=[False, True], kind="stable").reset_index(drop=True)
    table.insert(0, "rank", np.arange(1, len(table) + 1))
    return table


def _ranked_scans(rows: list[dict[str, Any]]) -> pd.DataFrame:
    table = pd.DataFrame(rows)
    table["z"] = table.groupby("dataset")["unsure"].transform(lambda s: robust_z(s.to_numpy()))
    return table.sort_values(["z", "case"], ascending=[False, True], kind="stable").reset_index(drop=True)


def _pairs(coarse: dict[str, npt.NDArray[np.float32]]) -> pd.DataFrame:
    return pd.DataFrame(same_scans(coarse), columns=["case", "same_as", "correlation"])
