"""Scores between queries and keys, and what they weigh: in tiles, on one device or many."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree, ScalarLike

from transportx import _checks
from transportx.geometry import AbstractCloud
from transportx.geometry.internal import Sum, SumExp


class _Tokens(NamedTuple):
    """What belongs to keys: what is summed, gains of their scores, and places in the order."""

    summed: PyTree[Float[Array, "m ..."]]
    gains: Float[Array, " m"] | None
    places: Int[Array, " m"] | None


class Scores(eqx.Module):
    r"""Scores $s_{ij} = g_j - C_{ij}/\tau$; O(n + m) memory for all that is made of them.

    Tokens of weight zero count for nothing, and their weights still have a derivative.

    Attributes:
        cloud: Costs C between queries and keys.
        weights: Of the keys.
        temperature: tau.
        gains: g; nothing by default.
        causal: Whether row i has tokens up to the i-th alone.
    """

    cloud: AbstractCloud
    weights: Float[Array, " m"]
    temperature: ScalarLike
    gains: Float[Array, " m"] | None = None
    causal: bool = eqx.field(static=True, default=False)

    def averages(self, values: Float[Array, "m e"]) -> Float[Array, "n e"]:
        """Values averaged with softmax weights; NaN where a row may take from nothing."""
        _, sums = self._fold(SumExp(), SumExp.part, with_totals(self.weights, values))
        return sums[:, 1:] / sums[:, :1]

    def log_totals(self) -> Float[Array, " n"]:
        """The logs of softmax's denominators."""
        peaks, totals = self._fold(SumExp(), SumExp.part, self.weights)
        return peaks + jnp.log(totals)

    def sums(self, values: Float[Array, "m *e"]) -> Float[Array, "n *e"]:
        """The sums over j of w_j exp(s_ij) v_j."""
        return self._fold(Sum(), _sums, (self.weights, values))

    def _fold(self, merge, function, summed) -> Any:
        """Reduce `function(summed (k, ...), scores (t, k), past (t, k) or None)` over keys."""
        n, m = self.cloud.shape
        rows, places = (), None
        if self.causal:
            check_causal(n, m)
            rows, places = (jnp.arange(n),), jnp.arange(m)
        part = eqx.Partial(_of_scores, function, self.temperature)
        return self.cloud.fold_tiles(merge, part, _Tokens(summed, self.gains, places), *rows)


def _of_scores(function, temperature, tokens, costs, *rows):
    scores = -costs / _checks.positive_value("temperature", temperature, costs.dtype)
    if tokens.gains is not None:
        scores = scores + tokens.gains[None, :]
    past = None
    for places in rows:
        past = tokens.places[None, :] <= places[:, None]
    return function(tokens.summed, scores, past)


def _sums(summed, scores, past):
    weights, values = summed
    terms = exponentials(scores, weights)
    terms = terms if past is None else jnp.where(past, terms, 0)
    return jnp.matmul(terms, values, precision=jax.lax.Precision.HIGHEST)


def with_totals(weights: Float[Array, " m"], values: Float[Array, "m e"]) -> Float[Array, "m e+1"]:
    """Weights, and weights times values: sums of both make an average."""
    return jnp.concatenate([weights[:, None], weights[:, None] * values], axis=1)


def exponentials(scores: Float[Array, "*t m"], weights: Float[Array, " m"]) -> Float[Array, "*t m"]:
    """Weights times exp(scores); a token of weight zero counts for nothing, whatever its score."""
    shares = jnp.broadcast_to(weights, scores.shape)
    capped = jnp.minimum(scores, 0.7 * jnp.log(jnp.finfo(scores.dtype).max))
    return shares * jnp.exp(jnp.where(shares == 0, capped, scores))


def check_causal(n: int, m: int) -> None:
    """Refuse tokens outside of a causal context: they have no place in its order."""
    if n != m:
        cure = "give the tokens themselves, or a mixing that is not causal"
        _checks.reject("x", f"has {n} tokens beside a causal context of {m}", cure)
