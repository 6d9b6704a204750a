"""What a composition does, and what each concept does in it: effects on tasks, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from steerlens.basis import Basis
from steerlens.basis.vectors import Weights
from steerlens.cards import card, count
from steerlens.errors import BadInputError
from steerlens.evaluation.choices import MultipleChoice
from steerlens.host import Host
from steerlens.methods.composing import family
from steerlens.positions import Positions

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False, repr=False)
class Effects:
    """What each of some compositions does to each of some tasks, in each task's own measure."""

    compositions: tuple[str, ...]
    tasks: tuple[str, ...]
    scores: Float[Tensor, "composition task"]
    """Mean over a task's items under each composition."""
    base: Float[Tensor, " task"]
    """Without steering."""
    measures: tuple[str, ...]

    @property
    def change(self) -> Float[Tensor, "composition task"]:
        """The scores less those without steering."""
        return self.scores - self.base

    def frame(self) -> pandas.DataFrame:
        """Return the changes: a line a composition, a column a task."""
        import pandas

        return pandas.DataFrame(
            self.change.numpy(), index=list(self.compositions), columns=list(self.tasks)
        )

    def __repr__(self) -> str:
        """Return the sizes and the largest change."""
        at = int(self.change.abs().nan_to_num().argmax())
        row, column = divmod(at, len(self.tasks))
        return (
            f"Effects({count(len(self.compositions), 'composition')} on "
            f"{count(len(self.tasks), 'task')}; most: {self.compositions[row]} on "
            f"{self.tasks[column]}, {float(self.change[row, column]):+.2f})"
        )

    def _repr_html_(self) -> str:
        rows = {
            name: ", ".join(f"{t} {v:+.2f}" for t, v in zip(self.tasks, line, strict=True))
            for name, line in zip(self.compositions, self.change.tolist(), strict=True)
        }
        measures = " and ".join(dict.fromkeys(self.measures))
        return card(f"Change of {measures} by composition", rows)


def effects_on(
    model: Host,
    basis: Basis,
    tasks: Sequence[MultipleChoice],
    compositions: Mapping[str, Weights] | None = None,
    *,
    positions: Positions = "everywhere",
    progress: bool = True,
) -> Effects:
    """Measure compositions on tasks: a matrix of changes, all compositions rows of one pass.

    - `tasks`: such as every task of a domain, one name each.
    - `compositions`: weights by name; by default each concept alone, at weight 1.

    Raises BadInputError on no tasks or compositions, or on tasks of one name. Cost: a pass an
    option and composition.

    >>> from steerlens.demo.tasks import of_world
    >>> basis = sl.Basis.of({"good": directions["resid_post", 2]})
    >>> tasks = [of_world(name, "validation", 4) for name in ("rudeness", "honesty")]
    >>> effects_on(model, basis, tasks, progress=False).frame().shape
    (1, 2)
    """
    each = compositions if compositions is not None else {c: {c: 1.0} for c in basis}
    names = [task.name for task in tasks]
    if not names or not each or len(set(names)) < len(names):
        raise BadInputError(
            f"Effects are of one composition or more on tasks of different names; got "
            f"{len(each)} on {names}."
        )
    weights = torch.stack([basis.weights(given) for given in each.values()]).float()
    under = family(basis, weights, positions)
    scores, base = [], []
    for task in tqdm(tasks, desc="tasks", disable=not progress):
        scores.append(task.scores(model, under, [1.0] * len(each)).mean)
        base.append(task.scores(model).mean[0])
    measures = tuple(task.measure for task in tasks)
    return Effects(tuple(each), tuple(names), torch.stack(scores, 1), torch.stack(base), measures)


def leave_one_out(
    model: Host,
    basis: Basis,
    weights: Weights,
    tasks: Sequence[MultipleChoice],
    *,
    positions: Positions = "everywhere",
    progress: bool = True,
) -> Effects:
    """Measure a composition whole, and without each concept that has a weight in it.

    The difference between `all` and `without x` is what x does in the sum, which need not be what
    it does alone. Raises and costs as `effects_on`.

    >>> from steerlens.demo.tasks import of_world
    >>> good = directions["resid_post", 2]
    >>> basis = sl.Basis.of({"good": good, "low": good})
    >>> tasks = [of_world("rudeness", "validation", 4)]
    >>> leave_one_out(model, basis, [1.0, -1.0], tasks, progress=False).compositions
    ('all', 'without good', 'without low')
    """
    whole = basis.weights(weights)
    compositions: dict[str, Weights] = {"all": whole.float()}
    for i in whole.nonzero().flatten().tolist():
        rest = whole.clone()
        rest[i] = 0.0
        compositions[f"without {basis.labels[i]}"] = rest.float()
    return effects_on(model, basis, tasks, compositions, positions=positions, progress=progress)
