"""One torch thread, no network, and the names that doctests speak of: model, contrast, ..."""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch

torch.set_num_threads(1)
_TESTS = Path(__file__).parent / "tests"


@pytest.fixture(autouse=True)
def _names_for_doctests(request: pytest.FixtureRequest, doctest_namespace: dict[str, Any]) -> None:
    """Give a doctest the names it uses, made once and only where one is used."""
    if not isinstance(request.node, pytest.DoctestItem):
        return
    source = "".join(example.source for example in request.node.dtest.examples)
    if any(name in source for name in ("model", "contrast", "directions", "steering", "trace")):
        doctest_namespace.update(_namespace())


@cache
def _namespace() -> dict[str, Any]:
    import steerlens as sl

    model = _model()
    contrast = sl.Contrast(
        positive=["a good day", "the good cat", "very good food", "good good"],
        negative=["a bad day", "the bad cat", "very bad food", "bad bad"],
    )
    directions = sl.find_directions(model, contrast, placebos=5, progress=False)
    steering = sl.add(directions["resid_post", 2], coeff=4, positions="predicting")
    with steering.trace(model) as trace:
        model("a good day")
    return {
        "sl": sl,
        "torch": torch,
        "model": model,
        "contrast": contrast,
        "directions": directions,
        "steering": steering,
        "trace": trace,
    }


def _model() -> Any:
    """Return Steerling, the bundled model; a tiny random llama where it is not there."""
    try:
        from steerlens.demo import load_model

        return load_model()
    except (ImportError, OSError, ValueError):
        sys.path.insert(0, str(_TESTS))
        from models import tiny

        return tiny("llama", "bridge")
