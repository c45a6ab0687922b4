"""The commands about a trained model. Heavy imports come late."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

commands = typer.Typer()


@commands.command(epilog="Example: mskd export -m results/demo/models/mskd/fold0-seed0 -o exported")
def export(
    model: Annotated[Path, typer.Option("--model", "-m", help="Model folder.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder to write: new, empty, or an earlier export (replaced).")
    ],
) -> None:
    """Write a model folder as ONNX, with its preprocessing and a model card; checked against PyTorch."""
    from mskd.export.folder import export_model

    difference = export_model(model, output)
    typer.echo(f"{output}: logits as PyTorch's (largest difference {difference:.1e})")
