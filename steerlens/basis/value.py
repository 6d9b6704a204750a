"""Basis: k vectors as one value; how to make one, and what it spans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from steerlens.activations import Activations
from steerlens.basis import sources, spans
from steerlens.basis.sources import Given
from steerlens.basis.vectors import Vectors
from steerlens.cards import card, count, number
from steerlens.directions.sae import decoder_rows
from steerlens.errors import BadInputError
from steerlens.host import Host, check_hook_name
from steerlens.provenance import of_several


@dataclass(frozen=True, eq=False, repr=False)
class Basis(Vectors):
    """k vectors at one hook point or at many, with labels, in float32 on the CPU.

    `vectors` has (k, *unit) a hook name, where (*unit) is the activation's shape after
    (batch, pos). Lengths are kept; spans do not depend on them. Heads (n_heads, d_head) are
    flattened here; transforms take a basis head by head. What works on activations needs one
    hook point: `basis.at(...)`. Raises BadInputError on vectors that are not finite or not k
    at every hook point, and on labels that are not k or not unique.

    >>> e = torch.eye(3)
    >>> basis = Basis({"blocks.0.hook_resid_post": e[:2]}, labels=["x", "y"])
    >>> basis.project(torch.tensor([1.0, 2.0, 3.0])), basis.coordinates(2 * e[1])
    (tensor([1., 2., 0.]), tensor([0., 2.]))
    """

    # Making one

    @classmethod
    def of(cls, directions: Given, name: str = "basis") -> Basis:
        """Return the basis of directions, labelled by their names or by the keys of a mapping.

        A list may hold directions at several hook points, each label at all of them; of a
        mapping, the hook points that its values share are taken. Raises BadInputError on
        names that repeat, and where hook points or shapes do not agree.

        >>> Basis.of({"mood": directions, "same": directions["resid_post", 2]})
        Basis('basis', 2 vectors at blocks.2.hook_resid_post, d=..., rank 1 of 2: mood, same)
        """
        if not isinstance(name, str):
            raise BadInputError("Several directions are given as one list: Basis.of([a, b]).")
        found = sources.by_label(directions)
        if not found:
            raise BadInputError("A basis needs one direction or more; none was given.")
        firsts = {label: next(iter(at.values())) for label, at in found.items()}
        source = of_several({label: each.provenance for label, each in firsts.items()})
        return cls(sources.stacked(found), tuple(found), name, source)

    @classmethod
    def pca(
        cls,
        x: Activations | Float[Tensor, "n ..."],
        k: int,
        hook_name: str | None = None,
        name: str = "pca",
    ) -> Basis:
        """Return the k principal components of vectors (n, *unit), or of activations' examples.

        Centred; each vector is as long as the standard deviation along it, so the
        `singular_values` are the standard deviations. Raises BadInputError without a hook name
        that is needed, and where there are fewer than k components. Cost: one SVD of (n, d).

        >>> x = torch.tensor([[5.0, 1.0], [5.0, -1.0], [5.0, 1.0], [5.0, -1.0]])
        >>> Basis.pca(x, 1, "blocks.0.hook_resid_post").only()
        tensor([[0.0000, 1.1547]])
        """
        return cls._components(x, k, hook_name, name, centred=True)

    @classmethod
    def svd(
        cls,
        x: Activations | Float[Tensor, "n ..."],
        k: int,
        hook_name: str | None = None,
        name: str = "svd",
    ) -> Basis:
        """Return the k directions along which vectors (n, *unit) are largest, not centred.

        Each is as long as the root mean square along it. Raises and costs as `pca` does.
        """
        return cls._components(x, k, hook_name, name, centred=False)

    @classmethod
    def _components(
        cls,
        x: Activations | Float[Tensor, "n ..."],
        k: int,
        hook_name: str | None,
        name: str,
        *,
        centred: bool,
    ) -> Basis:
        vectors, place = sources.examples(x, hook_name)
        source = {"method": "pca" if centred else "svd", "items": str(len(vectors))}
        if isinstance(x, Activations):
            source["positions"] = x.positions
        found = sources.components(vectors, k, centred=centred)
        return cls({place: found}, (), name, source)

    @classmethod
    def from_unembedding(
        cls, model: Host, tokens: Sequence[str | int], hook_name: str, name: str = "unembedding"
    ) -> Basis:
        """Return the columns of W_U for tokens (text of one token, or ids), as they are.

        Where the final norm has a gain that is not folded into W_U, a token's logit reads the
        stream through gain ⊙ column. Raises BadInputError on text of several tokens or an id
        outside the vocabulary, UnknownNameError on an unknown hook point.

        >>> Basis.from_unembedding(model, [5, 6], "blocks.2.hook_resid_post").rank
        2
        """
        columns, labels = sources.unembedding(model, tokens)
        return cls({check_hook_name(model, hook_name): columns}, labels, name, {"matrix": "W_U"})

    @classmethod
    def from_sae(
        cls, sae: Any, features: Sequence[int], hook_name: str | None = None, name: str = "sae"
    ) -> Basis:
        """Return the decoder rows of features, at the hook point that the autoencoder writes to.

        `sae` is any object with `W_dec` (features, d), as SAELens's; lengths are the decoder's
        own. Raises BadInputError on a feature or hook name that is not there.
        """
        rows, place, about = decoder_rows(sae, features, hook_name)
        labels = [f"feature {feature}" for feature in features]
        return cls({place: rows}, labels, name, about)

    @classmethod
    def from_factored(cls, matrix: Any, k: int, hook_name: str, name: str = "singular") -> Basis:
        """Return the top k right singular vectors of a FactoredMatrix, its output side.

        TransformerLens writes x @ M, so these are the directions that M writes: for
        `model.OV[layer, head]`, into the stream. Each is as long as its singular value. For
        the side that M reads, give `matrix.T`. Raises BadInputError on a stack of matrices,
        and where k is more than the rank.

        >>> Basis.from_factored(torch.diag(torch.tensor([1.0, 3.0])), 1, "hook_embed").only().abs()
        tensor([[0., 3.]])
        """
        found = sources.output_side(matrix, k)
        return cls({hook_name: found}, (), name, {"matrix": "right singular vectors"})

    # What it spans

    @cached_property
    def _spans(self) -> dict[str, spans.Span]:
        return {hook: spans.span(v.flatten(1)) for hook, v in self.vectors.items()}

    @property
    def _rows(self) -> Float64[Tensor, "rank d"]:
        return self._spans[self.hook_name].rows

    @property
    def rank(self) -> int:
        """The dimensions spanned, nearly parallel vectors counted once; the least over places."""
        return min(len(span.rows) for span in self._spans.values())

    @property
    def singular_values(self) -> Float[Tensor, " least"]:
        """The singular values of the vectors (k, d), largest first."""
        values: Tensor = torch.linalg.svdvals(self.only().flatten(1).double())
        return values.float()

    def orthonormal(self) -> Basis:
        """Return orthonormal vectors of the same span, each labelled by the one it comes from.

        A vector that is nearly parallel to the span of those before it is left out. Raises
        BadInputError where nothing is left, or not the same at every hook point.

        >>> basis = Basis({"blocks.0.hook_resid_post": torch.tensor([[2.0, 0.0], [3.0, 0.0]])})
        >>> basis.rank, len(basis.orthonormal())
        (1, 1)
        """
        kept = {span.sources for span in self._spans.values()}
        if len(kept) > 1 or () in kept:
            raise BadInputError(
                f"{self.name!r} keeps no vector, or not the same ones at every hook point: "
                f"{ {hook: span.sources for hook, span in self._spans.items()} }. Take "
                "basis.at(hook_name).orthonormal()."
            )
        rows = {
            hook: span.rows.reshape(len(span.rows), *self.vectors[hook].shape[1:])
            for hook, span in self._spans.items()
        }
        return replace(self, vectors=rows, labels=[self.labels[i] for i in kept.pop()])

    def project(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return the component of activations (*batch, *unit) in the span, in their dtype."""
        flat = self._flat(x)
        rows = self._rows.to(flat)
        return ((flat @ rows.T) @ rows).reshape(x.shape).to(x.dtype)

    def complement(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return activations (*batch, *unit) without their component in the span."""
        flat = self._flat(x)
        rows = self._rows.to(flat)
        return (flat - (flat @ rows.T) @ rows).reshape(x.shape).to(x.dtype)

    def coordinates(self, x: Float[Tensor, "..."]) -> Float[Tensor, "... k"]:
        """Return the weights (*batch, k) whose sum of vectors comes nearest to (*batch, *unit).

        The shortest such weights where the rank is short.
        """
        flat = self._flat(x)
        vectors = self.only().flatten(1)
        return spans.coordinates(flat, vectors, self._rows).to(x.dtype)

    def _flat(self, x: Float[Tensor, "..."]) -> Float[Tensor, "... d"]:
        """Activations as vectors on their device, in float32 or wider."""
        unit = self.only().shape[1:]
        if x.shape[-len(unit) :] != unit:
            raise BadInputError(
                f"{self.name!r} at {self.hook_name!r} takes activations (*batch, "
                f"{', '.join(map(str, unit))}); got {tuple(x.shape)}."
            )
        return x.flatten(-len(unit)).to(torch.promote_types(x.dtype, torch.float32))

    def principal_angles(self, other: Basis) -> Float64[Tensor, " least"]:
        """Return the angles between the two spans, in radians, smallest first.

        As many as the smaller rank. The hook points may differ, the shapes may not: raises
        BadInputError. Source: Björck and Golub (1973).

        >>> e = torch.eye(3)
        >>> flat, upright = (Basis({"hook_embed": v}) for v in (e[:2], e[1:]))
        >>> flat.principal_angles(upright).rad2deg()
        tensor([ 0., 90.], dtype=torch.float64)
        """
        mine, theirs = (tuple(each.only().shape[1:]) for each in (self, other))
        if mine != theirs:
            raise BadInputError(
                f"Shapes differ: {self.name!r} holds {mine}, {other.name!r} holds {theirs}."
            )
        return spans.principal_angles(self._rows, other._rows)

    def cosines(self) -> Float[Tensor, "k k"]:
        """Return the cosine of each vector with each other, 0 for a zero vector."""
        flat = torch.nn.functional.normalize(self.only().flatten(1).double(), eps=1e-300)
        return (flat @ flat.T).clamp(-1, 1).float()

    def __repr__(self) -> str:
        """Return name, size, place, rank where it is short, and labels."""
        shapes = {"x".join(map(str, v.shape[1:])) for v in self.vectors.values()}
        parts = [repr(self.name), f"{count(len(self), 'vector')} at {self._place()}"]
        parts += [f"d={shape}" for shape in shapes if len(shapes) == 1]
        parts += [f"rank {self.rank} of {len(self)}"] if self.rank < len(self) else []
        return f"Basis({', '.join(parts)}: {self._labelled(4)})"

    def _place(self) -> str:
        several = len(self.vectors) > 1
        return count(len(self.vectors), "hook point") if several else self.hook_name

    def _labelled(self, most: int) -> str:
        rest = len(self) - most
        return ", ".join(self.labels[:most]) + (f", and {rest} more" if rest > 0 else "")

    def _repr_html_(self) -> str:
        rows = {"at": ", ".join(self.vectors), "vectors": self._labelled(12)}
        rows["rank"] = f"{self.rank} of {len(self)}"
        if len(self.vectors) == 1:
            rows["lengths"] = ", ".join(number(float(v.norm())) for v in self.only()[:12])
            rows["singular values"] = ", ".join(map(number, self.singular_values[:12].tolist()))
        return card(f"Basis {self.name!r}", rows)
