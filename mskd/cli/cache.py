"""The commands `mskd cache …`: teachers' cached targets. Heavy imports come late."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mskd.cli.joint_work import network_job, study_job
from mskd.cli.options import (
    AsJson,
    BlockName,
    DatasetName,
    DeviceName,
    Processes,
    RunName,
    StudyArgument,
    StudyFile,
    TeacherName,
)

cache_commands = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Teachers' cached targets.")


@cache_commands.command(
    "make",
    epilog="Example: mskd cache make --study config/demo.yaml --teacher liver --run fold0-seed0 "
    "--dataset spleen --block b00",
)
def cache_make(
    study: StudyFile,
    teacher: TeacherName,
    run: RunName,
    dataset: DatasetName,
    block: BlockName,
    device: DeviceName = "auto",
    processes: Processes = 1,
) -> None:
    """Run a teacher once over a block of cases and store logits and features."""
    parts = teacher, run, dataset, block
    with network_job(study, "cache_targets", *parts, device=device, processes=processes) as (loaded, place):
        from mskd.stages.cache_targets import cache_targets

        cache_targets(loaded, *parts, place)


@cache_commands.command(
    "fit", epilog="Example: mskd cache fit --study config/demo.yaml --teacher liver --run fold0-seed0"
)
def cache_fit(study: StudyFile, teacher: TeacherName, run: RunName, device: DeviceName = "auto") -> None:
    """Fit the projection of a teacher's features, on its own training cases."""
    with network_job(study, "fit_projection", teacher, run, device=device) as (loaded, place):
        from mskd.stages.fit_projection import fit_projection

        fit_projection(loaded, teacher, run, place)


@cache_commands.command("compare", epilog="Example: mskd cache compare --study config/demo.yaml --run fold0-seed0")
def cache_compare(study: StudyFile, run: RunName) -> None:
    """Count what the teachers of a run contradict each other on, and score them on labelled validation cases."""
    with study_job(study, "compare_teachers", run) as loaded:
        from mskd.stages.compare_teachers import compare_teachers

        compare_teachers(loaded, run)


@cache_commands.command("verify", epilog="Example: mskd cache verify config/demo.yaml --repair")
def cache_verify(
    study: StudyArgument,
    repair: Annotated[bool, typer.Option("--repair", help="Remove what is bad; the next run remakes it.")] = False,
) -> None:
    """Read every byte of the cache: flipped bytes, missing files, stale keys. Exit code 1 if there is any."""
    from mskd.config.loading import load_study
    from mskd.stages.inspect_cache import verify_cache

    faults = verify_cache(load_study(study), repair=repair)
    typer.echo(f"{len(faults)} bad" if faults else "every store is whole and current")
    if faults:
        typer.echo("removed; run the workflow again" if repair else "run again with --repair, then the workflow")
        raise typer.Exit(0 if repair else 1)


@cache_commands.command("info", epilog="Example: mskd cache info config/demo.yaml --case liver/liver_000")
def cache_info(
    study: StudyArgument,
    case: Annotated[str, typer.Option(help="Also draw what the teachers say of this case.")] = "",
    output: Annotated[Path, typer.Option(help="Picture of --case, as PNG and SVG.")] = Path("cache_preview.png"),
    as_json: AsJson = False,
) -> None:
    """Say what is cached: cases, missing, stale, bytes, and the ratio to naive float32 logits and features."""
    from mskd.config.loading import load_study
    from mskd.stages.inspect_cache import cache_info as info
    from mskd.stages.inspect_cache import preview_case

    loaded = load_study(study)
    found = info(loaded)
    if as_json:
        typer.echo(found.to_json(orient="records"))
    else:
        shown = found.assign(MB=(found["bytes"] / 1e6).round(2), ratio=found["ratio"].round(1))
        shown["bytes_per_voxel"] = shown["bytes_per_voxel"].round(4)
        typer.echo(f"preset {loaded.cache.preset}, taps {', '.join(loaded.cache.taps) or 'none'}")
        typer.echo(shown.drop(columns="bytes").to_string(index=False))
    if case:
        preview_case(loaded, case, output)
        typer.echo(f"picture: {output}")
