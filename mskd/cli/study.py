"""The commands that a person asks about a whole study: its cost, and where it stands. Heavy imports come late."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mskd.cli.joint_work import study_job
from mskd.cli.options import AsJson, DeviceName, StudyArgument

if TYPE_CHECKING:
    from mskd.config.study import Study
    from mskd.stages.check_data import CheckReport

commands = typer.Typer()


@commands.command(
    "init",
    epilog="Example: mskd init /data/Task09_Spleen /data/kits19 /data/BTCV -o config/my_study.yaml   or, where nothing "
    "says what values mean: mskd init /data/mine -o config/mine.yaml --label mine:1=liver",
)
def init(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="FOLDER...", help="Datasets, folders that hold several, or tables (CSV) of files."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Study file to write; its stem names the study.")],
    organs: Annotated[str, typer.Option(help="Organs of the study, comma-separated; all that are labelled.")] = "",
    adapter: Annotated[
        list[str] | None, typer.Option(help="FOLDER=ADAPTER, where the layout is not recognised.")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="FOLDER:VALUE=ORGAN (or ignore, background): what a label's value means.")
    ] = None,
    role: Annotated[list[str] | None, typer.Option(help="FOLDER=train or FOLDER=external (only tested on).")] = None,
    size: Annotated[
        str, typer.Option(help="small: two CPU cores; full: a GPU; auto: full where this machine has one.")
    ] = "auto",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing; what is not clear is an error.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over a study file that exists.")] = False,
) -> None:
    """Look at folders of data, recognise their layouts, and write a commented study file.

    Nothing is copied or changed. In options, FOLDER is a folder's name, the end of its path, or a pattern (Task*).
    """
    from mskd.cli.drafting import answers_from, ask_for_names, show_draft, size_from
    from mskd.draft.study_draft import draft_study, find_candidates
    from mskd.draft.study_file import write_study_file

    answers = answers_from(organs, adapter or [], label or [], role or [])
    chosen = size_from(size)
    candidates = find_candidates(folders, answers)
    if not yes and sys.stdin.isatty():
        ask_for_names(candidates)
    draft = draft_study(candidates, answers)
    write_study_file(draft, output, chosen, force=force)
    show_draft(draft, output)


@commands.command(
    "check-data",
    epilog="Example: mskd check-data config/demo.yaml   or, for one dataset and a machine, mskd check-data "
    "config/paper.yaml --dataset liver --json findings.json",
)
def check_data(
    study: StudyArgument,
    dataset: Annotated[list[str] | None, typer.Option(help="Only this dataset; may be given several times.")] = None,
    jobs: Annotated[int, typer.Option(min=0, help="Processes, each with one image in memory; 0: one per core.")] = 0,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the findings to this file as JSON; - prints them.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Show every finding, not the first few of a kind.")] = False,
    manifest: Annotated[
        bool, typer.Option("--manifest", help="Write what `prepare` waits for; as the workflow calls it.")
    ] = False,
) -> None:
    """Look at every scan and label before anything is computed. Exit code 1 if there are errors."""
    from mskd.config.loading import load_study

    def look(loaded: Study) -> CheckReport:
        from mskd.checks.report import report_json, show_report
        from mskd.stages.check_data import check_data as stage
        from mskd.storage import write_text

        report = stage(loaded, dataset or (), jobs)
        if json_file == Path("-"):
            typer.echo(report_json(report))
        else:
            show_report(report, everything=everything)
            if json_file is not None:
                write_text(json_file, report_json(report) + "\n")
        return report

    if manifest:
        with study_job(study, "check_data", "study") as loaded:
            from mskd.stages.check_data import write_verdict

            write_verdict(loaded, look(loaded))
    elif look(load_study(study)).errors:
        raise typer.Exit(1)


@commands.command(
    epilog="Example: mskd plan config/demo.yaml --jobs 2   or, for a GPU node planned from elsewhere: there "
    "mskd plan STUDY --write-units gpu.json, here mskd plan STUDY --units gpu.json"
)
def plan(
    study: StudyArgument,
    jobs: Annotated[int, typer.Option(min=1, help="Jobs that run at the same time.")] = 1,
    device: DeviceName = "auto",
    units: Annotated[Path | None, typer.Option(help="Read the unit costs instead of measuring them here.")] = None,
    write_units: Annotated[Path | None, typer.Option(help="Write the unit costs to this file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a study will cost: jobs, time, disk, memory; from unit costs measured here in about half a minute."""
    from mskd.config.loading import load_study
    from mskd.plan.units import measured_or_read

    loaded = load_study(study)
    costs = measured_or_read(loaded, device=device, source=units, target=write_units)
    from mskd.plan.report import plan_json, show_plan
    from mskd.plan.study import plan_study

    planned = plan_study(loaded, costs, parallel=jobs)
    if as_json:
        typer.echo(plan_json(planned))
    else:
        show_plan(planned)


@commands.command(epilog="Example: mskd status config/demo.yaml")
def status(
    study: StudyArgument,
    as_json: AsJson = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Do not ask Snakemake which finished jobs are stale (it takes seconds).")
    ] = False,
) -> None:
    """Say where a study stands: jobs done, running, failed, killed, stale, and the time left."""
    from mskd.config.loading import load_study
    from mskd.status import outdated_outputs, show_status, status_json, study_status

    loaded = load_study(study)
    found = study_status(loaded, None if quick else outdated_outputs(study))
    if as_json:
        typer.echo(status_json(found))
    else:
        show_status(found)


@commands.command(epilog="Example: mskd audit config/demo.yaml --top 12")
def audit(
    study: StudyArgument,
    top: Annotated[int, typer.Option(min=1, help="Rows of each table to print; the files hold all.")] = 20,
) -> None:
    """Say what the cached targets know about the data: likely label errors, odd scans, scans that are there twice."""
    from rich.console import Console

    from mskd.config.loading import load_study
    from mskd.stages.audit import audit as look
    from mskd.stages.audit import audit_folder

    loaded = load_study(study)
    found = look(loaded)
    console = Console(highlight=False, soft_wrap=True)
    for title, frame in (
        ("References that teachers contradict", found.cases),
        ("Scans of which teachers are unsure", found.scans),
        ("Scans that are there twice", found.duplicates),
    ):
        console.print(f"\n{title}", style="bold")
        shown = frame.head(top).to_string(index=False, float_format=lambda value: f"{value:.3g}")
        console.print(shown if len(frame) else "none", markup=False)
    console.print(
        f"tables and figures: {audit_folder(loaded)}; mskd tabulate brings them into the report", markup=False
    )
