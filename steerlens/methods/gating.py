"""The gate of DSAS as pure mathematics: PCA, a logistic regression, folded to one dot product.

With mean m and principal components P (d, r) of both sides' rows, and a logistic regression
(β, β₀) on the coordinates Pᵀ(x - m), the probability of the source side is

    h(x) = sigmoid(βᵀ Pᵀ (x - m) + β₀) = sigmoid(w·x + b),  w = P β,  b = β₀ - w·m:

2d + 2 operations a token, whatever r is. All of it in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.attribution.probing import FEWEST, folds
from steerlens.cards import count
from steerlens.errors import BadInputError


@dataclass(frozen=True, eq=False)
class Rows:
    """One side's features, and the text that each is of."""

    x: Float[Tensor, "n d"]
    text: Int[Tensor, " n"]

    @property
    def texts(self) -> int:
        """How many texts there are."""
        return int(self.text.max()) + 1

    def taken(self, mask: Tensor) -> Rows:
        """Return some of the rows."""
        return Rows(self.x[mask], self.text[mask])


@dataclass(frozen=True, eq=False)
class Folded:
    """sigmoid(w·x + b), and the PCA that it went through."""

    weight: Float[Tensor, " d"]
    bias: float
    components: int
    """r: as asked for, or fewer where there are no more."""
    explained: float
    """The share of the variance that the components hold."""

    def __call__(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Return the probability of the source side."""
        return torch.sigmoid(x.double() @ self.weight + self.bias)


def most_components(rows: int, d: int) -> int:
    """Return the largest r: the rows' number less one, or the dimension."""
    return min(rows - 1, d)


def fold(
    mean: Float[Tensor, " d"],
    components: Float[Tensor, "r d"],
    beta: Float[Tensor, " r"],
    beta_0: float,
) -> tuple[Float[Tensor, " d"], float]:
    """Return w and b, so that w·x + b is the logistic regression on centred coordinates.

    >>> fold(torch.ones(2), torch.tensor([[0.0, 1.0]]), torch.tensor([3.0]), 1.0)
    (tensor([0., 3.]), -2.0)
    """
    weight = beta @ components
    return weight, beta_0 - float(weight @ mean)


def fitted(source: Rows, control: Rows, *, components: int = 5, c: float = 1.0) -> Folded:
    """Return the gate that tells source from control rows: L2, both sides weighing the same.

    Features are centred, not scaled. Cost: an SVD of (rows, d), and a fit in r dimensions.
    """
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression

    x = torch.cat([source.x, control.x]).double().numpy()
    labels = [1] * len(source.x) + [0] * len(control.x)
    r = min(components, most_components(*x.shape))
    pca = PCA(r, svd_solver="full").fit(x)
    logistic = LogisticRegression(
        C=c, class_weight="balanced", solver="newton-cholesky", tol=1e-8
    ).fit(pca.transform(x), labels)
    mean, basis, beta = map(torch.from_numpy, (pca.mean_, pca.components_, logistic.coef_[0]))
    weight, bias = fold(mean, basis, beta, float(logistic.intercept_[0]))
    return Folded(weight, bias, r, float(pca.explained_variance_ratio_.sum()))


def accuracy(gate: Folded, source: Rows, control: Rows) -> float:
    """Return the mean of both sides' shares told right: chance is 0.5 whatever their sizes."""
    return float((_right(gate, source, True).mean() + _right(gate, control, False).mean()) / 2)


def held_out_accuracy(
    source: Rows, control: Rows, *, components: int = 5, c: float = 1.0, seed: int = 0
) -> float:
    """Return the accuracy over texts left out, in five folds or as many as a side has texts.

    PCA and regression are fitted anew for each fold; rows of one text stay together. Raises
    BadInputError with fewer than 4 texts a side. Cost: a fit a fold.
    """
    sides = (source, control)
    parts = folds(source.texts, control.texts, paired=False, seed=seed)
    if parts is None:
        raise BadInputError(
            f"An accuracy on texts left out needs {FEWEST} a side or more; got "
            f"{count(source.texts, 'source text')} and {count(control.texts, 'control text')}. "
            "Give more, or accuracy_on='train'."
        )
    fold_of = [part[side.text] for part, side in zip(parts, sides, strict=True)]
    right = [torch.zeros(len(side.x), dtype=torch.float64) for side in sides]
    for number in range(int(parts[0].max()) + 1):
        left_out = [each == number for each in fold_of]
        kept = [side.taken(~out) for side, out in zip(sides, left_out, strict=True)]
        gate = fitted(*kept, components=components, c=c)
        for i, (side, out) in enumerate(zip(sides, left_out, strict=True)):
            right[i][out] = _right(gate, side.taken(out), i == 0)
    return float((right[0].mean() + right[1].mean()) / 2)


def _right(gate: Folded, rows: Rows, is_source: bool) -> Float[Tensor, " n"]:
    """1 at rows that the gate tells right."""
    return ((gate(rows.x) > 0.5) == is_source).double()
