"""The command line: `steerlens demo`, `find`, `inspect` and `report`.

Exit codes: 0 where all went well, 1 where something was wrong with what was given (told in one
line), 2 where the command was not understood.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from steerlens.host import Host

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Find, steer and see directions."
)
_MODEL = "A local folder or a model name; Steerling, the bundled model, by default."
_PAIRS = "A JSONL file, a pair a line: positive and negative, or prompt and two responses."
Model = Annotated[str | None, typer.Option(help=_MODEL)]
Seed = Annotated[int, typer.Option(help="Seed of items, placebos and sampling.")]


@app.callback()
def main() -> None:
    """Find, steer and see directions in language models."""


@app.command()
def demo(
    model: Model = None,
    contrast: Annotated[Path | None, typer.Option(help=f"{_PAIRS} Needed with --model.")] = None,
    out: Annotated[Path, typer.Option(help="Where the report goes.")] = Path("report.html"),
    seed: Seed = 0,
) -> None:
    """Find a direction, choose its layer and dose, steer both ways, and write a report."""
    with _told(), _quiet(model):
        _demo(model, contrast, out, seed)


@app.command()
def find(
    contrast: Annotated[Path, typer.Argument(help=_PAIRS, metavar="PAIRS")],
    model: Model = None,
    out: Annotated[Path, typer.Option(help="Where the directions go.")] = Path(
        "directions.safetensors"
    ),
    method: Annotated[
        str, typer.Option(help="mean_difference, pca, probe, whitened, leace, ...")
    ] = "mean_difference",
    site: Annotated[
        str, typer.Option(help="At every layer: resid_post, attn_out, mlp_out, z, ...")
    ] = "resid_post",
    positions: Annotated[
        str | None,
        typer.Option(help="Where texts are read; by default at their end."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="By default that of the file.")] = None,
    placebos: Annotated[
        int, typer.Option(min=0, help="Shuffled labels and random directions, each.")
    ] = 50,
    seed: Seed = 0,
) -> None:
    """Find the direction of a contrast at every layer, tell how good each is, and save them."""
    with _told(), _quiet(model):
        from steerlens.cli.showing import show_directions
        from steerlens.contrast import Contrast
        from steerlens.directions import find_directions
        from steerlens.saving import save
        from steerlens.storage import check_path

        check_path(out)
        pairs = Contrast.from_jsonl(contrast)
        found = find_directions(
            _model(model),
            pairs,
            method,
            hook_names=site,
            positions=positions,
            name=name or contrast.stem,
            placebos=placebos,
            seed=seed,
            progress=sys.stderr.isatty(),
        )
        save(found, out)
        show_directions(found)
        typer.echo(f"Saved: {out}")


@app.command()
def inspect(
    file: Annotated[
        Path, typer.Argument(help="A file of sl.save, of a sweep, or a gguf control vector.")
    ],
) -> None:
    """Show what a file holds, what it was made on, and whether it is whole."""
    with _told():
        from steerlens.cli.showing import show_file

        show_file(file)


@app.command()
def report(
    files: Annotated[
        list[Path], typer.Argument(help="Files of sl.save, or gguf control vectors; in order.")
    ],
    out: Annotated[Path, typer.Option(help="Where the page goes.")] = Path("report.html"),
    title: Annotated[str, typer.Option(help="Of the page.")] = "A steering",
) -> None:
    """Write saved values as one page that opens offline, each in its own views."""
    with _told():
        from tqdm.auto import tqdm

        from steerlens.cli.showing import read, sections
        from steerlens.views import report as write

        bar = tqdm(files, desc="files", disable=not sys.stderr.isatty())
        parts = [part for file in bar for part in (file.name, *sections(read(file)))]
        typer.echo(f"Report: {write(out, *parts, title=title)}")


@contextmanager
def _told() -> Iterator[None]:
    """Tell an error in one line, and exit with 1."""
    from steerlens.errors import SteerLensError

    try:
        yield
    except (SteerLensError, OSError, ValueError, RuntimeError) as error:
        typer.echo(f"steerlens: {' '.join(str(error).split())}", err=True)
        raise typer.Exit(1) from None


@contextmanager
def _quiet(model: str | None) -> Iterator[None]:
    """One torch thread, and no network where the model is at hand."""
    if model is None or Path(model).exists():
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers is imported
    import torch

    torch.set_num_threads(1)
    yield


def _model(name: str | None) -> Host:
    from steerlens.demo import load_model
    from steerlens.errors import BadInputError
    from steerlens.host import load

    if name is not None and name.startswith(("/", ".", "~")) and not Path(name).is_dir():
        raise BadInputError(f"There is no folder {name} with a model.")
    loaded: Host = load_model() if name is None else load(name)
    return loaded


def _demo(name: str | None, contrast: Path | None, out: Path, seed: int) -> None:
    from steerlens.demo.first_steering import run
    from steerlens.demo.setting import of_pairs, of_world
    from steerlens.demo.telling import show, write_report
    from steerlens.errors import BadInputError
    from steerlens.storage import check_path

    check_path(out)
    if (name is None) != (contrast is None):
        raise BadInputError(
            "--model and --contrast go together: a model, and pairs to steer it by."
        )
    model = _model(name)
    setting = of_world(seed=seed) if contrast is None else of_pairs(model, contrast, seed=seed)
    outcome = run(model, setting, seed=seed, progress=sys.stderr.isatty())
    show(outcome)
    typer.echo(f"Report: {write_report(model, outcome, out)}")
