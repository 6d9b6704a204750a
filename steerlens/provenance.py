"""What something was made on, and whether a model is the same.

A direction is a claim about one model: its weights, how they were processed, one hook point.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

from steerlens.errors import BadInputError, SteerLensError, UnknownNameError, nearest
from steerlens.host import Host, check_hook_name, is_bridge

Difference = Literal["model", "weights", "hook_names"]
"""In what a model may differ from the one that something was made on."""
Allow = str | Collection[str]
"""Differences that are meant: "model", "weights", "hook_names", or several of them."""
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
"""Where a function lies in memory, which its repr tells and no other process shares."""


def provenance(model: Host) -> dict[str, str]:
    """Return what identifies the model: name, host, TransformerLens version, dtype, processing.

    And the revision, where the model was loaded from a hub. `weights` says whether norms are folded
    in, `writers` whether what writes to the stream is centred.
    """
    folded = str(getattr(model.cfg, "normalization_type", "")).endswith("Pre")
    # A bridge in compatibility mode need not be processed, and one that is need not be in it.
    processed = folded or bool(getattr(model, "_weights_processed", False))
    config = getattr(getattr(model, "original_model", None), "config", None)
    revision = getattr(config, "_commit_hash", None)
    return {
        "model": str(getattr(model.cfg, "model_name", "unknown")),
        **({"revision": revision} if isinstance(revision, str) else {}),
        "host": "TransformerBridge" if is_bridge(model) else type(model).__name__,
        "transformer_lens": version("transformer-lens"),
        "dtype": str(model.cfg.dtype).removeprefix("torch."),
        "weights": "norms folded" if processed else "as trained",
        **_writers(model),
    }


def made_by(model: Host, method: str, config: object, data: str) -> dict[str, str]:
    """Return the provenance of what a method makes: the model's, the method, its config, its data.

    - `config`: the method's choices, told by their repr.
    - `data`: the hash of what it was fitted on, such as a contrast's `digest`.

    >>> made_by(model, "caa", {"layer": 2}, contrast.digest)["config"]
    "{'layer': 2}"
    """
    return {**provenance(model), "method": method, "config": worded(config), "data": data}


def worded(config: object) -> str:
    """Return a config in words: words as they are, else its repr without functions' addresses.

    >>> worded([1, worded])
    '[1, <function worded>]'
    """
    return config if isinstance(config, str) else _ADDRESS.sub("", repr(config))


def _writers(model: Any) -> dict[str, str]:
    """Whether the rows of the first output weights of attention have mean 0, as centring leaves.

    Told by their size: a mean of d entries with no such constraint is about their spread / sqrt(d).
    """
    try:
        rows = model.blocks[0].attn.W_O.detach()[0].float()
    except (AttributeError, IndexError, TypeError):
        return {}
    by_chance = rows.square().mean().sqrt() / rows.shape[-1] ** 0.5
    centred = bool(rows.mean(-1).square().mean().sqrt() < 0.05 * by_chance)
    return {"writers": "centred" if centred else "as trained"}


def of_several(sources: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Return the provenance of what is made of several: what they share, and the rest of each.

    >>> of_several({"a": {"model": "gpt2", "seed": "1"}, "b": {"model": "gpt2", "seed": "2"}})
    {'model': 'gpt2', 'a': "{'seed': '1'}", 'b': "{'seed': '2'}"}
    """
    first, *rest = sources.values()
    shared = {k: v for k, v in first.items() if all(each.get(k) == v for each in rest)}
    own = {
        name: {k: v for k, v in each.items() if k not in shared} for name, each in sources.items()
    }
    return shared | {name: str(each) for name, each in own.items() if each and name not in shared}


def check_same_model(
    model: Host, made_on: Mapping[str, str], what: str, allow: Allow | None = None
) -> None:
    """Raise BadInputError where something was made on another model, by name, or other weights.

    A model is known by the last part of its name, so that a folder may move; one without a name
    passes. `allow` names differences that are meant, "model" or "weights", where it is loaded.
    """
    meant, own = allowed(allow or ()), provenance(model)
    way = "." if allow is None else '; allow="{}" loads it all the same.'
    if (other := strange(model, [made_on])) and "model" not in meant:
        raise BadInputError(f"{what} {other}. Make one on this model{way.format('model')}")
    for key, noun in (("weights", "weights"), ("writers", "weights whose writers are")):
        here = own.get(key, "")
        if made_on.get(key, here) != here and here and "weights" not in meant:
            raise BadInputError(
                f"{what} was made on {noun} {made_on[key]}, and this model has {noun} {here}. "
                f"Load the model the same way{way.format('weights')}"
            )


def strange(model: Host, sources: Iterable[Mapping[str, str]]) -> str:
    """Return in words which other model a provenance names, of several the first; "" if none does.

    By the last part of its name; where either has none, nothing is said.

    >>> strange(model, [{"model": "gpt2"}])
    "was made on 'gpt2', and this model is 'steerling'"
    """
    own = _named(getattr(model.cfg, "model_name", ""))
    for source in sources:
        name = _named(source.get("model", ""))
        if own and name and name != own:
            return f"was made on {name!r}, and this model is {own!r}"
    return ""


@lru_cache(maxsize=256)
def _named(name: str | None) -> str:
    """The last part of a model's name, "" where it is none."""
    last = Path(str(name)).name
    return "" if last in ("unknown", "custom", "None") else last


def provenances(value: object, seen: set[int] | None = None) -> Iterator[Mapping[str, str]]:
    """Yield every provenance inside a value, and what a table says of itself."""
    seen = set() if seen is None else seen
    if id(value) in seen or isinstance(value, str):
        return
    seen.add(id(value))
    if isinstance(getattr(value, "attrs", None), Mapping):  # a table of pandas
        yield value.attrs  # type: ignore[attr-defined]
    elif is_dataclass(value) and not isinstance(value, type):
        for each in fields(value):
            part = getattr(value, each.name)
            if each.name == "provenance" and isinstance(part, Mapping):
                yield part
            else:
                yield from provenances(part, seen)
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from provenances(part, seen)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from provenances(part, seen)


def allowed(allow: Allow) -> set[str]:
    """Return the differences that are meant. Raises UnknownNameError on what is none.

    >>> allowed("weights")
    {'weights'}
    """
    meant: set[str] = {allow} if isinstance(allow, str) else set(allow)
    for each in meant - set(get_args(Difference)):
        raise UnknownNameError(
            f"There is no difference {each!r} to allow. {nearest(each, get_args(Difference))}."
        )
    return meant


def check_places(model: Host, hook_names: Iterable[str], what: str, allow: Allow = ()) -> None:
    """Raise BadInputError where something lives at a hook point that the model does not have.

    `allow` names differences that are meant: "hook_names".
    """
    if "hook_names" in allowed(allow):
        return
    for name in hook_names:
        try:
            check_hook_name(model, name)
        except SteerLensError as error:
            raise BadInputError(
                f"{what} lives at {name!r}. {error} .at(...) moves a direction; "
                'allow="hook_names" loads it as it is.'
            ) from None
