"""Transport on the line, exact by sorting, and averages of it over random lines."""

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from transportx import _checks

# Positions in order, and the share of the mass up to each.
Steps = tuple[Float[Array, " _"], Float[Array, " _"]]


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
        x: Source positions, in any order.
        y: Target positions.
        a: Source weights, non-negative, normalised here; uniform by default. A point of
            weight zero changes nothing.
        b: Target weights, likewise.
        p: Exponent, at least 1.

    Returns:
        W_p itself, not its power. NaN if a weight is negative or a total is zero.

    Raises:
        ValueError: A set is empty or not one-dimensional, weights do not match their
            points, or `p` is below 1.

    Differentiation:
        In positions and weights; at distance zero the derivative is taken as zero.

    References:
        Peyre and Cuturi, Computational Optimal Transport, 2019, remark 2.30.
    """
    _checks.exponent("p", p)
    return _root(_power_1d(_quantiles("x", x, "a", a), _quantiles("y", y, "b", b), p), p)


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

    References:
        Bonneel, Rabin, Peyre and Pfister, Sliced and Radon Wasserstein barycenters, 2015.
    """
    _checks.points("x", x)
    _checks.points("y", y)
    _checks.same_dimension("y", y, "x", x)
    _checks.count("num_projections", num_projections)
    _checks.exponent("p", p)
    directions = jr.normal(key, (num_projections, x.shape[1]), x.dtype)
    directions = directions / jnp.linalg.norm(directions, axis=1, keepdims=True)

    def along(direction):
        along_x, along_y = _project(x, direction), _project(y, direction)
        return _power_1d(
            _quantiles("x", along_x, "a", None), _quantiles("y", along_y, "b", None), p
        )

    return _root(jnp.mean(jax.lax.map(along, directions)), p)


def _project(points: Float[Array, "n d"], direction: Float[Array, " d"]) -> Float[Array, " n"]:
    return jnp.matmul(points, direction, precision=jax.lax.Precision.HIGHEST)


def _power_1d(x: Steps, y: Steps, p: int | float) -> Float[Array, ""]:
    """W_p^p between two quantile functions."""
    (at_x, levels_x), (at_y, levels_y) = x, y
    levels = jnp.concatenate([levels_x, levels_y])
    order = jnp.argsort(levels)
    steps = jnp.diff(levels[order], prepend=jnp.zeros(1, levels.dtype))
    # On each step, the first point of either set whose level has not been passed.
    of_x = (order < at_x.size).astype(order.dtype)
    passed_x = jnp.cumsum(of_x) - of_x
    passed_y = jnp.arange(order.size) - passed_x
    last_x, last_y = at_x.size - 1, at_y.size - 1
    gap = at_x[jnp.minimum(passed_x, last_x)] - at_y[jnp.minimum(passed_y, last_y)]
    return jnp.sum(steps * jnp.abs(gap) ** p)


def _root(power: Float[Array, ""], p: int | float) -> Float[Array, ""]:
    """power^(1/p), with derivative zero at zero; NaN stays NaN."""
    nonzero = power != 0
    return jnp.where(nonzero, jnp.where(nonzero, power, 1) ** (1 / p), 0)


def _quantiles(name: str, x: Array, weights_name: str, weights: Array | None) -> Steps:
    """Positions in order, and the share of mass up to each: the last is one exactly."""
    if x.ndim != 1 or x.size == 0:
        _checks.reject(name, f"has shape {x.shape}", "give at least one position, shape (n,)")
    _checks.floating(name, x)
    if weights is None:
        return jnp.sort(x), jnp.arange(1, x.size + 1, dtype=x.dtype) / x.size
    _checks.same_shape(weights_name, weights, name, x)
    _checks.floating(weights_name, weights)
    order = jnp.argsort(x)
    usable = jnp.all(weights >= 0) & (jnp.sum(weights) > 0)
    weights = jnp.where(usable, weights, jnp.nan)[order]
    masses = jnp.cumsum(weights)
    levels = masses / masses[-1]
    # Sums and quotients may move by rounding also where the weight is zero: hold them there.
    held = jax.lax.cummax(jnp.where(weights == 0, 0, masses))
    exact = jnp.where(held == held[-1], 1, held / held[-1])
    return x[order], levels + jax.lax.stop_gradient(exact - levels)
