"""A training run that was cut off goes on: its exact state beside the checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from steerlens.demo.muon import Muon

FILE = "resume.safetensors"


def tensors(
    model: torch.nn.Module, muon: Muon, adamw: torch.optim.AdamW
) -> dict[str, dict[str, Tensor]]:
    """Return every tensor that a run carries from one step to the next, by part and name.

    >>> weight = torch.nn.Linear(2, 2)
    >>> adamw = torch.optim.AdamW(weight.parameters())
    >>> sorted(tensors(weight, Muon([], 0.0), adamw))
    ['adamw', 'model', 'muon']
    """
    moments = {
        f"{i}.{name}": value
        for i, p in enumerate(adamw.param_groups[0]["params"])
        for name, value in adamw.state[p].items()
    }
    weights = {name: p.detach() for name, p in model.named_parameters()}
    velocities = {str(i): each for i, each in enumerate(muon.velocities.values())}
    return {"model": weights, "muon": velocities, "adamw": moments}


def keep(folder: Path, parts: dict[str, dict[str, Tensor]], about: dict[str, Any]) -> None:
    """Write the state of a run, with what is no tensor as JSON."""
    flat = {f"{part}/{name}": each for part, held in parts.items() for name, each in held.items()}
    save_file(flat, folder / FILE, metadata={"run": json.dumps(about)})


@torch.no_grad()
def go_on(
    folder: Path, model: torch.nn.Module, muon: Muon, adamw: torch.optim.AdamW
) -> dict[str, Any] | None:
    """Put a kept state back, and return its JSON; None where the folder holds none."""
    if not (folder / FILE).is_file():
        return None
    with safe_open(folder / FILE, framework="pt") as file:
        about: dict[str, Any] = json.loads(file.metadata()["run"])
        held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for i, p in enumerate(adamw.param_groups[0]["params"]):
        mine = {n.split(".", 1)[1]: t for n, t in held.items() if n.startswith(f"adamw/{i}.")}
        if mine:
            adamw.state[p] = {n: t if n == "step" else t.to(p) for n, t in mine.items()}
    parts = tensors(model, muon, adamw)
    for part in ("model", "muon"):
        for name, each in parts[part].items():
            each.copy_(held[f"{part}/{name}"])
    return about
