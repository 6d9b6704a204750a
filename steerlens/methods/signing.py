"""Signing: a method's steering says of each of its parts what made it.

A direction says how it was found; an entry's scale or an affine map has no such place, and a
direction found by one finder may serve many methods. So what made a steering stands at its
interventions, where combining, gating and saving leave it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from steerlens.interventions import Intervention, mapped
from steerlens.steering import Steering


def signed(steering: Steering, source: Mapping[str, str]) -> Steering:
    """Return the steering with its provenance at every intervention.

    What another method made before, as the base that gates are fitted for, stays under "base".

    >>> once = signed(steering, {"method": "caa", "model": "gpt2"})
    >>> dict(signed(once, {"method": "dsas", "model": "gpt2"}).interventions[0].provenance)
    {'method': 'dsas', 'model': 'gpt2', 'base': "{'method': 'caa'}"}
    """

    def sign(leaf: Intervention) -> Intervention:
        before = {key: told for key, told in leaf.provenance.items() if source.get(key) != told}
        base = {"base": str(before)} if before else {}
        return replace(leaf, provenance={**source, **base})

    return Steering(mapped(steering.expression, sign))
