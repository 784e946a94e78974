"""Mixings: how much a token takes from every other, seen by one head."""

import abc
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree, ScalarLike

from transportx import _checks
from transportx.gaussians import AffineMap, Mixture
from transportx.geometry import PointCloud, capped_exp

Scalar = Float[Array, ""]
Point = Float[Array, " d"]


class Context(NamedTuple):
    """A weighted measure of tokens as one head sees it.

    Attributes:
        queries: Q y, one row a token.
        keys: K y.
        values: V y.
        weights: Masses of the tokens; NaN where they were negative.
    """

    queries: Float[Array, "m k"]
    keys: Float[Array, "m k"]
    values: Float[Array, "m e"]
    weights: Float[Array, " m"]


class Taken(NamedTuple):
    """What a token takes from a measure, before V, and the potential of that."""

    value: Float[Array, " d"]
    potential: Scalar


class AbstractMixing(eqx.Module):
    """What one head makes of a measure, for tokens with given queries."""

    @abc.abstractmethod
    def __call__(self, queries: Float[Array, "n k"], context: Context) -> Float[Array, "n e"]:
        """What each token takes from the values."""

    @abc.abstractmethod
    def potential(self, queries: Float[Array, "n k"], context: Context) -> Float[Array, " n"]:
        """A function of each token whose gradient is the field where V = Q^T K."""

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
        """X -> what a token at x takes from N(mean, covariance), before V."""


class AbstractOnMixtures(AbstractMixing):
    """A mixing whose field on a Gaussian mixture has a closed form, affine or not."""

    @abc.abstractmethod
    def on_mixture(
        self, query: Float[Array, "k d"], key: Float[Array, "k d"], mixture: Mixture, x: Point
    ) -> Taken:
        """What a token at x takes from the mixture."""


class AbstractAverage(AbstractClosedMixing):
    """A mixing that averages with softmax weights; subclasses say of which scores."""

    @abc.abstractmethod
    def over_scores(
        self, function: Callable[..., Array], queries: Float[Array, "n k"], context: Context
    ) -> Array:
        """Apply `function(scores, shares)` to tiles of rows, as `over_tiles` does."""

    def __call__(self, queries: Float[Array, "n k"], context: Context) -> Float[Array, "n e"]:
        def rows(scores, shares):
            return mean_value(scores, shares, context.values)

        return self.over_scores(rows, queries, context)

    def log_totals(self, queries: Float[Array, "n k"], context: Context) -> Float[Array, " n"]:
        """The logs of softmax's denominators."""
        return self.over_scores(log_total, queries, context)


def check_numbers(temperature: ScalarLike, tile: int | None) -> None:
    """Refuse what no mixing can work with."""
    _checks.positive("temperature", temperature)
    if tile is not None:
        _checks.count("tile", tile)


def check_causal(n: int, m: int) -> None:
    """Refuse tokens outside of a causal context: they have no place in its order."""
    if n != m:
        cure = "give the tokens themselves, or a mixing that is not causal"
        _checks.reject("x", f"has {n} tokens beside a causal context of {m}", cure)


def over_tiles(
    function: Callable[[Array, Array], PyTree[Array]],
    cloud: PointCloud,
    weights: Float[Array, " m"],
    temperature: ScalarLike,
    *,
    causal: bool = False,
) -> PyTree[Array]:
    """Apply `function(scores, shares)` to every tile of rows; O(n + m) memory, both ways.

    Scores are -costs / temperature, (t, m); shares are the weights that each row may take
    from, (t, m) where causal, and else (1, m).
    """
    n, m = cloud.shape
    if causal:
        check_causal(n, m)
    places = jnp.arange(m)

    def visit(costs, rows):
        scores = -costs / jnp.asarray(temperature, costs.dtype)
        if not causal:
            return function(scores, weights[None, :])
        past = places[None, :] <= rows[:, None]
        return function(scores, jnp.where(past, weights[None, :], 0))

    return cloud.map_tiles(visit, jnp.arange(n))


def tilt(scores: Float[Array, "t m"], shares: Float[Array, "s m"]) -> tuple[Array, Array]:
    """Tops (t, 1) of the scores and shares times exp(scores - tops): nothing overflows.

    Tokens of weight zero count for nothing, and their weights still have a derivative.
    """
    counts = jnp.where(shares > 0, scores, -jnp.inf)
    tops = jax.lax.stop_gradient(jnp.max(counts, axis=1, keepdims=True))
    return tops, shares * capped_exp(scores - tops)


def mean_value(
    scores: Float[Array, "t m"], shares: Float[Array, "s m"], values: Float[Array, "m e"]
) -> Float[Array, "t e"]:
    """Values averaged with softmax weights; NaN where a row may take from nothing."""
    _, tilted = tilt(scores, shares)
    totals = jnp.sum(tilted, axis=1, keepdims=True)
    return jnp.matmul(tilted, values, precision=jax.lax.Precision.HIGHEST) / totals


def log_total(scores: Float[Array, "t m"], shares: Float[Array, "s m"]) -> Float[Array, " t"]:
    """The log of sum_j w_j exp(s_j), row by row."""
    tops, tilted = tilt(scores, shares)
    return tops[:, 0] + jnp.log(jnp.sum(tilted, axis=1))


def exponentials(scores: Float[Array, "t m"], shares: Float[Array, "s m"]) -> Float[Array, "t m"]:
    """Shares times exp(scores); a token of weight zero counts for nothing, whatever its score."""
    capped = jnp.minimum(scores, 0.7 * jnp.log(jnp.finfo(scores.dtype).max))
    return shares * jnp.exp(jnp.where(shares == 0, capped, scores))


def softmax_tilts(moved: Point, mixture: Mixture) -> tuple[Float[Array, " c"], Float[Array, "c d"]]:
    """What exp(<z, y>) makes of each component: the log of its mass, and its mean."""
    spread = mixture.covariances @ moved
    return mixture.means @ moved + spread @ moved / 2, mixture.means + spread
