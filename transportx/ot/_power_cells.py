"""Power cells of weighted points: who wins each source point, and what each cell holds."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray

from transportx.geometry.internal import centre_between

Scalar = Float[Array, ""]
# Draws num points: source(key=key, num=num), of shape (num, d).
Source = Callable[..., Float[Array, "num d"]]
# Scores held at once: a few arrays of them stay in a core's cache.
_TILE_ENTRIES = 2**20
# Points of the data that meet a batch at once where each source point is only assigned.
_BLOCK = 2048
# Of so many scores only the largest is looked for first: maxima are fast, their places are not.
_GROUP = 32


class Heights(NamedTuple):
    """Data as affine functions of the source: score_j(x) = 2 <x - centre, y_j> + height_j.

    The score is g_j - |x - y_j|^2 up to |x - centre|^2, which all data share.

    Attributes:
        y: Data, shifted by the centre.
        height: g_j - |y_j|^2, and minus infinity where the weight is zero.
        log_b: Logarithms of the weights, which count where epsilon > 0.
        centre: Around where scores are computed.
    """

    y: Float[Array, "m d"]
    height: Float[Array, " m"]
    log_b: Float[Array, " m"]
    centre: Float[Array, " d"]

    def scores(self, x: Float[Array, "t d"]) -> Float[Array, "m t"]:
        """Scores of all data at some source points."""
        return _products(self.y, x - self.centre[None, :]) + self.height[:, None]

    def raised(self, change: Float[Array, " m"]) -> "Heights":
        """The heights of other potentials."""
        return self._replace(height=self.height + change)


def heights(y: Float[Array, "m d"], g: Float[Array, " m"], b: Float[Array, " m"]) -> Heights:
    """The data as affine functions of the source."""
    centre = centre_between(y, y, b, b)
    y = jnp.where(b[:, None] > 0, y - centre[None, :], 0)
    height = jnp.where(b > 0, g - jnp.sum(y * y, axis=1), -jnp.inf)
    return Heights(y, height, jnp.log(b), centre)


class CellSums(NamedTuple):
    """What the cells of the data hold of a source of mass one.

    Attributes:
        masses: Mass of each cell.
        moments: Integral of the position over each cell, around the centre of the data.
        squares: Integral of the squared distance from that centre over everything.
        information: The integral of sum_j p_j log(p_j / b_j), where p shares points among cells.
    """

    masses: Float[Array, " m"]
    moments: Float[Array, "m d"]
    squares: Scalar
    information: Scalar

    @classmethod
    def zeros(cls, y: Float[Array, "m d"]) -> "CellSums":
        """Sums of nothing."""
        zero = jnp.zeros((), y.dtype)
        return cls(jnp.zeros_like(y[:, 0]), jnp.zeros_like(y), zero, zero)


def sampled_cells(
    source: Source, data: Heights, epsilon: Scalar | None, *, key: PRNGKeyArray, num: int
) -> CellSums:
    """What the cells hold of `num` fresh points of the source, drawn tile by tile."""
    count, size = tiles(num, data.height.size)
    whole = count * size

    def visit(sums, i):
        x = source(key=jr.fold_in(key, i), num=size).astype(data.y.dtype)
        scores, x = data.scores(x), x - data.centre[None, :]
        squares = sums.squares + jnp.mean(x * x) * (x.shape[1] / count)
        if epsilon is None:
            won = winners(scores)
            masses = sums.masses.at[won].add(1 / whole)
            moments = sums.moments.at[won].add(x / whole)
            return CellSums(masses, moments, squares, sums.information), None
        parts, gains = shares(scores, data.log_b, epsilon)
        masses = sums.masses + jnp.mean(parts, axis=1) / count
        moments = sums.moments + _products(parts, x.T) / (2 * whole)
        return CellSums(masses, moments, squares, sums.information + jnp.mean(gains) / count), None

    return jax.lax.scan(visit, CellSums.zeros(data.y), jnp.arange(count))[0]


def sampled_masses(
    source: Source, data: Heights, epsilon: Scalar | None, *, key: PRNGKeyArray, num: int
) -> Float[Array, " m"]:
    """Masses of the cells alone, on fresh points."""
    count, size = tiles(num, data.height.size)

    def visit(masses, i):
        x = source(key=jr.fold_in(key, i), num=size).astype(data.y.dtype)
        scores = data.scores(x)
        if epsilon is None:
            return masses.at[winners(scores)].add(1 / (count * size)), None
        parts, _ = shares(scores, data.log_b, epsilon)
        return masses + jnp.mean(parts, axis=1) / count, None

    return jax.lax.scan(visit, jnp.zeros_like(data.height), jnp.arange(count))[0]


def tiles(num: int, m: int) -> tuple[int, int]:
    """How many tiles of how many source points hold at least `num`."""
    count = -(-num * m // _TILE_ENTRIES)
    return count, -(-num // count)


def winners(scores: Float[Array, "m t"]) -> Int[Array, " t"]:
    """The place of the largest score of each column, the first of equals."""
    m = scores.shape[0]
    if m < 4 * _GROUP:
        return jnp.argmax(scores, axis=0)
    scores = jnp.pad(scores, [(0, -m % _GROUP), (0, 0)], constant_values=-jnp.inf)
    groups = scores.reshape(-1, _GROUP, scores.shape[1])
    group = jnp.argmax(jnp.max(groups, axis=1), axis=0)
    within = jnp.take_along_axis(groups, group[None, None, :], axis=0)[0]
    return group * _GROUP + jnp.argmax(within, axis=0)


def shares(
    scores: Float[Array, "m t"], log_b: Float[Array, " m"], epsilon: Scalar
) -> tuple[Float[Array, "m t"], Float[Array, " t"]]:
    """How each source point is shared among the data, and its gain sum_j p_j log(p_j / b_j)."""
    exponents = scores / epsilon
    totals = jax.nn.logsumexp(exponents + log_b[:, None], axis=0, keepdims=True)
    parts = jnp.exp(exponents + log_b[:, None] - totals)
    gains = jnp.where(parts > 0, exponents - totals, 0)
    return parts, jnp.sum(parts * gains, axis=0)


def assigned(
    x: Float[Array, "k d"],
    y: Float[Array, "m d"],
    g: Float[Array, " m"],
    b: Float[Array, " m"],
    epsilon: Scalar | None,
    *,
    key: PRNGKeyArray,
) -> Int[Array, " k"]:
    """The winner of each point, with Gumbel noise where there is an epsilon; m if there is none.

    Only a block of the data is shifted and multiplied at once: nothing of their size is made.
    """
    m = y.shape[0]
    block = min(_BLOCK, m)
    centre = centre_between(x.astype(g.dtype), x.astype(g.dtype))[None, :]
    x = x.astype(g.dtype) - centre

    def visit(best, first):
        # The last block reaches back to be whole; what it has met before does not count.
        start = jnp.minimum(first, m - block)
        points, potential, weights = (
            jax.lax.dynamic_slice_in_dim(part, start, block) for part in (y, g, b)
        )
        points = points.astype(g.dtype) - centre
        counts = (weights > 0) & (start + jnp.arange(block) >= first)
        points = jnp.where(counts[:, None], points, 0)
        height = jnp.where(counts, potential - jnp.sum(points * points, axis=1), -jnp.inf)
        scores = _products(points, x) + height[:, None]
        if epsilon is not None:
            noise = jr.gumbel(jr.fold_in(key, first), scores.shape, scores.dtype)
            scores = scores / epsilon + jnp.log(weights)[:, None] + noise
        winner = winners(scores)
        score = jnp.take_along_axis(scores, winner[None, :], axis=0)[0]
        better = score > best[0]
        winner = (start + winner).astype(jnp.int32)
        return (jnp.where(better, score, best[0]), jnp.where(better, winner, best[1])), None

    none = jnp.full(x.shape[0], -jnp.inf, g.dtype), jnp.full(x.shape[0], m, jnp.int32)
    (_, found), _ = jax.lax.scan(visit, none, jnp.arange(0, m, block))
    return found


def _products(y: Float[Array, "m d"], x: Float[Array, "t d"]) -> Float[Array, "m t"]:
    """Twice the inner products, in full precision on every platform."""
    return 2 * jnp.matmul(y, x.T, precision=jax.lax.Precision.HIGHEST)
