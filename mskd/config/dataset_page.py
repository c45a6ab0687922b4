"""The page of the datasets: what each adapter says of itself."""

from __future__ import annotations

import yaml

from mskd.checks.codes import ACCEPTABLE, CODES
from mskd.config.data import BACKGROUND, IGNORE, Dataset
from mskd.datasets.listing import AdapterFacts, adapter_facts, adapter_names
from mskd.datasets.stated_splits import BUILTIN_PREFIXES, read_builtin

INTRODUCTION = """\
# Datasets

Data is read in place: nothing is copied, moved or renamed. An **adapter** knows one layout of files; a dataset of a
study names its adapter, its path, and what the values in its label files mean:

- `label_map`: value in the label file → organ of the study, `ignore` (voxels that nobody is judged on) or `background`.
  Values that are not named are background. Whether a tumour counts as its organ is decided here, and the report
  prints it.
- `structures` takes its place for layouts with one binary file per structure; where files overlap, the later one wins.
- Hidden files, `._` files of macOS and `__MACOSX` are passed over. Every missing, surplus or badly named file is
  reported in one go, with what was expected, what was found, and the way out.

The licence notes are reminders, not legal advice: read the terms of what you download. mskd ships no data.

## Splits

| `split.kind` | which cases go where |
|---|---|
| `hash` (default) | by hash of case id and `seed`: a new case moves no other; shares scatter around the fractions |
| `native` | what the layout states (AMOS22, TotalSegmentator, nnU-Net with `labelsTs`, the column `split` of a table) |
| `builtin` | the split that the field uses since MOTS (DoDNet, CVPR 2021), found by case number |
| `file` | a TSV or CSV with the columns `case` and `split` (train, val, test) |
| `all` | every case goes `into` one split |

`builtin` knows the following; `allow_missing: true` goes on without the cases that are not on disk.

{builtin}

For `native`, `builtin` and `file`, validation cases are taken out of the training cases by hash (`val_fraction`) where
none are stated. `runs: {{folds: 5}}` replaces the splits of all training datasets by cross-validation. Datasets with
`role: external` are all test.

## Leakage

LiTS and MSD Task03 are the same scans; AbdomenCT-1K and AbdomenAtlas reuse LiTS, KiTS, MSD and NIH Pancreas-CT; the
labelled cases of FLARE22 come from MSD Task07. Independent tests for networks trained on LiTS, KiTS and MSD: BTCV,
AMOS22, TotalSegmentator. Scores on scans that were trained on are marked with `metrics_role: resubstitution`.

## Checks

`mskd check-data STUDY` looks at every file before anything is computed, and says of each finding the file, what was
expected, what was found, and the way out. It exits with 1 if there is an error. What is meant is accepted by case in
the study; it is shown as accepted from then on. Findings whose last column is empty cannot be: no stage could go on.

```yaml
organs: [spleen]
datasets:
  spleen:
    path: /data/Task09_Spleen
    label_map: {{1: spleen}}
    accept:
      spleen_8: [anatomy.mirrored]
      "*": [organ.truncated]   # all cases
```

{checks}

## Files of `config/real_ct.yaml`

`MSKD_DATA` names a folder with `real_ct/msd_spleen_8/{{image,label}}.nii.gz` (a case of MSD Task09, CC BY-SA 4.0),
`real_ct/ct_3mm/{{ct,labels}}.nii.gz` (test files of TotalSegmentator, Apache-2.0; the labels are a model's output, not
manual) and `real_ct/c3n_00249/ct.nii.gz` (CPTAC-PDA at TCIA, CC BY 3.0; no labels). Any three scans of yours in their
place, with a `label_map` that fits, do as well.

## Adapters

| adapter | dataset or layout | licence |
|---|---|---|
"""


def dataset_page(first_line: str) -> str:
    """Return docs/datasets.md: splits and leakage, then layout, options and an example for each adapter.

    Args:
        first_line: Says that the page is generated.
    """
    facts = [adapter_facts(name) for name in adapter_names()]
    rows = [f"| [{fact.name}](#{fact.name}) | {fact.title} | {licence_note(fact)} |" for fact in facts]
    parts = [first_line, INTRODUCTION.format(builtin=_builtin_table(), checks=_check_table()) + "\n".join(rows) + "\n"]
    return "\n".join([*parts, *(_adapter(fact) for fact in facts)])


def example_study(facts: AdapterFacts) -> str:
    """Return a study file in YAML with one dataset that the adapter reads."""
    section = Dataset.model_validate(yaml.safe_load(facts.example))
    named = [*section.label_map.values(), *section.structures.values()]
    organs = [organ for organ in dict.fromkeys(named) if organ not in (IGNORE, BACKGROUND)]
    name = organs[0] if len(organs) == 1 else "several_organs"
    lines = [f"    {line}" for line in (f"adapter: {facts.name}", *facts.example.splitlines())]
    return "\n".join([f"organs: [{', '.join(organs)}]", "datasets:", f"  {name}:", *lines])


def licence_note(facts: AdapterFacts) -> str:
    """Return what to bear in mind about a dataset's licence."""
    if not facts.licence:
        return "that of your data"
    return facts.licence + (" (non-commercial, or not clearly otherwise)" if facts.non_commercial else "")


def _adapter(facts: AdapterFacts) -> str:
    options = [f"- `{name}`: {text}" for name, text in facts.options.items()]
    values = ", ".join(f"{value} {name.replace('_', ' ')}" for value, name in facts.labels.items())
    return "\n".join(
        [
            f"### {facts.name}\n",
            f"{facts.text}\n",
            f"Licence: {licence_note(facts)}.\n",
            f"```text\n{facts.layout}\n```\n",
            *([f"Values in its label files: {values}.\n"] if values else []),
            "Options:\n" if options else "It has no options.\n",
            *([*options, ""] if options else []),
            f"```yaml\n{example_study(facts)}\n```\n",
        ]
    )


def _check_table() -> str:
    rows = ["| code | | what it means | accept |", "|---|---|---|---|"]
    for code, kind in CODES.items():
        rows.append(f"| `{code}` | {kind.severity} | {kind.meaning} | {'yes' if code in ACCEPTABLE else ''} |")
    return "\n".join(rows)


def _builtin_table() -> str:
    rows = ["| `split.name` | train | test | case names |", "|---|---|---|---|"]
    for name, prefixes in BUILTIN_PREFIXES.items():
        splits = list(read_builtin(name).values())
        names = ", ".join(f"`{prefix}_N`" for prefix in prefixes)
        rows.append(f"| `{name}` | {splits.count('train')} | {splits.count('test')} | {names} |")
    return "\n".join(rows)
