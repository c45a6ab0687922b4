"""The command line: what `mskd` knows, from the modules beside this one."""

from __future__ import annotations

from typing import Annotated

import typer

from mskd import __version__
from mskd.cli import bench, models, stages, study

app = typer.Typer(
    name="mskd",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="One multi-organ CT network from single-organ datasets, by multi-teacher distillation. Not for clinical use.",
    epilog="Example: snakemake --configfile config/demo.yaml --cores 2   (runs the stages in order)",
)
app.add_typer(study.commands)
app.add_typer(stages.commands)
app.add_typer(models.commands)
app.add_typer(bench.commands)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mskd {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
