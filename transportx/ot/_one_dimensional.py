"""Transport on the line, exact by sorting, and averages of it over random lines."""

import math
import numbers
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from transportx import _checks
from transportx._precision import common, working

Scalar = Float[Array, ""]


class _Levels(NamedTuple):
    """Shares of the mass up to each point of the line, itself included, and beyond it.

    They add up to one. The smaller of the two is known to its own rounding, so that tiny
    masses at either end count.
    """

    below: Float[Array, " n"]
    above: Float[Array, " n"]


class _Merged(NamedTuple):
    """The mass that every pair of the monotone plan carries, and its points in order."""

    masses: Float[Array, " n+m"]
    of_x: Int[Array, " n+m"]
    of_y: Int[Array, " n+m"]


@_checks.gate
def wasserstein_1d(
    x: Float[Array, " n"],
    y: Float[Array, " m"],
    a: Float[Array, " n"] | None = None,
    b: Float[Array, " m"] | None = None,
    *,
    p: int | float = 2,
) -> Float[Array, ""]:
    r"""W_p between two weighted sets of the line, exactly.

    $W_p^p = \int_0^1 |Q_a(u) - Q_b(u)|^p du$, summed over the merged steps of the two
    quantile functions. O((n + m) log(n + m)).

    Args:
        x: Source positions, shape (n,), in any order.
        y: Target positions, shape (m,), in any order.
        a: Source weights, shape (n,), non-negative, normalised here; uniform by default. A
            point of weight zero changes nothing, wherever it is.
        b: Target weights, shape (m,), non-negative, normalised here; uniform by default.
        p: Exponent, at least 1; for infinity, the greatest distance that any mass moves.

    Returns:
        W_p itself, not its power; infinity where mass lies there in one set alone. NaN if
        a weight is negative or infinite, or a total is zero.

    Raises:
        ValueError: A set is empty or not one-dimensional, weights do not match their
            points, or `p` is below 1.

    Differentiation:
        With respect to positions and weights; at distance zero the derivative is taken as zero.

    Example:
        >>> x, y = jnp.array([0.0, 1.0]), jnp.array([3.0, 2.0])
        >>> float(tx.ot.wasserstein_1d(x, y))
        2.0

    References:
        Peyre and Cuturi, Computational Optimal Transport, 2019, remark 2.30.
    """
    _checks.exponent("p", p)
    _check_line("x", x, "a", a)
    _check_line("y", y, "b", b)
    answered = common(x.dtype, y.dtype)
    dtype = working(answered, *(part.dtype for part in (a, b) if part is not None))
    (x, levels_x), (y, levels_y) = _quantiles(x, a, dtype), _quantiles(y, b, dtype)
    merged = _merge(levels_x, levels_y)
    gaps = x[merged.of_x] - y[merged.of_y]
    return _mean_of_powers(gaps, merged.masses, p).astype(answered)


@_checks.gate
def sliced_wasserstein(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    *,
    key: PRNGKeyArray,
    num_projections: int = 128,
    p: int | float = 2,
) -> Float[Array, ""]:
    r"""Sliced W_p: the p-mean of W_p over `num_projections` random directions.

    $SW_p^p = E_\theta\, W_p^p(\langle\theta, x\rangle, \langle\theta, y\rangle)$ with theta
    uniform on the sphere. O(num_projections (n + m) (d + log(n + m))).

    Sampling floor: two fresh samples of n points of one law are not at distance zero but
    at order n^{-1/2} times their spread; print that floor beside any figure.

    Args:
        x: Source points of equal weight, shape (n, d).
        y: Target points of equal weight, shape (m, d).
        key: Randomness of the directions.
        num_projections: Number of directions, at least 1.
        p: Exponent, at least 1; for infinity, the greatest W_inf over the directions.

    Raises:
        ValueError: A cloud is empty, dimensions differ, there is no direction, or `p` is
            below 1.

    Differentiation:
        With respect to the points; at distance zero the derivative is taken as zero.

    Example:
        >>> x = jnp.array([[0.0], [1.0]])  # in one dimension every direction is the line
        >>> round(float(tx.ot.sliced_wasserstein(x, x + 2.0, key=jr.key(0), num_projections=4)), 3)
        2.0

    References:
        Bonneel, Rabin, Peyre and Pfister, Sliced and Radon Wasserstein barycenters, 2015.
    """
    _checks.points("x", x)
    _checks.points("y", y)
    _checks.same_dimension("y", y, "x", x)
    _checks.count("num_projections", num_projections)
    _checks.exponent("p", p)
    answered, dtype = common(x.dtype, y.dtype), working(x.dtype, y.dtype)
    x, y = x.astype(dtype), y.astype(dtype)
    directions = jr.normal(key, (num_projections, x.shape[1]), dtype)
    directions = directions / jnp.linalg.norm(directions, axis=1, keepdims=True)
    merged = _merge(_equal_levels(x.shape[0], dtype), _equal_levels(y.shape[0], dtype))

    def along(direction):
        along_x, along_y = jnp.sort(_project(x, direction)), jnp.sort(_project(y, direction))
        return _mean_of_powers(along_x[merged.of_x] - along_y[merged.of_y], merged.masses, p)

    distances = jax.lax.map(along, directions)
    shares = jnp.full(num_projections, 1 / num_projections, dtype)
    return _mean_of_powers(distances, shares, p).astype(answered)


def _project(points: Float[Array, "n d"], direction: Float[Array, " d"]) -> Float[Array, " n"]:
    return jnp.matmul(points, direction, precision=jax.lax.Precision.HIGHEST)


def _merge(x: _Levels, y: _Levels) -> _Merged:
    """The monotone plan: the mass of each pair, in order from the left."""
    below, above = (jnp.concatenate(parts) for parts in zip(x, y, strict=True))
    # Ordered by what is below in the lower half, by what is above in the upper one.
    upper = (below > above).astype(jnp.int32)
    places = jnp.arange(below.size, dtype=jnp.int32)
    level = jax.lax.stop_gradient(jnp.where(upper == 1, -above, below))
    upper, _, order = jax.lax.sort((upper, level, places), num_keys=2)
    below, above = below[order], above[order]
    zero, one = jnp.zeros(1, below.dtype), jnp.ones(1, below.dtype)
    below_last, above_last = (
        jnp.concatenate([first, part[:-1]]) for first, part in ((zero, below), (one, above))
    )
    upper_last = jnp.concatenate([jnp.zeros(1, upper.dtype), upper[:-1]])
    within = jnp.where(upper == 1, above_last - above, below - below_last)
    masses = jnp.where(upper == upper_last, within, 1 - below_last - above)
    # On each step, the first point of either set whose level has not been passed.
    of_x = (order < x.below.size).astype(jnp.int32)
    passed_x = jnp.cumsum(of_x) - of_x
    passed_y = places - passed_x
    last_x, last_y = x.below.size - 1, y.below.size - 1
    masses = jnp.where(masses < 0, 0, masses)
    return _Merged(masses, jnp.minimum(passed_x, last_x), jnp.minimum(passed_y, last_y))


def _mean_of_powers(gaps: Float[Array, " k"], masses: Float[Array, " k"], p: int | float) -> Scalar:
    """(sum of masses |gaps|^p)^(1/p), and the greatest gap of any mass where p is infinite.

    The greatest gap is taken out first, so that no power overflows or vanishes.
    """
    # The derivative of what does not move is zero, not one-sided.
    gaps = jnp.where(gaps == 0, 0, jnp.abs(gaps))
    moved = jnp.where(masses == 0, 0, jnp.where(masses > 0, gaps, jnp.nan))
    greatest = jnp.max(moved)
    if isinstance(p, numbers.Real) and math.isinf(p):
        return greatest
    scale = jax.lax.stop_gradient(greatest)
    ratios = ratios_to(scale, gaps)
    # Where nothing is, a ratio counts in derivatives alone, unless its power overflows.
    most = jnp.finfo(gaps.dtype).max ** (1 / (p + 1))
    ratios = jnp.where((masses == 0) & ~(ratios <= most), 0, ratios)
    mean = scale * _root(jnp.sum(masses * ratios**p), p)
    return jnp.where(scale < jnp.inf, mean, greatest)


def ratios_to(largest: Scalar, numbers: Float[Array, " k"]) -> Float[Array, " k"]:
    """Numbers in units of the largest of their sizes; as they are where that is zero."""
    # Dividing by a scalar compiles to a product with its inverse, which may not underflow.
    shrink = jnp.where(largest > 1, 0.25, 1).astype(numbers.dtype)
    return (shrink * numbers) / (shrink * jnp.where(largest > 0, largest, 1))


def _root(power: Scalar, p: int | float) -> Scalar:
    """power^(1/p), with derivative zero at zero; NaN stays NaN."""
    nonzero = power != 0
    return jnp.where(nonzero, jnp.where(nonzero, power, 1) ** (1 / p), 0)


def _quantiles(
    x: Float[Array, " n"], weights: Float[Array, " n"] | None, dtype: np.dtype
) -> tuple[Float[Array, " n"], _Levels]:
    """Positions in order and their levels; NaN where the weights are no measure."""
    x = x.astype(dtype)
    if weights is None:
        return jnp.sort(x), _equal_levels(x.size, dtype)
    weights = weights.astype(dtype)
    usable = jnp.all(weights >= 0) & jnp.all(weights < jnp.inf) & jnp.any(weights > 0)
    # Of the greatest, so that no sum overflows.
    weights = weights / jax.lax.stop_gradient(jnp.max(weights))
    weights = jnp.where(usable, weights, jnp.nan)
    order = jnp.argsort(x)
    weights = weights[order]
    below, total_below = _running(weights)
    above, total_above = _running(weights[::-1])
    beyond = jnp.concatenate([above[::-1][1:], jnp.zeros(1, dtype)])
    return x[order], _Levels(below / total_below, beyond / total_above)


def _running(weights: Float[Array, " n"]) -> tuple[Float[Array, " n"], Scalar]:
    """Running sums and their last: never falling, and equal where a weight is zero."""
    sums = jnp.cumsum(weights)
    # Sums of one and the same mass may differ by rounding: hold them there.
    level = jax.lax.cummax(jnp.where(weights == 0, 0, sums))
    return sums + jax.lax.stop_gradient(level - sums), sums[-1]


def _equal_levels(size: int, dtype: np.dtype) -> _Levels:
    """Levels of points of equal weight, each rounded once: counted in integers."""
    count = jnp.arange(1, size + 1)
    return _Levels(*(number.astype(dtype) / size for number in (count, size - count)))


def _check_line(name: str, x: Array, weights_name: str, weights: Array | None) -> None:
    if x.ndim != 1 or x.size == 0:
        _checks.reject(name, f"has shape {x.shape}", "give at least one position, shape (n,)")
    _checks.floating(name, x)
    if weights is not None:
        _checks.same_shape(weights_name, weights, name, x)
        _checks.floating(weights_name, weights)
