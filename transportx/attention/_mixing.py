"""Mixings: how much a token takes from every other, seen by one head."""

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
    """What exp(<z, y>) makes of each component: the log of its mass, and its mean."""
    spread = mixture.covariances @ moved
    return mixture.means @ moved + spread @ moved / 2, mixture.means + spread
