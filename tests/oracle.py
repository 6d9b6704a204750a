"""What a leaf should do to one row alone in one uncached pass, by plain loops and formulas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from making import STORED, drawn, mask, reading, stored, vector
from torch import Tensor

if TYPE_CHECKING:
    from case import Leaf

BOS = 1


def change(leaf: Leaf, architecture: str, x: Tensor, h: Tensor, s: Tensor) -> Tensor:
    """The change of strength `s` (1, pos) for what is read `x` and written `h` (1, pos, *unit)."""
    s = s.reshape(*s.shape, *[1] * (x.ndim - 2))
    v, other = vector(leaf, architecture), drawn(leaf, architecture, 3)
    w = drawn(leaf, architecture, 2)
    u = v / v.norm(dim=-1, keepdim=True).clamp_min(1e-20)
    along = (x * u).sum(-1, keepdim=True)
    kind = leaf.kind
    if leaf.stream:
        length = h.flatten(2).norm(dim=-1).reshape(s.shape)
        return s * 0.3 * length * (v / v.norm())
    if kind == "add":
        return s * v.expand_as(x)
    if kind in ("ablate", "reads"):
        return -s * along * u
    if kind == "ablate_both":
        second = _orthogonal(u, w)
        return -s * (along * u + (x * second).sum(-1, keepdim=True) * second)
    if kind == "mean_ablate":
        return s * ((other * u).sum(-1, keepdim=True) - along) * u
    if kind in ("clamp", "cap"):
        low, high = (-0.3, 0.4) if kind == "clamp" else (None, 0.2)
        return s * (along.clamp(low, high) - along) * u
    if kind == "scale":
        return s * mask(leaf, architecture) * x
    if kind == "affine":
        return s * (other / 2 * x + w)
    if kind in ("rotate", "rotate_to"):
        return _turn(x, v, w, s, 0.7 if kind == "rotate_to" else None)
    if kind == "keep_norm":
        moved = x + s * v
        return moved / moved.norm(dim=-1, keepdim=True) * x.norm(dim=-1, keepdim=True) - x
    if kind == "function":
        return s * torch.tanh(x)
    gap = torch.zeros_like(x)
    for i in range(min(STORED, x.shape[1])):
        gap[0, i] = stored(leaf, architecture)[0, i] - x[0, i]
    return s * (gap if kind == "replace" else (gap * u).sum(-1, keepdim=True) * u)


def _orthogonal(u: Tensor, w: Tensor) -> Tensor:
    """The unit part of w that is orthogonal to u, head by head."""
    rest = w - (w * u).sum(-1, keepdim=True) * u
    return rest / rest.norm(dim=-1, keepdim=True)


def _turn(x: Tensor, v: Tensor, w: Tensor, s: Tensor, target: float | None) -> Tensor:
    """A rotation by explicit matrix, over all heads at once."""
    flat = x.flatten(2).double()
    e1 = (v / v.norm()).flatten().double()
    rest = w.flatten().double() - (w.flatten().double() @ e1) * e1
    e2 = rest / rest.norm()
    a, b = flat @ e1, flat @ e2
    turn = s.reshape(a.shape).double()
    if target is not None:
        left = target - torch.atan2(b, a)
        turn = turn * torch.atan2(left.sin(), left.cos())
    new_a, new_b = a * turn.cos() - b * turn.sin(), a * turn.sin() + b * turn.cos()
    moved = (new_a - a)[..., None] * e1 + (new_b - b)[..., None] * e2
    return moved.to(x.dtype).reshape(x.shape)


def openness(
    leaf: Leaf,
    architecture: str,
    x: Tensor,
    there: Tensor | None,
    row: tuple[int, ...],
    prompt: int,
) -> Tensor:
    """The gate's values (1, pos)."""
    if not isinstance(leaf.gate, str):
        return torch.full(x.shape[:2], float(leaf.gate))
    own = drawn(leaf, architecture, 4)
    dot = (x * own).flatten(2).sum(-1)
    words = [i for i, token in enumerate(row) if not (i == 0 and token == BOS)]
    n = len(row)
    if leaf.gate == "function":
        return torch.sigmoid(dot)
    if leaf.gate == "probe":
        return torch.sigmoid(dot + 0.1)
    if leaf.gate == "or":
        return 1 - (1 - torch.sigmoid(dot + 0.1)) * torch.sigmoid(dot - 0.5)
    if leaf.gate == "relu":
        return (dot / (x.flatten(2).norm(dim=-1) * own.norm())).clamp_min(0)
    if leaf.gate in ("decay", "steps"):
        step = [i - prompt + 1 for i in range(n)]
        fading = leaf.gate == "decay"
        return torch.tensor(
            [[0.5 ** (max(k, 0) / 2) if fading else float(0 <= k < 2) for k in step]]
        )
    if leaf.gate == "elsewhere":
        assert there is not None
        return torch.sigmoid((there * reading(leaf)).sum(-1))
    if leaf.gate in ("of_prompt", "of_last"):
        held = [i for i in words if i < prompt] or list(range(prompt))
        whole = x[0, prompt - 1] if leaf.gate == "of_last" else x[0, held].mean(0)
        return torch.sigmoid((whole * own).sum() + 0.1).expand(1, n)
    state, found = 0.0, []
    for i in range(n):
        if i in words:
            state = _next(leaf.gate, state, float(dot[0, i]), float(own.norm()))
        found.append(state)
    return torch.tensor([found])


def _next(gate: str, state: float, dot: float, norm: float) -> float:
    if gate == "latch":
        return max(state, float(torch.sigmoid(torch.tensor(dot + 0.1))))
    return 1.0 if dot / norm > 0.3 else 0.0 if dot / norm < -0.3 else state


def picks(where: tuple[Any, ...], i: int, tokens: tuple[int, ...], prompt: int) -> bool:
    """Whether positions pick token i of a row."""
    name, *arguments = where
    opens = tokens[0] == BOS
    if name == "not":
        return not picks(arguments[0], i, tokens, prompt) and not (i == 0 and opens)
    if name in ("or", "and"):
        both = [picks(each, i, tokens, prompt) for each in arguments]
        return any(both) if name == "or" else all(both)
    if i == 0 and opens and name in ("everywhere", "prompt", "generated", "first", "last"):
        return False
    if name == "first":
        return i < arguments[0] + opens
    if name == "last":
        return prompt - arguments[0] <= i < prompt
    if name == "index":
        return i == arguments[0] % prompt if arguments[0] < 0 else i == arguments[0]
    if name == "span":
        start, stop = (prompt + a if a is not None and a < 0 else a for a in arguments)
        return start <= i and (stop is None or i < stop)
    if name == "matching":
        return tokens[i] in arguments
    return {
        "everywhere": True,
        "every_token": True,
        "prompt": i < prompt,
        "generated": i >= prompt,
        "predicting": i >= prompt - 1,
        "last_prompt_token": i == prompt - 1,
    }[name]
