"""ActAdd, activation addition: the difference of two prompts, added to the front of a text.

Both prompts are run to one layer's `resid_pre`; with h+ and h- their activations token by token,
the shorter prompt padded at its end,

    h_i' = h_i + c (h+_i - h-_i)      at token i of the text, as far as the prompts reach

BOS is token 0 of all three, so that nothing is added to it. Source: Turner et al., arXiv
2308.10248, and their code. Confirmed: site, alignment at the front with BOS, padding to equal
length, one addition when the prompt is read; c = 5 at layer 6 of GPT-2 XL's 48 for "Love" - "Hate"
(the paper chooses both for each pair). Ours: the layer where none is given, an eighth of the way
up as theirs is; and positions are absolute, so that of a prompt shorter than the pair the tokens
that follow are moved, where their code refuses it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from math import isfinite
from operator import add as sum_of

from steerlens.contrast import Contrast, check_contrast
from steerlens.directions import Direction
from steerlens.errors import BadInputError
from steerlens.host import Host, need_tokenizer, token_id
from steerlens.methods.signing import signed
from steerlens.names import hook_name
from steerlens.positions import index
from steerlens.provenance import made_by
from steerlens.steering import Steering
from steerlens.text import Encoded, whole
from steerlens.transforms import stored_pass
from steerlens.verbs import add

NOTHING = 1e-6
"""Share of an activation's length below which a difference is rounding."""


@dataclass(frozen=True)
class Config:
    """ActAdd's choices."""

    layer: int | None = None
    """Before which layer the difference is taken and added; by default an eighth of the way up."""
    coeff: float = 5.0
    """c: 5 for the paper's "Love" - "Hate"."""
    pad: str = " "
    """What the shorter prompt is padded with: one token, its last where there are several; the
    tokenizer's pad where it makes none of it."""
    start: int = 0
    """The text's token that the prompts' first (BOS) is aligned with."""

    def __post_init__(self) -> None:
        """Raise BadInputError on a coefficient that is not finite, or a start before the text."""
        if not isfinite(self.coeff) or self.start < 0:
            raise BadInputError(
                f"ActAdd adds a finite multiple from token 0 or later on; got coeff={self.coeff} "
                f"and start={self.start}."
            )


def fit(
    model: Host, data: Contrast, config: Config = Config(), *, progress: bool = True
) -> Steering:
    """Return the steering that adds one pair's difference to the front of a text.

    One addition a token, each at its own index; none where the prompts do not differ yet. Raises
    BadInputError on more than one pair, prompts that read the same, or a layer that the model does
    not have. Cost: one forward pass over two prompts.

    >>> pair = sl.Contrast(["A good day"], ["A bad day"])
    >>> fit(model, pair, Config(layer=1), progress=False).interventions[0]
    5 * add('actadd token 2') @ blocks.1.hook_resid_pre[index(2)]
    """
    check_contrast(data, "ActAdd is fitted on")
    if len(data.positive) != 1 or len(data.negative) != 1:
        raise BadInputError(
            f"ActAdd takes one pair of prompts, Contrast(['Love'], ['Hate']); got {data!r}. The "
            "mean over many pairs is steerlens.methods.caa."
        )
    layer = default_layer(int(model.cfg.n_layers)) if config.layer is None else config.layer
    place = hook_name("resid_pre", layer)
    first, second = stored_pass(model, padded(model, data, config.pad), place)
    source = made_by(model, "actadd", config, data.digest)
    parts = []
    for i, (up, down) in enumerate(zip(first, second, strict=True)):
        if float((up - down).norm()) > NOTHING * float(up.norm()):
            named = f"actadd token {i}"
            direction = Direction(place, up - down, name=named, items="1 pair", provenance=source)
            parts.append(add(direction, config.coeff, positions=index(config.start + i)))
    if not parts:
        raise BadInputError(
            f"The two prompts read the same at {place!r}: {data.positive[0]!r} and "
            f"{data.negative[0]!r}. Give prompts that differ."
        )
    return signed(reduce(sum_of, parts), source)


def default_layer(n_layers: int) -> int:
    """Return the layer an eighth of the way up: 6 of GPT-2 XL's 48, and never the embeddings.

    >>> default_layer(48), default_layer(6), default_layer(1)
    (6, 1, 0)
    """
    return min(n_layers - 1, max(1, round(n_layers / 8)))


def padded(model: Host, pair: Contrast, pad: str = " ") -> tuple[Encoded, Encoded]:
    """Return both prompts as tokens of one length, the shorter one padded at its end.

    Raises BadInputError where padding is needed and the tokenizer gives no token for it.

    >>> first, second = padded(model, sl.Contrast(["good"], ["a very bad day"]))
    >>> len(first.tokens) == len(second.tokens)
    True
    """
    first, second = whole(model, [pair.positive[0], pair.negative[0]])
    longest = max(len(first.tokens), len(second.tokens))
    if len(first.tokens) == len(second.tokens):
        return first, second
    ids = need_tokenizer(model, "Padding")(pad, add_special_tokens=False)["input_ids"]
    filler = ids[-1] if ids else token_id(model, "pad")
    if filler is None:
        raise BadInputError(
            f"The prompts have {len(first.tokens)} and {len(second.tokens)} tokens, and the "
            f"tokenizer makes none of {pad!r} to pad with. Give another pad, or prompts as long."
        )
    one, other = (
        Encoded(each.tokens + (filler,) * (longest - len(each.tokens)), longest)
        for each in (first, second)
    )
    return one, other
