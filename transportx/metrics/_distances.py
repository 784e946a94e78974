"""Distances between two clouds of samples."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, ScalarLike

from transportx import _checks
from transportx._precision import single_inside
from transportx.geometry import Euclidean, PointCloud, SquaredEuclidean
from transportx.geometry.internal import ResolvedSquares, Sum
from transportx.ot import assignment, exact

Cloud = Float[Array, "n d"]
Scalar = Float[Array, ""]


@_checks.gate
@single_inside
def wasserstein2(
    x: Cloud,
    y: Float[Array, "m d"],
    a: Float[Array, " n"] | None = None,
    b: Float[Array, " m"] | None = None,
) -> Scalar:
    r"""Exact 2-Wasserstein distance between two clouds, weighted or not.

    $W_2^2 = \min_P \sum_{ij} P_{ij} |x_i - y_j|^2 / |P|$ over plans with marginals a and b;
    returns W2. Clouds of one size with uniform weights (None) are matched one to one, by
    `transportx.ot.assignment`: O(n^3) time at worst and O(n^2) memory, about 3 GB at n = 10,000.
    Others go through `transportx.ot.exact`.

    Args:
        x: First cloud, shape (n, d).
        y: Second cloud, shape (m, d).
        a: Weights of the first cloud, shape (n,), non-negative; uniform by default. Weights are
            normalised here, so that only shares of each cloud count.
        b: Weights of the second cloud, shape (m,), non-negative; uniform by default.

    Returns:
        W2; NaN where a coordinate is no finite number or weights are no measure.

    Sampling floor: between two samples of n points of one law, of order n^{-1/max(d, 4)}
    times the spread of the law, so never negligible beyond the plane.

    Raises:
        ValueError: A cloud is empty, dimensions differ, or weights do not match their points.

    Differentiation:
        With respect to x, y, a and b, wherever the plan is unique; zero where the clouds
        coincide.

    Example:
        >>> x = jnp.array([[0.0, 0.0], [1.0, 0.0]])
        >>> round(float(tx.metrics.wasserstein2(x, x[::-1] + jnp.array([3.0, 4.0]))), 3)
        5.0
        >>> round(float(tx.metrics.wasserstein2(x, x[:1], jnp.array([0.75, 0.25]))), 3)
        0.5

    References:
        Peyre and Cuturi, Computational Optimal Transport, 2019, section 2.2.
    """
    _check_clouds(x, y)
    _check_weights(x, a, y, b)
    x, y = _without_the_weightless(x, a), _without_the_weightless(y, b)
    x, y, size = _in_units(x, y)
    if a is None and b is None and x.shape == y.shape:
        columns = assignment(PointCloud(x, y, SquaredEuclidean()).matrix())
        matched = y.at[columns].get(mode="fill", fill_value=jnp.nan)
        return size * _safe_root(jnp.mean(jnp.sum((x - matched) ** 2, axis=1)))
    a, b = (w if w is None else w.astype(x.dtype) / jnp.sum(w) for w in (a, b))
    return size * _safe_root(exact(PointCloud(x, y, SquaredEuclidean()), a, b).value)


@_checks.gate
@single_inside
def energy_distance(x: Cloud, y: Float[Array, "m d"]) -> Scalar:
    r"""Energy distance: $D^2 = 2 E|X - Y| - E|X - X'| - E|Y - Y'|$; returns D.

    Pairs of a point with itself are counted (the V-statistic), so D >= 0 and D = 0 only
    for equal clouds. O((n + m)^2 d), streamed.

    Args:
        x: First cloud, shape (n, d).
        y: Second cloud, shape (m, d).

    Sampling floor: $E D^2 = (1/n + 1/m)\,E|X - X'|$ between two samples of one law, in
    every dimension.

    Raises:
        ValueError: A cloud is empty, or dimensions differ.

    Differentiation:
        With respect to x and y; zero where the clouds coincide.

    Example:
        >>> x, y = jnp.array([[0.0], [2.0]]), jnp.array([[1.0]])
        >>> round(float(tx.metrics.energy_distance(x, y)), 3)  # D^2 = 2 - 1 - 0
        1.0

    References:
        Szekely and Rizzo, Energy statistics, 2013.
    """
    _check_clouds(x, y)
    finite, (x, y, size) = _both_finite(x, y), _in_units(x, y)
    # |x| and |y| drop out of the difference; without them a far point, of which clouds may
    # share many, adds little to each of the sums, and their rounding is small.
    far_x, far_y = (jax.lax.stop_gradient(jnp.linalg.norm(p, axis=1)) for p in (x, y))

    def mean(p, q, far_p, far_q):
        def nearer(far_q, costs, far_p):
            return jnp.sum(costs - far_p[:, None] - far_q[None, :], axis=1) / q.shape[0]

        return jnp.mean(PointCloud(p, q, Euclidean()).fold_tiles(Sum(), nearer, far_q, far_p))

    between = mean(x, y, far_x, far_y)
    within = mean(x, x, far_x, far_x) + mean(y, y, far_y, far_y)
    return jnp.where(finite, jnp.sqrt(size) * _safe_root(2 * between - within), jnp.nan)


@_checks.gate
@single_inside
def mmd(x: Cloud, y: Float[Array, "m d"], *, bandwidth: ScalarLike) -> Scalar:
    r"""Maximum mean discrepancy for the kernel $k = \exp(-|x - y|^2 / 2 h^2)$.

    $\mathrm{MMD}^2 = E k(X, X') + E k(Y, Y') - 2 E k(X, Y)$, the V-statistic; returns MMD.
    O((n + m)^2 d), streamed.

    Args:
        x: First cloud, shape (n, d).
        y: Second cloud, shape (m, d).
        bandwidth: h > 0, in units of the points. MMD sees differences at that scale only.

    Sampling floor: $E\,\mathrm{MMD}^2 = (1/n + 1/m)(1 - E k(X, X'))$ between two samples
    of one law.

    Raises:
        ValueError: A cloud is empty, dimensions differ, or `bandwidth` is a Python number
            that is not positive and finite; a traced one gives NaN.

    Differentiation:
        With respect to x, y and the bandwidth; zero where the clouds coincide.

    Example:
        >>> x, y = jnp.array([[0.0]]), jnp.array([[2.0]])
        >>> round(float(tx.metrics.mmd(x, y, bandwidth=1.0)), 3)  # sqrt(2 - 2 exp(-2))
        1.315

    References:
        Gretton et al., A Kernel Two-Sample Test, 2012.
    """
    _check_clouds(x, y)
    squared = ResolvedSquares()
    scale = 2 * _checks.positive_value("bandwidth", bandwidth, x.dtype) ** 2

    def similarity(p, q):
        return _mean_over_pairs(p, q, squared, lambda costs: jnp.exp(-costs / scale))

    square = similarity(x, x) + similarity(y, y) - 2 * similarity(x, y)
    # At infinity similarities vanish as if all were well.
    return jnp.where(_both_finite(x, y), _safe_root(square), jnp.nan)


def _mean_over_pairs(x, y, cost, of: Callable[[Array], Array] = lambda costs: costs) -> Scalar:
    return jnp.mean(PointCloud(x, y, cost).map_rows(lambda costs: jnp.mean(of(costs))))


def _safe_root(square: Scalar) -> Scalar:
    """Square root of what is zero up to rounding; derivative zero there, NaN stays NaN."""
    positive = square > 0
    root = jnp.sqrt(jnp.where(positive, square, 1))
    return jnp.where(positive, root, jnp.where(jnp.isnan(square), jnp.nan, 0))


def _in_units(x: Cloud, y: Float[Array, "m d"]) -> tuple[Cloud, Float[Array, "m d"], Scalar]:
    """Both clouds about their median, in units of about their size, and the unit.

    No outlier moves the median far; and squares neither overflow nor vanish. A power of two
    divides without rounding.
    """
    centre = jax.lax.stop_gradient(jnp.median(jnp.concatenate([x, y]), axis=0))[None, :]
    x, y = x - centre, y - centre
    most = jnp.maximum(jnp.max(jnp.abs(x)), jnp.max(jnp.abs(y)))
    _, exponent = jnp.frexp(jax.lax.stop_gradient(most))
    unit = jnp.ldexp(jnp.ones((), x.dtype), exponent)
    return x / unit, y / unit, unit


def _both_finite(x: Cloud, y: Float[Array, "m d"]) -> Bool[Array, ""]:
    return jnp.all(jnp.isfinite(x)) & jnp.all(jnp.isfinite(y))


def _check_clouds(x: Array, y: Array) -> None:
    _checks.points("x", x)
    _checks.points("y", y)
    _checks.same_dimension("y", y, "x", x)


def _check_weights(x: Array, a: Array | None, y: Array, b: Array | None) -> None:
    for name, weights, points in (("a", a, x), ("b", b, y)):
        if weights is not None:
            _checks.shaped(name, weights, points.shape[:1], "one weight per point")
            _checks.floating(name, weights)


def _without_the_weightless(points: Cloud, weights: Float[Array, " n"] | None) -> Cloud:
    """The points, the heaviest one in the place of those that have no weight."""
    if weights is None:
        return points
    return jnp.where((weights == 0)[:, None], points[jnp.argmax(weights)][None, :], points)
