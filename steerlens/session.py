"""A steering at work on a model: its callbacks, and what is checked as they fire."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from steerlens.basis import Basis
from steerlens.clock import Clock, Ever
from steerlens.errors import BadInputError, HookError
from steerlens.host import FwdHooks, HookFn, Host, by_token
from steerlens.interventions import (
    Change,
    Expression,
    Intervention,
    Strength,
    applied,
    change,
    leaves,
    mapped,
    only,
    read_elsewhere,
    scaled,
    strength,
)
from steerlens.positions import Selector
from steerlens.provenance import strange
from steerlens.signals import Memory, Moment, fixed, looked_for
from steerlens.trace import Trace
from steerlens.transforms import Transform, moved


class Acting:
    """An intervention at work: its state, and what stays the same from pass to pass."""

    def __init__(self, leaf: Intervention, number: int, known: int | None) -> None:
        """Start before the first pass."""
        self.leaf = leaf
        self.number = number
        self.memory = Memory()
        self.opened: Ever | None = None if fixed(leaf.gate) else Ever()
        """Whether a gate that depends on what it reads has opened yet."""
        self.known = known
        """Which strength it has of those that no activation decides, shared with its likes."""
        self._moved: tuple[torch.device, torch.dtype, Transform] | None = None

    def transform(self, x: Tensor) -> Transform:
        """The transform with its tensors beside x, moved there once."""
        if self._moved is None or self._moved[:2] != (x.device, x.dtype):
            with torch.inference_mode(False):
                beside = moved(self.leaf.transform, x.device, x.dtype)
            self._moved = x.device, x.dtype, beside
        return self._moved[2]


class Session:
    """One steering on one model, for the length of a `with` block or one pass.

    All state of a run lives here and in its clock: none on the steering, none global.
    """

    def __init__(
        self, expression: Expression, model: Host, clock: Clock, trace: Trace | None = None
    ) -> None:
        """Raise UnknownNameError or HookError on a hook point that cannot be steered."""
        self.expression = _placed(expression, model)
        self.model = model
        self.clock = clock
        self.trace = trace
        self.leaves = tuple(leaves(self.expression))
        self.names = tuple(dict.fromkeys(leaf.hook_name for leaf in self.leaves))
        self.acting = {id(each.leaf): each for each in _acting(self.leaves)}
        self.reads = tuple(dict.fromkeys(read_elsewhere(self.expression)))
        points = model.hook_dict
        self._points = {name: id(points[name]) for name in (*self.names, *self.reads)}
        self.fired: dict[str, int] = {}
        """The latest pass in which each point was written."""
        self.overflowed: dict[str, Tensor] = {}
        """Whether writing made infinity of what was finite, in float16."""
        self._read: dict[str, tuple[int, Tensor]] = {}
        self._known: dict[tuple[int, torch.device, torch.dtype], Strength] = {}
        self._known_in = -1

    def fwd_hooks(self) -> FwdHooks:
        """Return the callbacks: one a point written, then one a point read, which sees what was."""
        readers = [(name, self._reader(name)) for name in self.reads]
        return [*((name, self._callback(name)) for name in self.names), *readers]

    def _reader(self, name: str) -> HookFn:
        def read(activation: Tensor, hook: Any) -> None:
            self._check_shape(name, activation)
            if name not in self._read:
                self._check_fit(name, activation)
            self._read[name] = self.clock.serial, activation

        return read

    def _elsewhere(self, leaf: Intervention, name: str, h: Tensor) -> Tensor:
        """What stands at another hook point in this pass; at the leaf's own, what it sees there."""
        if name not in self._points:
            raise BadInputError(
                f"{leaf!r} reads {name!r}, and nothing told that it would. A signal of your own "
                "says what it reads: it is a dataclass, and has signal.at(hook_name) in a field."
            )
        if self._points[name] == self._points[leaf.hook_name]:
            return h
        serial, activation = self._read.get(name, (-1, None))
        if activation is None or serial != self.clock.serial:
            raise HookError(
                f"{leaf!r} reads {name!r}, and in this pass nothing stands there yet: the model "
                "computes it later, or not at all. A signal reads at the point that it steers, or "
                "earlier in the pass."
            )
        return _wide(activation)

    def _callback(self, name: str) -> HookFn:
        expression = only(self.expression, lambda leaf: leaf.hook_name == name)
        assert expression is not None

        def write(activation: Tensor, hook: Any) -> Tensor:
            self._arrive(name, activation)
            after = applied(activation, change(expression, _wide(activation), leaf_change))
            if activation.dtype == torch.float16:
                lost = activation.isfinite().all() & ~after.isfinite().all()
                self.overflowed[name] = lost | self.overflowed.get(name, lost)
            return after

        leaf_change = self._leaf_change
        return write

    def _arrive(self, name: str, activation: Tensor) -> None:
        """Count the firing; refuse a pass that the clock did not see begin."""
        self._check_shape(name, activation)
        if self.fired.get(name) == self.clock.serial:
            raise HookError(
                f"{name!r} fired twice in what looks like one pass. Either a pass began unseen "
                "(start_at_layer, or hooks from fwd_hooks() used again), or the model computes "
                "this hook point more than once a pass; neither can be steered."
            )
        if name not in self.fired:
            self._check_fit(name, activation)
        self.fired[name] = self.clock.serial

    def _check_shape(self, name: str, activation: Tensor) -> None:
        window = self.clock.window
        if activation.shape[:2] != window.index.shape:
            if window.start and name.endswith("hook_rot_k"):
                raise HookError(
                    f"{name!r} fires over all cached keys in every pass, and cannot be steered or "
                    "read under a KV cache. Take 'k', or use_past_kv_cache=False."
                )
            raise HookError(
                f"{name!r} fired with {tuple(activation.shape[:2])} (batch, pos) in a pass of "
                f"{tuple(window.index.shape)}. Hooks from fwd_hooks() serve one pass over the "
                "tokens they were made for, and what is no value for each token cannot be steered."
            )
        by_token(name, activation, window.index.shape)

    def _check_fit(self, name: str, activation: Tensor) -> None:
        """Raise BadInputError where what is looked for or written has another shape."""
        shape = tuple(activation.shape[2:])
        for leaf in self.leaves:
            place, unit = leaf.reads or leaf.hook_name, leaf.transform.unit_shape
            if name == place and unit not in (None, shape):
                raise BadInputError(
                    f"{leaf.transform!r} has shape {unit} and does not fit {name!r}, whose "
                    f"activations are {shape} a token. {_use(leaf, self.model)} made for that hook "
                    "point."
                )
            for held, read in (
                each for part in (leaf.coeff, leaf.gate) for each in looked_for(part, place)
            ):
                own = held.only()[0] if isinstance(held, Basis) else held.vector
                if read == name and tuple(own.shape) != shape:
                    raise BadInputError(
                        f"{leaf!r} looks for {held.name!r}, of shape {tuple(own.shape)}, at "
                        f"{name!r}, whose activations are {shape} a token. "
                        f"{_use(leaf, self.model)} found at that hook point, or read it where it "
                        "was found: signal.at(hook_name)."
                    )

    def _leaf_change(self, leaf: Intervention, h: Tensor) -> Change:
        acting = self.acting[id(leaf)]
        moment = Moment(
            x=h if leaf.reads is None else self._elsewhere(leaf, leaf.reads, h),
            window=self.clock.window,
            h=h,
            memory=acting.memory,
            elsewhere=lambda name: self._elsewhere(leaf, name, h),
        )
        mask = self.clock.where(leaf.positions)
        mask = mask if mask.device == h.device else mask.to(h.device)
        found = self._strength(acting, moment, mask)
        result, written = scaled(moment, found.product, acting.transform(h))
        if acting.opened is not None:
            acting.opened.add(found.gate)
        if self.trace is not None:
            self.trace.record(self.clock, acting.number, mask, found, result, h)
        return result, written

    def _strength(self, acting: Acting, moment: Moment, mask: Tensor) -> Strength:
        """The strength, worked out once a pass where no activation decides it."""
        if acting.known is None:
            return strength(moment, acting.leaf, mask)
        if self._known_in != self.clock.serial:
            self._known_in, self._known = self.clock.serial, {}
        key = acting.known, moment.x.device, moment.x.dtype
        if key not in self._known:
            self._known[key] = strength(moment, acting.leaf, mask)
        return self._known[key]


def _use(leaf: Intervention, model: Host) -> str:
    """What to do about a shape that does not fit, and whose it is where that is another model's."""
    other = strange(model, leaf.sources)
    return f"It {other}. Use one" if other else "Use one"


def _wide(activation: Tensor) -> Tensor:
    """An activation in float32, or in its own dtype where that is wider."""
    if activation.dtype in (torch.float32, torch.float64):
        return activation
    return activation.float()


def _acting(leaves: Iterable[Intervention]) -> Iterator[Acting]:
    likes: dict[object, int] = {}
    for number, leaf in enumerate(leaves):
        known = None
        if leaf.steady:
            known = likes.setdefault((leaf.positions, leaf.coeff, leaf.gate), len(likes))
        yield Acting(leaf, number, known)


def _placed(expression: Expression, model: Host) -> Expression:
    """The expression with one name a hook point, one object a selector, and one each leaf."""
    names: dict[int, str] = {}
    selectors: dict[Selector, Selector] = {}
    points = model.hook_dict  # a bridge makes it anew each time

    def placed(leaf: Intervention) -> Intervention:
        name = names.setdefault(id(points[leaf.hook_name]), leaf.hook_name)
        positions = selectors.setdefault(leaf.positions, leaf.positions)
        return replace(leaf, hook_name=name, positions=positions)

    return mapped(expression, placed)


class Untold(Session):
    """Callbacks for a pass whose tokens nobody told: each firing is taken as a whole text."""

    def __init__(self, expression: Expression, model: Host, lengths: Tensor | None) -> None:
        """Take where each row's prompt ends, if anybody says."""
        super().__init__(expression, model, Clock(model, lengths))

    def _arrive(self, name: str, activation: Tensor) -> None:
        if name in self.fired:
            raise HookError(
                f"{name!r} fired again: hooks from fwd_hooks(model) serve one pass. Make them "
                "anew, or steer with `with steering.on(model):`."
            )
        self.clock.begin(None, like=activation)
        super()._arrive(name, activation)
