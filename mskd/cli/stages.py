"""The commands of the workflow's stages: one per arrow of the way of the data. Heavy imports come late."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mskd.cli.cache import cache_commands
from mskd.cli.joint_work import network_job, study_job
from mskd.cli.options import (
    BlockName,
    DatasetName,
    DeviceName,
    MethodName,
    OptionalStudy,
    Processes,
    RunName,
    StudyFile,
    TeacherName,
    json_mapping,
)
from mskd.errors import ConfigError

commands = typer.Typer()
commands.add_typer(cache_commands, name="cache")


@commands.command(
    epilog="Example: mskd phantom --study config/demo.yaml --dataset liver   or   "
    "mskd phantom --output /tmp/Task09_Spleen --task Task09_Spleen --organ spleen --cases 6"
)
def phantom(
    study: OptionalStudy = None,
    dataset: Annotated[str, typer.Option(help="With --study: dataset to make.")] = "",
    output: Annotated[Path | None, typer.Option(help="Without --study: folder to write a dataset into.")] = None,
    layout: Annotated[str, typer.Option(help="msd, kits, lits or btcv.")] = "msd",
    task: Annotated[str, typer.Option(help="Name of the MSD task.")] = "Task03_Liver",
    organ: Annotated[list[str] | None, typer.Option(help="Organ to label; may be given several times.")] = None,
    cases: Annotated[int, typer.Option(min=1, help="Number of cases.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the population.")] = 0,
    spacing_mm: Annotated[tuple[float, float, float], typer.Option(help="Voxel size in mm.")] = (
        2.5,
        2.5,
        4.0,
    ),
    atlas: Annotated[Path | None, typer.Option(help="Label map of your own to deform.")] = None,
    atlas_ct: Annotated[Path | None, typer.Option(help="The CT that belongs to --atlas.")] = None,
    atlas_map: Annotated[str, typer.Option(help='File value → tissue, for example \'{"2": "liver"}\'.')] = "{}",
) -> None:
    """Make synthetic CT scans in the layout of a public dataset."""
    if study is not None:
        with study_job(study, "make_phantoms", dataset) as loaded:
            from mskd.stages.make_phantoms import make_phantoms

            make_phantoms(loaded, dataset)
        return
    if output is None:
        raise ConfigError("mskd phantom needs --study FILE --dataset NAME, or --output FOLDER")
    from mskd.stages.make_phantoms import make_dataset

    spec = {
        "layout": layout,
        "task": task,
        "organs": organ or ["liver"],
        "n_train": cases,
        "n_val": 0,
        "n_test": 0,
        "seed": seed,
        "scanner": {"spacing_mm": spacing_mm},
    }
    if atlas is not None:
        spec["atlas"] = {
            "labels": atlas,
            "ct": atlas_ct,
            "label_map": json_mapping("--atlas-map", atlas_map),
        }
    make_dataset(output, spec)


@commands.command(epilog="Example: mskd prepare --study config/demo.yaml --dataset liver --block b00")
def prepare(study: StudyFile, dataset: DatasetName, block: BlockName) -> None:
    """Bring the raw scans of a block to the study grid."""
    with study_job(study, "prepare", dataset, block) as loaded:
        from mskd.stages.prepare import prepare as stage

        stage(loaded, dataset, block)


@commands.command(epilog="Example: mskd adopt-teacher --study study.yaml --teacher abdomen")
def adopt_teacher(study: StudyFile, teacher: TeacherName, device: DeviceName = "auto") -> None:
    """Look at a teacher that exists already: files, classes, tool, interpreter."""
    with network_job(study, "adopt_teacher", teacher, "given", device=device) as (loaded, place):
        from mskd.stages.adopt_teacher import adopt_teacher as stage

        stage(loaded, teacher, place)


@commands.command(epilog="Example: mskd train-teacher --study config/demo.yaml --teacher liver --run fold0-seed0")
def train_teacher(
    study: StudyFile, teacher: TeacherName, run: RunName, device: DeviceName = "auto", processes: Processes = 1
) -> None:
    """Train one teacher on the labels of its own dataset."""
    with network_job(study, "train_teacher", teacher, run, device=device, processes=processes) as (loaded, place):
        from mskd.stages.train_teacher import train_teacher as stage

        stage(loaded, teacher, run, place)


@commands.command(epilog="Example: mskd train-student --study config/demo.yaml --method mskd --run fold0-seed0")
def train_student(
    study: StudyFile, method: MethodName, run: RunName, device: DeviceName = "auto", processes: Processes = 1
) -> None:
    """Train the multi-organ network of a method from cached targets."""
    with network_job(study, "train_student", method, run, device=device, processes=processes) as (loaded, place):
        from mskd.stages.train_student import train_student as stage

        stage(loaded, method, run, place)


@commands.command(
    epilog="Example: mskd predict -m results/demo/models/mskd/fold0-seed0 -i scan.nii.gz -o predictions   "
    "or a folder of DICOM studies on two GPUs: mskd predict -m MODEL -i studies -o predictions --dicom-seg "
    "--device cuda:0,cuda:1   or, in a study, mskd predict --study config/demo.yaml --method mskd "
    "--run fold0-seed0 --dataset multi_organ --block b00"
)
def predict(
    model: Annotated[Path | None, typer.Option("--model", "-m", help="Model folder.")] = None,
    input_path: Annotated[
        Path | None,
        typer.Option(
            "--input",
            "-i",
            help="NIfTI file, folder of them, folder of DICOM series, .txt or .csv list, .zip or .tar of these.",
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder for <name of the scan>.nii.gz.")] = None,
    organ_files: Annotated[bool, typer.Option("--organ-files", help="Also one file per organ.")] = False,
    probabilities: Annotated[bool, typer.Option("--probabilities", help="Also a probability map per organ.")] = False,
    dicom_seg: Annotated[
        bool, typer.Option("--dicom-seg", help="Also a DICOM-SEG; of a NIfTI scan with the series it refers to.")
    ] = False,
    fast: Annotated[bool, typer.Option("--fast", help="Fewer windows: they overlap by a quarter at most.")] = False,
    bfloat16: Annotated[
        bool,
        typer.Option("--bfloat16", help="Half the time on GPUs and on CPUs with AVX-512 BF16 or AMX; not on others."),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Take scans whose intensities are not those of a CT.")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Processes per device.")] = 1,
    study: OptionalStudy = None,
    method: MethodName = "",
    run: RunName = "fold0-seed0",
    dataset: DatasetName = "",
    block: BlockName = "",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, …; several: cuda:0,cuda:1.")] = "auto",
    processes: Annotated[
        int, typer.Option(min=0, help="With --study: processes that share a block, each on a GPU of its own.")
    ] = 1,
) -> None:
    """Segment scans with a model folder, or predict a block of a study's test cases.

    Goes on after a scan that cannot be predicted, lists such scans at the end, and then exits with 2. The same command
    again does what is missing; several at a time share a folder.
    """
    if study is not None:
        parts = method, run, dataset, block
        with network_job(study, "predict", *parts, device=device, processes=processes) as (loaded, place):
            from mskd.stages.predict import predict as stage

            stage(loaded, *parts, place)
        return
    if model is None or input_path is None or output is None:
        raise ConfigError("mskd predict needs -m MODEL -i INPUT -o OUTPUT (see mskd predict --help)")
    if processes > 1:
        raise ConfigError("--processes shares a block of a study; with -m write --device cuda:0,cuda:1, or --jobs 2")
    from mskd.stages.predict_scans import Wanted, predict_scans

    wanted = Wanted(
        organ_files, probabilities, dicom_seg, fast=fast, precision="bfloat16" if bfloat16 else "float32", force=force
    )
    problems = predict_scans(model, input_path, output, wanted, device.split(","), jobs=jobs)
    if problems:
        typer.echo(f"{len(problems)} scans could not be predicted:\n" + "\n".join(problems), err=True)
        raise typer.Exit(2)


@commands.command(
    epilog="Example: mskd evaluate --reference labels --prediction out --labels '{\"liver\": 1}' --output scores   or, "
    "in a study, mskd evaluate --study config/demo.yaml --method mskd --run fold0-seed0 --dataset multi_organ"
)
def evaluate(
    reference: Annotated[Path | None, typer.Option(help="Folder of reference labels.")] = None,
    prediction: Annotated[Path | None, typer.Option(help="Folder of predictions, same file names.")] = None,
    labels: Annotated[
        str, typer.Option(help='Organ → value in both, or several: \'{"liver": 1, "kidney": [2, 3]}\'.')
    ] = "{}",
    output: Annotated[Path | None, typer.Option(help="Folder for metrics.csv and the tables.")] = None,
    tolerance_mm: Annotated[float, typer.Option(min=0, help="Tolerance of the surface Dice in mm.")] = 2.0,
    ignore_value: Annotated[
        int | None,
        typer.Option(min=0, help="Reference value that counts on neither side, 0: none; 255 unless an organ has it."),
    ] = None,
    study: OptionalStudy = None,
    method: MethodName = "",
    run: RunName = "fold0-seed0",
    dataset: DatasetName = "",
) -> None:
    """Score two folders of label maps, or a method's predictions of a study's dataset."""
    if study is not None:
        with study_job(study, "evaluate", method, run, dataset) as loaded:
            from mskd.stages.evaluate import evaluate as stage

            stage(loaded, method, run, dataset)
        return
    if reference is None or prediction is None or output is None:
        raise ConfigError("mskd evaluate needs --reference DIR --prediction DIR --labels MAP --output DIR")
    from mskd.evaluation.folders import evaluate_folders

    values = json_mapping("--labels", labels)
    evaluate_folders(reference, prediction, values, output, nsd_tolerance_mm=tolerance_mm, ignore_value=ignore_value)
    typer.echo((output / "comparison.md").read_text(encoding="utf-8"))


@commands.command(epilog="Example: mskd tabulate --study config/demo.yaml --show")
def tabulate(
    study: StudyFile,
    show: Annotated[bool, typer.Option("--show", help="Only print the tables that stand.")] = False,
) -> None:
    """Gather all scores into tables, figures and the report."""
    from mskd.config.loading import load_study
    from mskd.stages.tabulate import show_tables
    from mskd.stages.tabulate import tabulate as stage

    if not show:
        with study_job(study, "tabulate") as loaded:
            stage(loaded)
    show_tables(load_study(study))
