"""How many examples a law on tensors is tried on: few in the suite, more when asked."""

from __future__ import annotations

import os

from hypothesis import settings

ASKED = os.environ.get("STEERLENS_EXAMPLES")


def trials(examples: int) -> settings:
    """The same examples on every run, `examples` of them unless more are asked for."""
    return settings(
        max_examples=max(examples, int(ASKED or 0)), deadline=None, derandomize=True, database=None
    )
