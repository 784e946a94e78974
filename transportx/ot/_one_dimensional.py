"""Transport on the line, exact by sorting, and averages of it over random lines."""

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from transportx import _checks


def wasserstein_1d(
    x: Float[Array, " n"],
    y: Float[Array, " m"],
    a: Float[Array, " n"] | None = None,
    b: Float[Array, " m"] | None = None,
    *,
    p: float = 2,
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
    if p < 1:
        _checks.reject("p", f"is {p}", "give an exponent of at least 1")
    x, a = _sorted_measure("x", x, "a", a)
    y, b = _sorted_measure("y", y, "b", b)
    levels_x, levels_y = jnp.cumsum(a), jnp.cumsum(b)
    levels = jnp.sort(jnp.concatenate([levels_x[:-1], levels_y[:-1], jnp.ones(1, a.dtype)]))
    steps = jnp.diff(levels, prepend=jnp.zeros(1, a.dtype))
    middles = levels - steps / 2
    quantile_x = x[jnp.minimum(jnp.searchsorted(levels_x, middles), x.size - 1)]
    quantile_y = y[jnp.minimum(jnp.searchsorted(levels_y, middles), y.size - 1)]
    gap = jnp.abs(quantile_x - quantile_y)
    power = jnp.sum(steps * gap**p)
    positive = power > 0
    root = jnp.where(positive, power, 1) ** (1 / p)
    return jnp.where(positive, root, 0 * power)


def sliced_wasserstein(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    *,
    key: PRNGKeyArray,
    num_projections: int = 128,
    p: float = 2,
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
    directions = jr.normal(key, (num_projections, x.shape[1]), x.dtype)
    directions = directions / jnp.linalg.norm(directions, axis=1, keepdims=True)

    def along(direction):
        return wasserstein_1d(_project(x, direction), _project(y, direction), p=p) ** p

    return jnp.mean(jax.lax.map(along, directions)) ** (1 / p)


def _project(points: Float[Array, "n d"], direction: Float[Array, " d"]) -> Float[Array, " n"]:
    return jnp.matmul(points, direction, precision=jax.lax.Precision.HIGHEST)


def _sorted_measure(
    name: str, x: Float[Array, " n"], weights_name: str, weights: Float[Array, " n"] | None
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Positions in order with their weights, which sum to one."""
    if x.ndim != 1 or x.size == 0:
        _checks.reject(name, f"has shape {x.shape}", "give at least one position, shape (n,)")
    _checks.floating(name, x)
    if weights is None:
        return jnp.sort(x), jnp.full(x.shape, 1 / x.size, x.dtype)
    _checks.same_shape(weights_name, weights, name, x)
    order = jnp.argsort(x)
    usable = jnp.all(weights >= 0) & (jnp.sum(weights) > 0)
    weights = jnp.where(usable, weights, jnp.nan)[order]
    return x[order], weights / jnp.sum(weights)
