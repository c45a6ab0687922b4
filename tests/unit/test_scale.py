"""Twenty thousand scans: no folder with more than 10,000 entries, no store with files that grow in number."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mskd.cases import by_block, place_cases
from mskd.config.loading import parse_study
from mskd.config.study import Study
from mskd.datasets.blocks import default_blocks
from mskd.datasets.case import RawCase
from mskd.errors import ConfigError
from mskd.layout import Layout, target_place
from tests.unit.made_cases import make_case

MOST_ENTRIES = 10_000
RUN = "fold0-seed0"


def study_of(**dataset: object) -> Study:
    section = {"adapter": "msd", "path": "/data/Task03_Liver", "label_map": {1: "liver"}, **dataset}
    return parse_study({"study": "large", "organs": ["liver"], "datasets": {"liver": section}})


def raw_cases(count: int) -> list[RawCase]:
    return [RawCase(f"liver_{number}", Path(f"liver_{number}.nii.gz")) for number in range(count)]


@pytest.mark.parametrize("count", [20_000, 100_000])
def test_no_folder_is_crowded_though_all_cases_are_of_one_dataset(count: int) -> None:
    study, raw = study_of(), raw_cases(count)
    layout = Layout(study.root)
    cases = place_cases(study, "liver", raw, dict.fromkeys([case.name for case in raw], "test"))
    entries: set[Path] = set()
    for case in cases:
        where = ("liver", case.block, case.name)
        prediction = layout.prediction("mskd", RUN, *where)
        entries |= {
            layout.prepared(*where),
            layout.check(*where),
            layout.scores("mskd", RUN, *where),
            prediction,
            prediction.with_suffix(".json"),
            Path(target_place(study.cache_root, "liver", RUN, *where)),
        }
    for block in by_block(cases):
        for stage, *parts in (("prepare",), ("cache_targets", "liver", RUN), ("predict", "mskd", RUN)):
            entries.add(layout.manifest(stage, *parts, "liver", block))
    entries |= {parent for path in entries for parent in path.parents}
    crowds = Counter(path.parent for path in entries if path != path.parent)
    folder, most = crowds.most_common(1)[0]
    assert most <= MOST_ENTRIES, folder
    assert len(by_block(cases)) == default_blocks(count)


def test_too_few_blocks_are_refused_with_the_number_to_write() -> None:
    study, raw = study_of(blocks=2), raw_cases(20_000)
    with pytest.raises(ConfigError, match=f"blocks: {default_blocks(20_000)}"):
        place_cases(study, "liver", raw, dict.fromkeys([case.name for case in raw], "train"))


def test_a_store_of_a_larger_scan_has_no_more_files(tmp_path: Path) -> None:
    counts = []
    for edge in (16, 160):
        folder = tmp_path / str(edge)
        image = np.random.default_rng(0).integers(-100, 100, (edge, edge, edge), np.int16)
        make_case(folder, image, (image > 90).astype(np.uint8), labelled=[1])
        counts.append(sum(path.is_file() for path in folder.rglob("*")))
    assert counts[0] == counts[1] < 100
