"""Which edits are on a model: their handles, so that one that was lost can still be undone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steerlens.errors import warn
from steerlens.host import Host

if TYPE_CHECKING:
    from steerlens.editing.weights import Handle

_NAME = "_steerlens_edits"
"""The model's attribute that holds them, while there are any."""


def handles(model: Host) -> tuple[Handle, ...]:
    """Return the handles of the edits in a model's weights, latest first, as they come off.

    >>> edit = sl.steer2edit(model, contrast, rho_mlp=None, progress=False)
    >>> _ = edit.apply_(model)
    >>> for handle in handles(model):
    ...     handle.undo()
    >>> handles(model)
    ()
    """
    return tuple(reversed(vars(model).get(_NAME, ())))


def keep(model: Host, handle: Handle) -> None:
    """Note that an edit is on a model, and warn where it was there already."""
    times = 1 + sum(each.parts == handle.parts for each in handles(model))
    vars(model).setdefault(_NAME, []).append(handle)
    if times > 1 and handle.slices:
        warn(
            f"The edit {handle.name!r} was in these weights already, and is now there {times} "
            "times. steerlens.editing.handles(model)[0].undo() takes the last one off."
        )


def forget(model: Host, handle: Handle) -> None:
    """Note that an edit is no longer there."""
    left = [each for each in vars(model).pop(_NAME, ()) if each is not handle]
    if left:
        vars(model)[_NAME] = left
