"""A search over compositions drawn: what was found when, and what the found sum is made of."""

from __future__ import annotations

from collections.abc import Mapping

from steerlens.cards import count
from steerlens.errors import BadInputError
from steerlens.methods.steer2adapt import Adaptation
from steerlens.views.matrix import matrix
from steerlens.views.page import View
from steerlens.views.plots import Line, Panel, panels


def trajectory(found: Adaptation, *, title: str = "The search") -> View:
    """Plot J of every candidate in order, the best so far, and the terms of it; static.

    Candidates with flips lie far below the others, so J is drawn from the least that any without
    a flip has. Raises BadInputError where nothing was searched.

    >>> from steerlens.methods.steer2adapt import Trial
    >>> basis = sl.Basis.of({"good": directions["resid_post", 2]})
    >>> trials = (Trial((0.0,), 0.0, 0.0, 0.0, 0.0), Trial((1.0,), 0.5, 0.6, 0.0, 0.05))
    >>> view = trajectory(Adaptation(basis, trials, 1, "random", "the budget is spent", 1, 1))
    >>> "best so far" in view.static, view.subtitle
    (True, '1 candidate by random; the budget is spent')
    """
    if len(found.trials) < 2:
        raise BadInputError(f"There is no search to draw: {found.stopped}.")
    course = found.trajectory()
    at = list(range(len(course)))
    floor = float(course["value"][course["flips"] == 0].min())
    shown = course["value"].clip(lower=floor)
    parts = [
        Panel(
            "J (flips at the bottom)",
            [Line("best so far", at, course["best"]), Line("candidate", at, shown)],
            reference=("no steering", 0.0),
        ),
        Panel(
            "probability",
            [
                Line("gain, wrong examples", at, course["gain"]),
                Line("drop, right", at, course["drop"]),
            ],
        ),
        Panel("right examples lost", [Line("flips", at, course["flips"])]),
    ]
    told = f"{count(len(found.trials) - 1, 'candidate')} by {found.method}; {found.stopped}"
    return panels(parts, x_label="candidate", title=title, subtitle=told)


def shares(found: Adaptation | Mapping[str, Adaptation], *, title: str = "What is added") -> View:
    """Draw the weight of each concept in one composition, or in several by name; static.

    Raises BadInputError where compositions are of different concepts.

    >>> from steerlens.methods.steer2adapt import Trial
    >>> basis = sl.Basis.of({"good": directions["resid_post", 2]})
    >>> nothing = (Trial((-2.0,), 0.0, 0.0, 0.0, 0.0),)
    >>> view = shares(Adaptation(basis, nothing, 0, "random", "nothing to gain", 1, 1))
    >>> "sum, good: −2" in view.static
    True
    """
    each = {"sum": found} if isinstance(found, Adaptation) else dict(found)
    labels = {tuple(one.basis.labels) for one in each.values()}
    if len(labels) != 1:
        raise BadInputError("Compositions of one basis, one or more, can be drawn together.")
    (concepts,) = labels
    weights = [list(one.best.weights) for one in each.values()]
    return matrix(weights, list(each), concepts, unit="weight", over="concept", title=title)
