"""The command line: `steerlens demo`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Find, steer and see directions."
)


@app.callback()
def main() -> None:
    """Find, steer and see directions in language models."""


@app.command()
def demo(
    model: Annotated[
        str | None, typer.Option(help="A local folder or a model name; Steerling by default.")
    ] = None,
    contrast: Annotated[
        Path | None, typer.Option(help="A JSONL file of pairs; needed with --model.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where the report goes.")] = Path("report.html"),
    seed: Annotated[int, typer.Option(help="Seed of items, placebos and sampling.")] = 0,
) -> None:
    """Find a direction, choose its layer and dose, steer both ways, and write a report."""
    import torch

    from steerlens.errors import SteerLensError

    torch.set_num_threads(1)
    if model is None or Path(model).exists():
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers is imported
    try:
        _demo(model, contrast, out, seed)
    except (SteerLensError, OSError, ValueError, RuntimeError) as error:
        typer.echo(f"steerlens: {error}", err=True)
        raise typer.Exit(1) from None


def _demo(name: str | None, contrast: Path | None, out: Path, seed: int) -> None:
    from steerlens.demo import load_model
    from steerlens.demo.first_steering import run
    from steerlens.demo.setting import of_pairs, of_world
    from steerlens.demo.telling import show, write_report
    from steerlens.errors import BadInputError
    from steerlens.host import load

    if (name is None) != (contrast is None):
        raise BadInputError(
            "--model and --contrast go together: a model, and pairs to steer it by."
        )
    if name is None or contrast is None:
        model, setting = load_model(), of_world(seed=seed)
    else:
        model = load(name)
        setting = of_pairs(model, contrast, seed=seed)
    outcome = run(model, setting, seed=seed, progress=sys.stderr.isatty())
    show(outcome)
    typer.echo(f"Report: {write_report(model, outcome, out)}")
