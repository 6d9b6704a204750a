"""`python -m benchmarks [CASE ...]`: measure, print the tables, write docs/performance.md."""

from __future__ import annotations

import argparse
import warnings

import torch

from benchmarks.registry import CASES
from benchmarks.results import Result, machine, save, table, write_page


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}")
    parser.add_argument("--tiny", action="store_true", help="smallest size; nothing is kept")
    given = parser.parse_args()
    unknown = [name for name in given.cases if name not in CASES]
    if unknown:
        parser.error(f"There is no case {unknown[0]!r}; there are {', '.join(CASES)}.")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in given.cases or CASES:
        print(f"\n{name}: {CASES[name].__doc__}\n", flush=True)
        rows = tuple(CASES[name](given.tiny))
        print(table(rows), flush=True)
        if not given.tiny:
            save(Result(name, rows, machine()))
            write_page()


if __name__ == "__main__":
    main()
