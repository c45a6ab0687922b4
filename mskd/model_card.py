"""Model cards: what a network was trained on, how, and what it must not be used for, as Markdown.

Written from `model.json` alone, because a model folder travels without its study. Numbers of cases, never their names.
Cards change no result: this module counts in no code fingerprint.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from mskd.datasets.listing import adapter_facts
from mskd.markdown import escaped, pipe_table

if TYPE_CHECKING:
    from mskd.cases import Case
    from mskd.config.study import Study

FILE = "MODEL_CARD.md"
SYNTHETIC = "synthetic, made in code"
UNKNOWN = "not known"
Record = dict[str, Any]
PREDICT = "    mskd predict -m MODEL -i scan.nii.gz -o predictions"


def training_data(
    study: Study, cases: Iterable[Case], organs: Sequence[str], *, withheld: bool = False
) -> list[Record]:
    """Return what a model card says of the data: one record per dataset, in the order of the study.

    Licences are those of the public datasets that the adapters are made for.

    Args:
        study: The study.
        cases: Training and validation cases.
        organs: Organs that the network learned.
        withheld: The network also learned the labels that a study withholds from others.
    """
    counts: dict[str, Counter[str]] = {}
    for case in cases:
        counts.setdefault(case.dataset, Counter())[case.split] += 1
    records = []
    for name, section in study.datasets.items():
        if name not in counts:
            continue
        facts, synthetic = adapter_facts(section.adapter), section.phantom is not None
        labelled = {*section.labelled_organs, *(section.withheld_label_map.values() if withheld else ())}
        records.append(
            {
                "dataset": name,
                "adapter": section.adapter,
                "title": facts.title,
                "synthetic": synthetic,
                "licence": SYNTHETIC if synthetic else facts.licence,
                "non_commercial": facts.non_commercial and not synthetic,
                "organs": [organ for organ in organs if organ in labelled],
                "train": counts[name]["train"],
                "val": counts[name]["val"],
            }
        )
    return records


def model_card(card: Record, *, scores: str = "", run_it: str = PREDICT) -> str:
    """Return the model card of a model folder.

    Args:
        card: Content of `model.json`.
        scores: Scores on test cases as Markdown, or nothing where they are not known.
        run_it: Section that says how to run the network, as Markdown.

    Raises:
        AttributeError, KeyError, TypeError or ValueError: If the card is not one that mskd has written.
    """
    made = card.get("provenance", {})
    data = made.get("data")
    name = ", ".join(str(made[part]) for part in ("study", "method", "teacher", "run") if part in made)
    sections = {
        "Labels": _labels(card["labels"]),
        "Data": _data(data),
        "Preprocessing": _preprocessing(card),
        "Network": _network(card),
        "Training": _training(made),
        "Scores": scores or f"Scores on test cases: {UNKNOWN}.",
        "Limits": _limits(data),
        "Run it": run_it,
        "How it was made": _origin(card),
    }
    parts = [f"# Model card: {escaped(name) or 'a segmentation network'}", _warnings(data)]
    parts += [f"## {title}\n\n{text}" for title, text in sections.items()]
    return "\n\n".join(parts) + "\n"


def _warnings(data: list[Record] | None) -> str:
    """Return the first lines: what nobody may miss."""
    lines = ["**Not for clinical use.** A research prototype; nobody has tested it for the care of patients."]
    if data is None:
        lines.append(f"**Licence of the data: {UNKNOWN}.** This model folder does not say what it was trained on.")
        return "\n\n".join(lines)
    if closed := [d for d in data if d["non_commercial"]]:
        named = ", ".join(f"{escaped(d['dataset'])} ({escaped(d['licence'])})" for d in closed)
        lines.append(
            "**Not for commercial use.** It was trained on data whose licence excludes commercial use, or does not "
            f"clearly allow it: {named}."
        )
    if unstated := [d for d in data if not d["licence"]]:
        named = ", ".join(escaped(d["dataset"]) for d in unstated)
        lines.append(f"**Licence of some data {UNKNOWN}**: {named}. Ask who owns them before you share this network.")
    return "\n\n".join(lines)


def _labels(labels: dict[str, int]) -> str:
    rows = [("background", 0), *sorted(labels.items(), key=lambda item: item[1])]
    return "The value in the label map is also the output channel.\n\n" + pipe_table(["organ", "value"], rows)


def _data(data: list[Record] | None) -> str:
    if data is None:
        return f"{UNKNOWN.capitalize()}."
    heads = ["dataset", "layout", "organs labelled", "licence", "commercial use", "training cases", "validation cases"]
    rows = [
        [
            *(d["dataset"], d["title"], ", ".join(d["organs"]), d["licence"] or UNKNOWN, _commercial(d)),
            *(int(d["train"]), int(d["val"])),
        ]
        for d in data
    ]
    return (
        f"{pipe_table(heads, rows, text_columns=5)}\n\n"
        "Licences are those of the public datasets with these layouts; other data in the same layout have their own."
    )


def _commercial(record: Record) -> str:
    if record["non_commercial"]:
        return "excluded, or not clearly allowed"
    return UNKNOWN if not record["licence"] else "no data of patients" if record["synthetic"] else "not excluded"


def _preprocessing(card: Record) -> str:
    settings, kept = card["preprocessing"], card.get("largest_component", [])
    low, high = settings["hu_clip"]
    post = f"only the largest connected component is kept of {escaped(', '.join(kept))}" if kept else "none"
    return _points(
        "Input: one CT volume in HU. Axes: canonical RAS (x to the right, y to the front, z to the head).",
        f"Voxel size: {_times(settings['spacing_mm'])} mm, cubic interpolation"
        + (", smoothed before sampling down." if settings["antialias"] else "."),
        f"Intensities: clipped to {low:g} … {high:g} HU, then scaled linearly to -1 … 1.",
        f"Sliding window: {_times(card['window'])} voxels, overlap {card['overlap']:g}; positions and sizes in "
        f"multiples of {_times(card['stride'])} voxels.",
        f"Post-processing: {post}.",
    )


def _network(card: Record) -> str:
    described = card["network"]
    members = list(described.get("members", {}).values())
    settings = (members[0] if members else described)["settings"]
    levels = ", ".join(str(n) for n in settings["features"])
    text = {
        "merged": f"{len(members)} teachers side by side, each a 3-D U-Net",
        "multi_head": "3-D U-Net with a head for each set of organs that the datasets label",
        "dodnet": "3-D U-Net with a head that is made for each image and task",
    }.get(described["kind"], "3-D U-Net")
    return _points(
        f"{text} ({settings['architecture']}; dynamic-network-architectures); channels per level: {levels}.",
        f"Parameters: {card['parameters']:,}.",
        f"Output: {1 + len(card['labels'])} channels of logits; the label is the channel with the largest.",
    )


def _training(made: Record) -> str:
    used, checked = made.get("training"), dict(made.get("validation", {}))
    who = [f"{what.capitalize()}: {escaped(str(made[what]))}" for what in ("method", "teacher") if what in made]
    if "kind" in made:
        who.append(f"kind: {escaped(str(made['kind']))}")
    run = f"run: {escaped(str(made.get('run', UNKNOWN)))}; seed: {escaped(str(made.get('seed', UNKNOWN)))}."
    points = ["; ".join([*(who or [f"Method: {UNKNOWN}"]), run])]
    if used:
        points.append(
            f"{used['steps']:,} steps of {used['batch_size']} patches of {_times(used['patch_size'])} voxels; "
            f"{used['optimiser']}, learning rate {used['learning_rate']:g}, schedule {used['schedule']}."
        )
    elif "method" in made:
        points.append("No training of its own: put together from the teachers' networks.")
    step = checked.pop("step", None)
    if dice := {key.removeprefix("val_dice").strip("_") or "mean": value for key, value in checked.items()}:
        shown = ", ".join(f"{escaped(organ)} {value:.3f}" for organ, value in dice.items() if value >= 0)
        chosen = " The weights were chosen by it: no estimate for new scans." if used and used["keep"] == "best" else ""
        points.append(f"Dice on the validation cases, on the study grid, at step {step}: {shown or UNKNOWN}.{chosen}")
    return _points(*points, "Every key stands in `model.json` (`provenance`).")


def _limits(data: list[Record] | None) -> str:
    points = [
        "CT in HU alone. Scanners, contrast phases, ages, diseases and operations that the data above do not hold are "
        "untested.",
        "What is no organ of the list is background. Whether a tumour belongs to its organ follows the label maps of "
        "the data.",
        "Orientation and voxel size are taken from the header of the file: where that is wrong, so is the result.",
        "Scores hold for the test cases that they were taken on.",
    ]
    if data and all(d["synthetic"] for d in data):
        points.insert(0, "**Trained on synthetic scans alone: nothing is known of its results on patients.**")
    return _points(*points)


def _origin(card: Record) -> str:
    versions = ", ".join(f"{escaped(name)} {escaped(version)}" for name, version in card.get("made_by", {}).items())
    return _points(
        f"Versions: {versions or UNKNOWN}.",
        f"Commit of mskd: {escaped(card.get('commit') or UNKNOWN)}. "
        f"Fingerprint of the code: {escaped(str(card.get('provenance', {}).get('code', UNKNOWN)))}.",
        f"Content key: {escaped(card['key'])}. SHA-256 of the weights: {escaped(card['weights_sha256'])}.",
    )


def _points(*texts: str) -> str:
    return "\n".join(f"- {text}" for text in texts)


def _times(numbers: Sequence[float]) -> str:
    return " × ".join(f"{n:g}" for n in numbers)
