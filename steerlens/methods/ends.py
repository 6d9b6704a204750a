"""Reading both sides of a contrast at the last token of each text, answer included."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from steerlens.activations import Activations, collect
from steerlens.errors import BadInputError
from steerlens.host import Host
from steerlens.text import Encoded, Item, encode_all, whole


def prompts_of(model: Host, items: Iterable[Item]) -> tuple[Encoded, ...]:
    """Return the prompts of items, their completions left out.

    Raises BadInputError without items, and on an item that has no prompt.
    """
    encoded = encode_all(model, items, "Prompts are read from")
    for number, each in enumerate(encoded):
        if each.prompt_length == 0:
            raise BadInputError(
                f"Item {number} has no prompt: its first token is the completion's."
            )
    return tuple(Encoded(each.tokens[: each.prompt_length], each.prompt_length) for each in encoded)


def at_ends(
    model: Host, items: Sequence[Item], hook_names: Sequence[str], max_examples: int, progress: bool
) -> Activations:
    """Return what `collect` reads at the last token of each text, its answer included."""
    return collect(
        model,
        whole(model, items),
        hook_names,
        "last_prompt_token",
        max_examples=max_examples,
        progress=progress,
    )
