"""Run the notebooks from their first cell and keep their outputs: `make notebooks`.

    python docs/notebooks.py                  all of them
    python docs/notebooks.py 3_gates          one

What is kept shows on GitHub: views as their static twins, without the half megabyte of script that
draws them live; no timings, and nothing that a cell says on stderr, where paths of machines stand.
"""

from __future__ import annotations

import sys
from pathlib import Path
from time import monotonic

import nbformat
from jupyter_core.utils import run_sync
from nbclient import NotebookClient

FOLDER = Path(__file__).parent.parent / "notebooks"
QUIET = "from steerlens import views; views.embed('never')"


def run(path: Path) -> float:
    """Execute one notebook in place and return how many seconds it took."""
    book = nbformat.read(path, as_version=4)
    client = NotebookClient(book, timeout=300, resources={"metadata": {"path": str(FOLDER)}})
    with client.setup_kernel():
        run_sync(client.kc.execute_interactive)(QUIET, store_history=False)
        start = monotonic()
        for number, cell in enumerate(book.cells):
            client.execute_cell(cell, number)
        seconds = monotonic() - start
    for cell in book.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [each for each in cell.outputs if each.get("name") != "stderr"]
    book.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python"}}
    book.metadata["kernelspec"]["name"] = "python3"
    nbformat.write(book, path)
    return seconds


def main() -> None:
    """Run those that are named, or all."""
    for path in sorted(FOLDER.glob("*.ipynb")):
        if len(sys.argv) == 1 or path.stem in sys.argv[1:]:
            print(f"{path.stem}: {run(path):.0f} s")


if __name__ == "__main__":
    main()
