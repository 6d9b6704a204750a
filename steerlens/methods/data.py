"""What methods are fitted on, where it is more than a contrast."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from steerlens.contrast import Contrast, digest
from steerlens.errors import BadInputError
from steerlens.text import Item, listed


@dataclass(frozen=True, repr=False)
class Sets:
    """Three sets of texts: what is to be changed, what it should be like, what must stay.

    - `source`: shows what is unwanted (rude texts).
    - `target`: shows what is wanted (polite ones).
    - `control`: is to be left untouched, hard negatives among it; empty where a method needs none.

    >>> Sets(["You fool."], ["Good day."], ["The sky is blue."])
    Sets(1 source, 1 target, 1 control)
    """

    source: tuple[Item, ...]
    target: tuple[Item, ...]
    control: tuple[Item, ...] = ()

    def __init__(
        self, source: Iterable[Item], target: Iterable[Item], control: Iterable[Item] = ()
    ) -> None:
        """Raise BadInputError on an empty source or target, or text where a list should be."""
        more = control if isinstance(control, str) else tuple(control)
        object.__setattr__(self, "source", listed(source, "The source set is"))
        object.__setattr__(self, "target", listed(target, "The target set is"))
        object.__setattr__(self, "control", listed(more, "The control set is") if more else ())

    @classmethod
    def of(cls, contrast: Contrast, control: Iterable[Item] = ()) -> Sets:
        """Return sets that lead from a contrast's negative side to its positive side."""
        return cls(contrast.negative, contrast.positive, control)

    @property
    def contrast(self) -> Contrast:
        """Target against source, as finders of directions take them."""
        return Contrast(self.target, self.source, paired=False)

    @property
    def digest(self) -> str:
        """The sha256 of the items, for provenance."""
        return digest(self.source, self.target, self.control)

    def need_control(self, who: str) -> tuple[Item, ...]:
        """Return the control set. Raises BadInputError, naming who needs it, where it is empty."""
        if not self.control:
            raise BadInputError(
                f"{who} learns from a control set what to leave alone. Give Sets(source, target, "
                "control)."
            )
        return self.control

    @classmethod
    def read(cls, data: object, who: str) -> Sets:
        """Return sets, or those of a contrast. Raises BadInputError on anything else."""
        if isinstance(data, Contrast):
            return cls.of(data)
        if isinstance(data, cls):
            return data
        raise BadInputError(
            f"{who} is fitted on Sets(source, target, control) or a Contrast; got "
            f"{type(data).__name__}."
        )

    def __repr__(self) -> str:
        """Return the sizes."""
        return (
            f"Sets({len(self.source)} source, {len(self.target)} target, {len(self.control)} "
            "control)"
        )
