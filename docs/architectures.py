"""Write docs/architectures.md: which feature runs on which architecture, and why not where not.

Run under TransformerLens 3.9, which has both hosts: `.venv/bin/python docs/architectures.py`.
tests/test_features.py holds the page's cells true on both versions.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402
from features import FEATURES, NAMES, refusals  # noqa: E402
from models import hosts  # noqa: E402

PAGE = ROOT / "docs" / "architectures.md"
SHORT = {"hooked_transformer": "HT", "bridge": "bridge"}
HEAD = """# Architectures: what runs where

Every public feature, on a freshly initialised model of three layers of every architecture that
TransformerLens builds offline, on both hosts (`HT` is `HookedTransformer`). *Yes*: it ran, and a
check showed that it did what it says: what is added stands at its hook point and reaches the
logits, an effect's parts are the change of the logits, an edit is the same as hooks and in the
weights and comes off bit by bit, a checkpoint loads afresh. A number: it is refused by a
`SteerLensError`, whose fact stands below the table. `tests/test_features.py` holds every cell true,
under TransformerLens 4 too; `docs/architectures.py` writes this page.

The models are random: the table says that the code is right there, and nothing of how well a
method works. Gradients through a mixture of experts (`attribute`) are those of the experts chosen:
where a step changes the choice, the metric jumps, and no gradient shows it.
"""

Refusals = Mapping[str, Mapping[str, Mapping[str, str | None]]]
"""Why a feature was refused (None where it ran), by host, its name and architecture."""


def page(told: Refusals) -> str:
    """The page's text."""
    notes: dict[str, int] = {}

    def cell(name: str, architecture: str) -> str:
        refused = {host: told[host][name][architecture] for host in told}
        each = {
            host: "yes" if why is None else f"({notes.setdefault(why, len(notes) + 1)})"
            for host, why in refused.items()
        }
        if len(set(each.values())) == 1:
            return next(iter(each.values()))
        return ", ".join(f"{SHORT[host]} {said}" for host, said in each.items())

    lines = [HEAD, f"| | {' | '.join(NAMES.values())} |", "|---" * (len(NAMES) + 1) + "|"]
    for chapter, features in FEATURES.items():
        lines.append(f"| **{chapter}** |" + " |" * len(NAMES))
        for name in features:
            cells = (cell(name, architecture) for architecture in NAMES)
            lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", *(f"{number}. {why}." for why, number in notes.items())]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        told = {host: refusals(host, Path(folder)) for host in hosts()}
    PAGE.write_text(page(told), encoding="utf-8")
