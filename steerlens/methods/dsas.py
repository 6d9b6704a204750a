"""DSAS, dynamically scaled activation steering: any steering, as strong as its fault is likely.

Of every hook point that a base steering writes, the texts' mean activations go through a centred
PCA (r = 5) and a logistic regression of source (1) against control (0). Folded to one dot product
they are a gate, h(x) = sigmoid(w·x + b), and each token is steered by

    a' = a + λ h(a) (T(a) - a).

Hook points whose gate is right less than 3 times in 4 are left alone. λ is a factor outside:
`2 * steering`. Source: arXiv 2512.03661.

Confirmed (abstract, public reviews and summaries): source, target and control sets; a logistic
regression on mean embeddings, used token by token; PCA with r = 5; the bound of 0.75; a strength
λ that stays; any base. The authors' code was not found. Reconstructed: that features are centred
and not scaled, C = 1, sides weighing the same, and that the accuracy is one on texts left out
(`accuracy_on="train"` for the other); it is the mean of both sides' shares.

A gate scales what strength scales: where that is no factor of the change, as of rotations (an
angle) and of `KeepNorm` (what is added before the length is brought back), a gate of h turns or
adds h times as much, and so keeps the norm that the form above would not.

The token rule: a gate looks at what its base looks at, BOS and pads left out of its training,
and so at activations that hold the steering of earlier layers already. Gates are fitted on
activations that hold none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from tqdm.auto import tqdm

from steerlens.activations import Activations, collect, sampled
from steerlens.contrast import warn_of_repeats
from steerlens.directions import find_directions
from steerlens.errors import BadInputError, warn
from steerlens.host import Host, device_of
from steerlens.methods.data import Sets
from steerlens.methods.gates import Gate, Gates, looked_at
from steerlens.methods.gating import Folded, Rows, accuracy, fitted, held_out_accuracy
from steerlens.positions import Positions, selector
from steerlens.provenance import made_by
from steerlens.reading import Passages
from steerlens.steering import Steering
from steerlens.text import Encoded, Item, pad
from steerlens.verbs import add

Base = Steering | Callable[..., Steering]
"""A steering to gate, or the `fit` of a method that takes `Sets`."""


@dataclass(frozen=True)
class Config:
    """DSAS's choices."""

    components: int = 5
    """r, the dimensions that a gate is fitted in; fewer where there are no more."""
    c: float = 1.0
    """C, the inverse of the L2 penalty."""
    min_accuracy: float = 0.75
    """Hook points whose gate is right less often are left alone."""
    accuracy_on: Literal["cv", "train"] = "cv"
    """Texts left out (5 folds, or fewer), or those it was fitted on."""
    trained_on: Literal["texts", "tokens"] = "texts"
    """One feature a text, the mean over its tokens, or one a token."""
    applied_to: Literal["tokens", "prompt"] = "tokens"
    """A value a token, or one of the prompt's mean, held for the whole row."""
    hard: bool = False
    """Whether gates are 1 above 0.5 and 0 below."""
    weigh: bool = False
    """Whether gates are multiplied by max(0, 2 accuracy - 1), a reviewer's idea."""
    read: Positions = "everywhere"
    """Which tokens of a text are its features."""
    tokens_per_text: int = 32
    """How many of them, drawn at random, where gates are trained on tokens."""
    seed: int = 0
    """Of the folds and of the tokens drawn."""

    def __post_init__(self) -> None:
        """Raise BadInputError on values out of range, and choices that there are not."""
        known = (
            self.accuracy_on in ("cv", "train")
            and self.trained_on in ("texts", "tokens")
            and self.applied_to in ("tokens", "prompt")
        )
        if not known:
            raise BadInputError(
                "accuracy_on is 'cv' or 'train', trained_on 'texts' or 'tokens', applied_to "
                f"'tokens' or 'prompt'; got {self.accuracy_on!r}, {self.trained_on!r} and "
                f"{self.applied_to!r}."
            )
        if self.components < 1 or self.tokens_per_text < 1 or not self.c > 0:
            raise BadInputError(
                "A gate needs 1 component, 1 token a text and a C above 0, or more; got "
                f"{self.components}, {self.tokens_per_text} and {self.c}."
            )
        if not 0 <= self.min_accuracy <= 1:
            raise BadInputError(f"An accuracy lies from 0 to 1; got {self.min_accuracy}.")


def fit(
    model: Host,
    data: Sets,
    config: Config = Config(),
    *,
    base: Base | None = None,
    progress: bool = True,
) -> Steering:
    """Return a base steering that leads from source to target, gated against control.

    - `base`: a steering, or the `fit` of a method that takes `Sets`; by default every layer's
      `resid_post` moves by the target's mean less the source's (as CAA, at all tokens). Each
      layer adds its own, and what the first add reaches the last: a λ below 1 may do.

    Raises BadInputError without a control set, or where no gate is right often enough. Cost: a
    forward pass a text of source and control (twice by default, and one of target), and 6 small
    fits a hook point.

    >>> sets = Sets.of(contrast, control=["some day", "the cat", "food", "a cat and a day"])
    >>> fit(model, sets, Config(min_accuracy=0, accuracy_on="train"), progress=False).layers(2)
    Steering(1 * probe('source', ...) * add('target - source') @ blocks.2.hook_resid_post[...])
    """
    data = Sets.read(data, "DSAS")
    if base is None:
        steering = _mean_difference(model, data, config, progress)
    else:
        steering = base if isinstance(base, Steering) else base(model, data, progress=progress)
    return gated(model, steering, data, config, progress=progress)


def gated(
    model: Host,
    steering: Steering,
    data: Sets,
    config: Config = Config(),
    *,
    progress: bool = True,
) -> Steering:
    """Return a steering under its DSAS gates, without the hook points that are left alone.

    The gates multiply those that it has. Raises and costs as `gates`; BadInputError where no
    hook point is kept.
    """
    return gates(model, steering, data, config, progress=progress).steering()


def gates(
    model: Host,
    steering: Steering,
    data: Sets,
    config: Config = Config(),
    *,
    progress: bool = True,
) -> Gates:
    """Return the gate of every hook point that a steering looks at, with how good it is.

    `print` it, look at `.frame()`, and take `.steering()`. Raises BadInputError without a control
    set, or with fewer than 4 texts a side and `accuracy_on="cv"`. Cost: a forward pass a text of
    source and control, up to the highest layer (trained on tokens: one a token, over the text up
    to it), and 6 small fits a hook point.

    >>> sets = Sets.of(contrast, control=["some day", "the cat", "food", "a cat and a day"])
    >>> gates(model, sl.add(directions["resid_post", 2]), sets, progress=False)
    Gates(... hook point kept, accuracy 0.75 or more on texts left out; 4 source and 4 control ...)
      blocks.2.hook_resid_post: accuracy 0..., r = 5 (...% of the variance)...
    """
    sets = Sets.read(data, "DSAS")
    sides = sets.source, sets.need_control("DSAS")
    if config.accuracy_on == "cv":
        warn_of_repeats(*sides)
    names = list(dict.fromkeys(looked_at(leaf) for leaf in steering.interventions))
    source, control = (_features(model, side, names, config, progress) for side in sides)
    about = made_by(model, "dsas", config, sets.digest)
    read = about | {"positions": repr(selector(config.read))}
    found = [
        Gate.of(name, *_fitted(source[name], control[name], config), config.min_accuracy, read)
        for name in tqdm(names, desc="gates", disable=not progress)
    ]
    _tell_clipped(found, config.components)
    return Gates(
        steering,
        tuple(found),
        sizes=(len(sides[0]), len(sides[1])),
        min_accuracy=config.min_accuracy,
        held_out=config.accuracy_on == "cv",
        of_prompt=config.applied_to == "prompt",
        hard=config.hard,
        weigh=config.weigh,
        provenance=about,
    )


Features = tuple[tuple[int, ...], Rows]
"""The shape of an activation, and what was read of it."""


def _features(
    model: Host, items: Sequence[Item], names: Sequence[str], config: Config, progress: bool
) -> dict[str, Features]:
    """What gates are fitted on: a row a text, or a row a token, by hook point."""
    if config.trained_on == "texts":
        read = collect(model, items, names, config.read, max_examples=len(items), progress=progress)
        text = torch.arange(len(read.rows))
    else:
        prefixes, texts = _prefixes(model, items, config)
        most = len(prefixes)
        read = collect(
            model, prefixes, names, "last_prompt_token", max_examples=most, progress=progress
        )
        text = torch.tensor(texts)
    return {name: (tuple(x.shape[1:]), Rows(x.flatten(1), text)) for name, x in _each(read)}


def _each(read: Activations) -> Iterator[tuple[str, Tensor]]:
    return ((name, read.examples[name]) for name in read)


def _prefixes(
    model: Host, items: Sequence[Item], config: Config
) -> tuple[list[Encoded], list[int]]:
    """Texts up to each of their tokens, and which text each is of.

    What a token's activation is, nothing after it tells; so a token is read as the end of a text.
    """
    passages = Passages(model, items, config.read)
    prefixes, texts = [], []
    for row, each in enumerate(passages.encoded):
        picked = passages.mask(pad(model, [each], device_of(model)), [row])[0]
        places = picked.nonzero().flatten().tolist()
        for i in sampled(len(places), config.tokens_per_text, config.seed + row):
            end = places[i] + 1
            prefixes.append(Encoded(each.tokens[:end], end))
            texts.append(row)
    return prefixes, texts


def _fitted(
    source: Features, control: Features, config: Config
) -> tuple[tuple[int, ...], Folded, float]:
    """The shape of an activation, its gate, and how often that is right."""
    unit, sides = source[0], (source[1], control[1])
    gate = fitted(*sides, components=config.components, c=config.c)
    if config.accuracy_on == "train":
        return unit, gate, accuracy(gate, *sides)
    right = held_out_accuracy(*sides, components=config.components, c=config.c, seed=config.seed)
    return unit, gate, right


def _tell_clipped(found: Sequence[Gate], asked: int) -> None:
    """Warn where there are fewer components than were asked for."""
    fewest = min(found, key=lambda gate: gate.components)
    if fewest.components < asked:
        warn(
            f"Gates were asked for in {asked} components, and at {fewest.hook_name!r} there are "
            f"{fewest.components}: no more than texts less one, and than dimensions."
        )


def _mean_difference(model: Host, data: Sets, config: Config, progress: bool) -> Steering:
    """Every layer's stream moved by the target's mean less the source's."""
    found = find_directions(
        model,
        data.contrast,
        positions=config.read,
        name="target - source",
        quality=False,
        progress=progress,
    )
    return add(found)
