"""The command that times mskd beside other libraries. The harness lies beside the package, in `benchmarks/speed/`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from mskd.errors import ConfigError

commands = typer.Typer()
REPOSITORY = Path(__file__).parents[2]


@commands.command(
    epilog='Example: pip install -e ".[bench]" && mskd bench   or, to see that it works, mskd bench --quick --results '
    "/tmp/speed   or, for some rows anew, mskd bench --only metrics --only training --again"
)
def bench(
    quick: Annotated[bool, typer.Option("--quick", help="Small volumes, few rounds; says nothing of speed.")] = False,
    only: Annotated[list[str] | None, typer.Option(help="Rows whose name begins so; several times.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Measure rows anew that stand.")] = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, …: where networks compute; default cpu.")] = None,
    rounds: Annotated[int | None, typer.Option(min=2, help="Rounds per row; default 5, with --quick 2.")] = None,
    budget_s: Annotated[float | None, typer.Option(help="No further round after this time; default 60.")] = None,
    scan: Annotated[Path | None, typer.Option(help="A CT to take instead of a synthetic one.")] = None,
    labels: Annotated[Path | None, typer.Option(help="The label map of --scan.")] = None,
    results: Annotated[Path | None, typer.Option(help="Folder of rows and table; default: this repository's.")] = None,
    profile: Annotated[bool, typer.Option("--profile", help="Only write the profile of the training step.")] = False,
) -> None:
    """Time every stage beside the library that a user would otherwise take; answers are compared first.

    Needs a checkout of mskd. A row whose library is missing is skipped, and named with the way to install it.
    """
    if not (REPOSITORY / "benchmarks/speed").is_dir():
        raise ConfigError(
            "mskd bench needs benchmarks/speed/, which an installed package lacks\n"
            '  way out: in a checkout of the repository, `pip install -e ".[bench]"` and the same command again'
        )
    given = {
        "--device": device,
        "--rounds": rounds,
        "--budget-s": budget_s,
        "--scan": scan,
        "--labels": labels,
        "--results": results,
    }
    words = [word for name, value in given.items() if value is not None for word in (name, str(value))]
    words += [name for name, wanted in (("--quick", quick), ("--again", again), ("--profile", profile)) if wanted]
    words += [word for name in only or [] for word in ("--only", name)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(REPOSITORY), os.getenv("PYTHONPATH")])),
    }
    command = [sys.executable, "-m", "benchmarks.speed", *words]
    raise typer.Exit(subprocess.run(command, env=environment, check=False).returncode)
