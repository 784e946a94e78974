"""Mixings: the rules by which one head turns scores into weights of tokens."""

import abc
from typing import NamedTuple

import equinox as eqx
from jaxtyping import Array, Float

from transportx import _checks
from transportx.attention._scores import Scores
from transportx.gaussians import AffineMap, Mixture

Scalar = Float[Array, ""]
Point = Float[Array, " d"]


class Context(NamedTuple):
    """Context of one head: a weighted measure of tokens, as queries, keys and values.

    Attributes:
        queries: Q y, one row per token, shape (m, k).
        keys: K y, shape (m, k).
        values: V y, shape (m, e).
        weights: Masses of the tokens, shape (m,); NaN where they were negative.

    Example:
        >>> ones = jnp.ones((3, 2))
        >>> context = tx.attention.Context(ones, ones, ones, jnp.ones(3) / 3)
        >>> tx.attention.Softmax()(ones[:1], context).shape
        (1, 2)
    """

    queries: Float[Array, "m k"]
    keys: Float[Array, "m k"]
    values: Float[Array, "m e"]
    weights: Float[Array, " m"]


class Taken(NamedTuple):
    """Attention average at a token: the weighted mean of the context before V, with its potential.

    Attributes:
        value: Weighted sum of the tokens before `V` is applied, shape (d,).
        potential: Potential of one head, whose gradient is the field where V = Q^T K.

    Example:
        >>> taken = tx.attention.Taken(jnp.zeros(2), jnp.array(0.5))
        >>> taken.value.shape
        (2,)
    """

    value: Float[Array, " d"]
    potential: Scalar


class AbstractMixing(eqx.Module):
    """Mixing of one head: weights of a context's tokens, from their scores with given queries."""

    @abc.abstractmethod
    def __call__(self, queries: Float[Array, "n k"], context: Context) -> Float[Array, "n e"]:
        """Weighted sums of the values, one per query, shape (n, e)."""

    @abc.abstractmethod
    def potential(self, queries: Float[Array, "n k"], context: Context) -> Float[Array, " n"]:
        """The function of each token whose gradient is the field where V = Q^T K, shape (n,)."""

    @abc.abstractmethod
    def energy(self, context: Context) -> Scalar:
        """The energy of the measure that goes with `potential`."""


class AbstractClosedMixing(AbstractMixing):
    """A mixing whose field on a Gaussian is affine, so that Gaussians stay Gaussian."""

    @abc.abstractmethod
    def on_gaussian(
        self,
        query: Float[Array, "k d"],
        key: Float[Array, "k d"],
        mean: Float[Array, " d"],
        covariance: Float[Array, "d d"],
    ) -> AffineMap:
        """The affine map from x to the attention average at x of N(mean, covariance), before V.

        Args:
            query: Q of one head, shape (k, d).
            key: K of one head, shape (k, d).
            mean: Mean of the tokens, shape (d,).
            covariance: Their covariance, shape (d, d).
        """


class AbstractOnMixtures(AbstractMixing):
    """A mixing whose field on a Gaussian mixture has a closed form, affine or not."""

    @abc.abstractmethod
    def on_mixture(
        self, query: Float[Array, "k d"], key: Float[Array, "k d"], mixture: Mixture, x: Point
    ) -> Taken:
        """The attention average at a token in a Gaussian mixture, with its potential.

        Args:
            query: Q of one head, shape (k, d).
            key: K of one head, shape (k, d).
            mixture: Law of the tokens; its weights are their masses.
            x: Token, shape (d,).
        """


class AbstractAverage(AbstractClosedMixing):
    """A mixing that averages with softmax weights; a subclass writes `scores`."""

    @abc.abstractmethod
    def scores(self, queries: Float[Array, "n k"], context: Context) -> Scores:
        """Scores between queries and the context's keys."""

    @_checks.gate
    def __call__(self, queries: Float[Array, "n k"], context: Context) -> Float[Array, "n e"]:
        return self.scores(queries, context).averages(context.values)

    @_checks.gate
    def log_totals(self, queries: Float[Array, "n k"], context: Context) -> Float[Array, " n"]:
        """The logs of softmax's denominators."""
        return self.scores(queries, context).log_totals()


def softmax_tilts(moved: Point, mixture: Mixture) -> tuple[Float[Array, " c"], Float[Array, "c d"]]:
    """Log-mass and mean of each component after tilting by exp(<z, y>)."""
    spread = mixture.covariances @ moved
    return mixture.means @ moved + spread @ moved / 2, mixture.means + spread
