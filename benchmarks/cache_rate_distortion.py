"""Rate and distortion of the target cache: bytes, probability error, and what the student makes of it.

Reference: network, taps, spacing and patch of the given study, on fewer phantoms and with fewer steps, so that it fits
into two hours of two cores. The workflow trains one teacher per dataset and caches it losslessly; every variant is
encoded anew from those stores, and one student per seed learns from it, scored on cases of another scanner: for a seed,
all variants have the same start and the same patches. `online` computes the teachers in every step instead. Rows are
written as they come, and what is there is not computed again.

    python benchmarks/cache_rate_distortion.py --study config/phantom_night.yaml --seeds 0 1 2 --jobs 2
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from torch import Tensor

from mskd.cache.encoding import encode_targets
from mskd.cache.projection import Moments, Projection
from mskd.cache.settings import CacheSettings, cache_settings
from mskd.cache.store import LOGITS, TargetStore, write_store
from mskd.cases import Case
from mskd.config.cache import Cache
from mskd.config.loading import load_study, parse_study
from mskd.config.study import Study
from mskd.console import log
from mskd.device import set_up, stable_seed
from mskd.evaluation.figures import save_figure
from mskd.layout import Layout, target_place
from mskd.margins import margins
from mskd.methods.mskd import build
from mskd.models import load_model
from mskd.prepared import PreparedCase
from mskd.provenance import made_by
from mskd.stages.inputs import cases_of, training_datasets
from mskd.stages.train_student import _context
from mskd.stages.training_inputs import patches, training_cases, validator
from mskd.storage import write_text
from mskd.teachers.base import TeacherTargets
from mskd.training.loop import Trainee, train
from mskd.training.patches import Batch, PatchNeeds

LOSSLESS = {"preset": "lossless"}
VARIANTS: dict[str, dict[str, Any]] = {
    "lossless": LOSSLESS,
    "balanced": {"preset": "balanced"},
    "tiny": {"preset": "tiny"},
    "margins 16 bits": {**LOSSLESS, "margin_bits": 16},
    "margins 8 bits": {**LOSSLESS, "margin_bits": 8},
    "margins 4 bits": {**LOSSLESS, "margin_bits": 4},
    "margins 4 bits, even in m": {**LOSSLESS, "margin_bits": 4, "margin_spacing": "margin"},
    "features 16 bits": {**LOSSLESS, "feature_bits": 16},
    "features 8 bits": {**LOSSLESS, "feature_bits": 8},
    "features 4 bits": {**LOSSLESS, "feature_bits": 4},
    "features 4 components": {**LOSSLESS, "feature_channels": 4},
    "features 2 components": {**LOSSLESS, "feature_channels": 2},
    "features near organs": {**LOSSLESS, "feature_boxes": "regions"},
}
WITH_STUDENT = ["lossless", "balanced", "tiny", "online"]
RUN = "fold0-seed0"
TRAIN_CASES, VAL_CASES, TEST_CASES = 6, 1, 16  # per dataset; the test cases are those of the external one


def main() -> None:
    """Run everything that is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, default=Path("config/phantom_night.yaml"))
    parser.add_argument("--steps", type=int, default=1000, help="steps of every training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2, help="trainings at the same time")
    parser.add_argument("--students", nargs="+", default=WITH_STUDENT, help="variants that a student learns from")
    parser.add_argument("--keep-teachers", action="store_true", help="take teachers and lossless stores as they are")
    parser.add_argument("--only-student", nargs=2, metavar=("VARIANT", "SEED"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    study = reference_study(options.study, options.steps)
    rows = study.root / "rate_distortion.jsonl"
    if options.only_student:
        variant, seed = options.only_student
        add_row(rows, {"variant": variant, "seed": int(seed), **student(study, variant, int(seed))})
        return
    if not options.keep_teachers:
        teachers(study, options.jobs)
    known = {(row["variant"], row.get("seed")) for row in read_rows(rows)}
    for variant, keys in VARIANTS.items():
        if (variant, None) not in known:
            add_row(rows, {"variant": variant, **encode(study, variant, cache_settings(settings_of(study, keys)))})
            log(f"encoded {variant}")

    def one(job: tuple[str, int]) -> None:
        command = [sys.executable, __file__, "--study", str(options.study), "--steps", str(options.steps)]
        subprocess.run([*command, "--only-student", job[0], str(job[1])], check=True)

    with ThreadPoolExecutor(options.jobs) as pool:
        jobs = [(name, seed) for seed in options.seeds for name in options.students if (name, seed) not in known]
        list(pool.map(one, jobs))
    found = {"study": study.study, "steps": options.steps, "made_by": made_by(), "rows": read_rows(rows)}
    write_text(Path("benchmarks/results/cache_rate_distortion.json"), json.dumps(found, indent=1) + "\n")
    table = summary(found["rows"])
    print(table.to_markdown(index=False))
    plot(table, Path("docs/cache_rate_distortion"))


def summary(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Return one line per variant: rate, distortion, the students' Dice in %, its mean distance to `lossless`."""
    frame = pd.DataFrame(rows)
    rates = frame[frame.seed.isna()].set_index("variant")
    scored = frame[frame.seed.notna()].drop_duplicates(["variant", "seed"], keep="last")
    dice = 100 * scored.pivot(index="variant", columns="seed", values="dice")
    difference = dice - dice.loc["lossless"]
    order = [*rates.index, *(name for name in dice.index if name not in rates.index)]
    columns = {
        "bytes per voxel": rates.bytes_per_voxel_and_teacher.map("{:.4f}".format),
        "times smaller": rates.ratio.map("{:.1f}".format),
        "largest error of a probability": rates.largest_probability_error.map("{:.5f}".format),
        "mean error": rates.mean_probability_error.map("{:.5f}".format),
        "student's Dice": dice.mean(axis=1).map("{:.2f}".format),
        "per seed": dice.apply(lambda row: ", ".join(f"{value:.2f}" for value in row.dropna()), axis=1),
        "against lossless": difference.apply(_mean_and_error, axis=1),
    }
    table = pd.DataFrame(columns, index=order).rename_axis("variant").fillna("")
    return table.reset_index()


def _mean_and_error(values: pd.Series[float]) -> str:
    """Return the mean over seeds and its standard error."""
    return f"{values.mean():+.2f} ± {values.sem():.2f}"


def plot(table: pd.DataFrame, path: Path) -> None:
    """Draw the error against the size, and every student's Dice by variant."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    error, dice = figure.subplots(1, 2)
    for _, row in table[table["times smaller"] != ""].iterrows():
        ratio, mean = float(row["times smaller"]), float(row["mean error"])
        error.plot(ratio, mean, "o", color="C0")
        if mean:  # exact ones all lie on the axis
            error.annotate(row.variant, (ratio, mean), (0, 6), textcoords="offset points", fontsize=7, ha="center")
    error.set(xscale="log", xlabel="times smaller than naive float32", ylabel="mean error of a probability")
    error.margins(0.2, 0.2)
    trained = table[table["per seed"] != ""].iloc[::-1]
    for place, (_, row) in enumerate(trained.iterrows()):
        values = [float(value) for value in row["per seed"].split(",")]
        dice.plot(values, [place] * len(values), "o", color="C1", alpha=0.6)
        dice.plot(float(row["student's Dice"]), place, "|", color="black", markersize=12)
    sizes = [f" ({row['times smaller']}×)" if row["times smaller"] else "" for _, row in trained.iterrows()]
    dice.set_yticks(range(len(trained)), [name + size for name, size in zip(trained.variant, sizes, strict=True)])
    dice.set(xlabel="student's Dice (%): each seed, and the mean")
    dice.tick_params(axis="y", labelsize=7)
    dice.grid(axis="x", alpha=0.3)
    save_figure(figure, path, ["svg"])


def reference_study(path: Path, steps: int) -> Study:
    """Return the study of the benchmark: the given one, smaller, one run of the teachers, a lossless cache."""
    data = load_study(path).model_dump(mode="json")
    data |= {"study": f"cache_benchmark_{data['study']}", "runs": {"seeds": [0], "folds": 1}}
    data |= {"methods": {"mskd": {}}, "cache": {**data["cache"], **LOSSLESS}}
    data["training"] |= {"steps": steps, "warmup_steps": steps // 20, "validate_every": steps}
    data["evaluation"]["withheld"] = False
    for dataset in data["datasets"].values():
        dataset["withheld"] = False
        learns = dataset["role"] == "train"
        dataset["phantom"] |= {
            "n_train": TRAIN_CASES if learns else 0,
            "n_val": VAL_CASES if learns else 0,
            "n_test": 0 if learns else TEST_CASES,
        }
    return parse_study(data)


def settings_of(study: Study, keys: dict[str, Any]) -> Cache:
    """Return the cache section of a variant."""
    return Cache(taps=study.cache.taps, **keys)


def teachers(study: Study, jobs: int) -> None:
    """Train the teachers and cache their targets losslessly, by the workflow."""
    file = study.root / "study.yaml"
    write_text(file, yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False))
    command = [sys.executable, "-m", "snakemake", "--configfile", str(file), "--cores", str(jobs), "--quiet", "rules"]
    subprocess.run([*command, "--until", "cache_targets"], check=True)
    wanted = [d for d in study.datasets if d not in training_datasets(study)]
    manifests = [str(p) for p in (study.root / "manifests" / "prepare").glob("*/*.json") if p.parent.name in wanted]
    if not manifests:
        targets = [
            str(Layout(study.root).manifest("prepare", name, block))
            for name in wanted
            for block in blocks_of(study, name)
        ]
        subprocess.run([*command, "--", *targets], check=True)


def blocks_of(study: Study, dataset: str) -> list[str]:
    """Return the blocks of a dataset."""
    return sorted({case.block for case in cases_of(study, [dataset], RUN, ["train", "val", "test"])})


def encode(study: Study, variant: str, settings: CacheSettings) -> dict[str, Any]:
    """Encode all targets as a variant; return bytes per voxel, ratio to naive float32, and errors."""
    size = voxels = naive = 0
    worst, total, counted = 0.0, 0.0, 0
    cases = cases_of(study, training_datasets(study), RUN, ["train"])
    for teacher in study.teachers:
        fitted = projections(study, settings, teacher)
        for case in cases:
            source = TargetStore(lossless_path(study, teacher, case), case.id)
            said = TeacherTargets(source.read(LOGITS), {tap: source.read(tap) for tap in settings.taps}, source.strides)
            path = variant_path(study, variant, teacher, case)
            write_store(
                path,
                encoded(study, settings, teacher, case, said, fitted),
                key=source.attributes["key"],
                level=settings.level,
                affine=np.asarray(source.attributes["arrays"][LOGITS]["affine"]),
                attributes={**own_attributes(source), "settings": settings.to_json()},
            )
            read = TargetStore(path, case.id)
            error = np.abs(probability(read.read(LOGITS)) - probability(said.margins))
            worst, total, counted = max(worst, float(error.max())), total + float(error.sum()), counted + error.size
            size += sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            voxels += int(np.prod(said.margins.shape[1:]))
            naive += 4 * (1 + len(said.margins)) * int(np.prod(said.margins.shape[1:]))
            naive += sum(4 * feature.size for feature in said.features.values())
    return {
        "bytes_per_voxel_and_teacher": size / voxels,
        "ratio": naive / size,
        "largest_probability_error": worst,
        "mean_probability_error": total / counted,
        "settings": settings.to_json(),
    }


def own_attributes(store: TargetStore) -> dict[str, Any]:
    """Return the attributes that the stage gave, so that variants carry the same metadata as a cache does."""
    names = ("case", "teacher", "run", "organs", "teacher_digest", "spacing_mm", "code")
    return {name: store.attributes[name] for name in names}


def encoded(
    study: Study, settings: CacheSettings, teacher: str, case: Case, said: TeacherTargets, fitted: dict[str, Projection]
) -> Any:
    """Encode one case as the stage does."""
    prepared = PreparedCase(Layout(study.root).prepared(case.dataset, case.block, case.name), case.id)
    labelled = study.datasets[case.dataset].labelled_organs
    values = [study.label_values[organ] for organ in study.teacher_organs(teacher) if organ in labelled]
    return encode_targets(
        said,
        settings,
        truth=np.isin(prepared.read("labels"), values) if values else None,
        body=prepared.read("body").astype(bool),
        spacing_mm=study.preprocessing.spacing_mm,
        projections=fitted,
        seed=case.id,
    )


def projections(study: Study, settings: CacheSettings, teacher: str) -> dict[str, Projection]:
    """Fit the projections of a teacher from its lossless features on its own training cases."""
    if not settings.feature_channels:
        return {}
    moments: dict[str, Moments] = {}
    for case in cases_of(study, [study.teacher_dataset(teacher)], RUN, ["train"])[:8]:
        store = TargetStore(lossless_path(study, teacher, case), case.id)
        body = PreparedCase(Layout(study.root).prepared(case.dataset, case.block, case.name), case.id).read("body")
        for tap in settings.taps:
            stride, features = store.strides[tap], store.read(tap)
            inside = body[:: stride[0], :: stride[1], :: stride[2]].astype(bool)
            moments.setdefault(tap, Moments(len(features))).add(features, inside)
    return {tap: sums.fit(settings.feature_channels) for tap, sums in moments.items()}


def student(study: Study, variant: str, seed: int) -> dict[str, Any]:
    """Train one student; return its mean Dice on the external test cases (study grid), and the time of a step."""
    training = study.training
    set_up(torch.device("cpu"), training.threads)
    learn = cases_of(study, training_datasets(study), RUN, ["train"])
    external = [name for name in study.datasets if name not in training_datasets(study)]
    test = cases_of(study, external, RUN, ["test"])
    online = variant == "online"
    cases = training_cases(study, learn, training, dict.fromkeys(study.teachers, RUN))
    for case, listed in zip(cases, learn, strict=True):
        case.targets = {
            name: variant_path(study, "lossless" if online else variant, name, listed) for name in study.teachers
        }
    torch.manual_seed(stable_seed("student", seed))
    built = build(_context(study, "mskd", cases[0].stores))
    loss, needs = built.loss, built.needs
    if online:
        loss, needs = online_loss(study, built.loss), PatchNeeds(align=needs.align)
    everything = training.model_copy(update={"validation_cases": len(test)})
    trainee = Trainee(
        title=f"{variant}, seed {seed}",
        network=built.network,
        auxiliary=built.auxiliary,
        loss=loss,
        validate=lambda: {},
    )
    folder = study.root / "students" / variant.replace(" ", "_") / f"seed{seed}"
    sampler = patches(study, cases, training, seed=stable_seed("student", seed), needs=needs)
    train(trainee, sampler, training, folder=folder, device=torch.device("cpu"), resume_key=f"{variant}, seed {seed}")
    channels = study.label_values
    scores = validator(study, built.network, test, everything, channels, torch.device("cpu"))
    built.network.eval()
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    times = [(row["step"], row["time_s"]) for row in steps if "time_s" in row]
    (first, early), (last, late) = times[0], times[-1]
    return {"dice": scores()["val_dice"], "seconds_per_step": (late - early) / (last - first)}


def online_loss(study: Study, offline: Any) -> Any:
    """Return a loss that asks the teachers about the very patch, instead of reading what they said of the volume."""
    models = {name: load_model(Layout(study.root).teacher(name, RUN)).network for name in study.teachers}

    def loss(batch: Batch, step: int) -> dict[str, Tensor]:
        parts, features = [], {}
        with torch.inference_mode():
            for name, network in models.items():
                scores, tapped = network.run(batch.image, study.cache.taps)  # type: ignore[operator]
                parts.append(margins(scores[0]))
                features.update({(name, tap): value for tap, value in tapped.items()})
        batch.margins = torch.cat(parts, 1).clone()
        batch.features = {key: value.clone() for key, value in features.items()}
        terms: dict[str, Tensor] = offline(batch, step)
        return terms

    return loss


def lossless_path(study: Study, teacher: str, case: Case) -> Path:
    """Return the store that the workflow made."""
    return Path(target_place(study.cache_root, teacher, RUN, case.dataset, case.block, case.name))


def variant_path(study: Study, variant: str, teacher: str, case: Case) -> Path:
    """Return the store of a variant."""
    return study.root / "variants" / variant.replace(" ", "_") / teacher / case.dataset / f"{case.name}.zarr"


def probability(margin: Any) -> Any:
    """Return σ(m)."""
    return 1 / (1 + np.exp(-margin.astype(np.float64)))


def add_row(path: Path, row: dict[str, Any]) -> None:
    """Append a row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


if __name__ == "__main__":
    main()
