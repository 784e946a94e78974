"""The costs of the field: distances and their powers, inner products, angles."""

import functools
import math
import numbers
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from transportx import _checks
from transportx._precision import at_least_single
from transportx.geometry._cost import AbstractCost, AbstractPointwiseCost

# Up to this many coordinates squared distances are sums of squared differences, which fuse
# into what uses them and keep every digit; above, one matrix product.
FEW_COORDINATES = 8

Point = Float[Array, " d"]
Scalar = Float[Array, ""]


class SquaredEuclidean(AbstractCost):
    """The squared Euclidean distance |x - y|^2, with no factor 1/2: the cost of W2.

    Between clouds of more than eight coordinates it is expanded into norms and a matrix
    product: fast, with rounding relative to |x|^2 + |y|^2.

    Example:
        >>> x, y = jnp.array([[0.0, 0.0]]), jnp.array([[3.0, 4.0], [1.0, 0.0]])
        >>> tx.geometry.PointCloud(x, y, tx.geometry.SquaredEuclidean()).matrix().tolist()
        [[25.0, 1.0]]
    """

    translation_invariant: ClassVar[bool] = True

    @_checks.gate
    def wants_centring(self, dim: int) -> bool:
        return dim > FEW_COORDINATES

    @_checks.gate
    @at_least_single
    def __call__(self, x: Point, y: Point) -> Scalar:
        return jnp.sum((x - y) ** 2)

    @_checks.gate
    @at_least_single
    def matrix(self, x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
        return _infinite_at_infinity(self._of_finite, x, y)

    def _of_finite(self, x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
        if x.shape[1] <= FEW_COORDINATES:
            gaps = (xk[:, None] - yk[None, :] for xk, yk in zip(x.T, y.T, strict=True))
            return functools.reduce(jnp.add, (gap * gap for gap in gaps))
        squares = jnp.sum(x * x, axis=1)[:, None] + jnp.sum(y * y, axis=1)[None, :]
        costs = squares - 2 * _products(x, y)
        # Rounding may leave a negative cost. The clip is hidden from autodiff: a plain
        # maximum would halve the Hessian wherever x = y.
        costs = costs + jax.lax.stop_gradient(jnp.maximum(costs, 0) - costs)
        return jnp.where(squares == jnp.inf, jnp.inf, costs)


class Euclidean(AbstractPointwiseCost):
    """The Euclidean distance |x - y|: the cost of W1.

    Its derivative where x = y is defined as zero.

    Example:
        >>> x, y = jnp.array([[0.0, 0.0]]), jnp.array([[3.0, 4.0], [1.0, 0.0]])
        >>> tx.geometry.PointCloud(x, y, tx.geometry.Euclidean()).matrix().tolist()
        [[5.0, 1.0]]
    """

    translation_invariant: ClassVar[bool] = True

    @_checks.gate
    @at_least_single
    def __call__(self, x: Point, y: Point) -> Scalar:
        return _norm(x - y)

    @_checks.gate
    @at_least_single
    def matrix(self, x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
        return _infinite_at_infinity(_distances, x, y)


@_checks.gate
class PNorm(AbstractPointwiseCost):
    """The p-th power of the p-norm distance, sum_i |x_i - y_i|^p.

    A power beyond the range of numbers is infinite: plans put nothing on that pair.

    Example:
        >>> cost = tx.geometry.PNorm(1.0)
        >>> float(cost(jnp.array([0.0, 0.0]), jnp.array([3.0, -4.0])))
        7.0

    Attributes:
        p: Exponent, at least 1 and finite. It may be traced, and costs are NaN at a traced value
            outside that range. Costs differentiate in it, except where a coordinate of x equals
            that of y.

    Raises:
        ValueError: `p` is a Python number below 1, or infinite.
    """

    p: ScalarLike
    translation_invariant: ClassVar[bool] = True

    def __check_init__(self):
        _checks.exponent("p", self.p)
        if isinstance(self.p, numbers.Real) and not math.isfinite(self.p):
            _checks.reject("p", f"is {self.p}", "give a finite exponent: costs are p-th powers")

    @_checks.gate
    @at_least_single
    def __call__(self, x: Point, y: Point) -> Scalar:
        gap = jnp.abs(x - y)
        p = jnp.asarray(self.p, x.dtype)
        p = jnp.where((p >= 1) & (p < jnp.inf), p, jnp.nan)
        apart = gap != 0
        # Beyond this the power, or its derivative, p times a power, is no number.
        most = jnp.exp((jnp.log(jnp.finfo(x.dtype).max) - jnp.log(p)) / p)
        beyond = gap > jax.lax.stop_gradient(most)
        powers = jnp.where(apart, jnp.where(apart & ~beyond, gap, 1) ** p, 0)
        return jnp.sum(jnp.where(beyond, jnp.inf, powers)) + jnp.where(jnp.isnan(p), p, 0)

    @_checks.gate
    @at_least_single
    def matrix(self, x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
        return _infinite_at_infinity(super().matrix, x, y)


class Dot(AbstractCost):
    """The negative inner product -<x, y>.

    Balanced optimal plans equal those of `SquaredEuclidean` at twice the epsilon; values do not.

    Example:
        >>> float(tx.geometry.Dot()(jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0])))
        -11.0
    """

    translation_invariant: ClassVar[bool] = False

    @_checks.gate
    @at_least_single
    def __call__(self, x: Point, y: Point) -> Scalar:
        return -jnp.sum(x * y)

    @_checks.gate
    @at_least_single
    def matrix(self, x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
        return -_products(x, y)


class Cosine(AbstractCost):
    """The cosine distance 1 - <x, y> / (|x| |y|), in [0, 2].

    A zero vector is at cost 1 from everything.

    Example:
        >>> float(tx.geometry.Cosine()(jnp.array([1.0, 0.0]), jnp.array([0.0, 5.0])))
        1.0
    """

    translation_invariant: ClassVar[bool] = False

    @_checks.gate
    @at_least_single
    def __call__(self, x: Point, y: Point) -> Scalar:
        return 1 - jnp.sum(_direction(x) * _direction(y))

    @_checks.gate
    @at_least_single
    def matrix(self, x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
        return 1 - _products(jax.vmap(_direction)(x), jax.vmap(_direction)(y))


class Geodesic(AbstractPointwiseCost):
    """The angle between unit vectors, in [0, pi]: the distance along the sphere.

    The points must have norm one; this is not checked. Accurate at all angles (Kahan's
    half-angle form). The derivative at coinciding and at opposite points is defined as zero.

    Example:
        >>> angle = tx.geometry.Geodesic()(jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0]))
        >>> round(float(angle), 4)  # a quarter circle
        1.5708
    """

    translation_invariant: ClassVar[bool] = False

    @_checks.gate
    @at_least_single
    def __call__(self, x: Point, y: Point) -> Scalar:
        return 2 * jnp.arctan2(_norm(x - y), _norm(x + y))


def _direction(x: Point) -> Point:
    """`x` scaled to norm one; zero, with derivative zero, where it is zero."""
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x)))
    zero = largest == 0
    scaled = jnp.where(zero, 1, x / jnp.where(zero, 1, largest))
    return jnp.where(zero, 0, scaled / _norm(scaled))


def _infinite_at_infinity(
    matrix: Callable[[Array, Array], Array], x: Float[Array, "n d"], y: Float[Array, "m d"]
) -> Float[Array, "n m"]:
    """Costs of all pairs, infinite with points at infinity, whose differences are no numbers."""
    far_x, far_y = (jnp.any(jnp.isinf(points), axis=1) for points in (x, y))
    x, y = jnp.where(far_x[:, None], 0, x), jnp.where(far_y[:, None], 0, y)
    beyond_x, beyond_y = (jnp.where(far, jnp.inf, jnp.zeros((), x.dtype)) for far in (far_x, far_y))
    return matrix(x, y) + (beyond_x[:, None] + beyond_y[None, :])


def _norm(x: Point) -> Scalar:
    """Euclidean norm with derivative zero, not NaN, at the origin; NaN stays NaN.

    Coordinates are divided by the largest first: then their squares neither overflow nor vanish.
    """
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x)))
    scalable = (largest != 0) & (largest != jnp.inf)
    scale = jnp.where(scalable, largest, 1)
    square = jnp.sum((x / scale) ** 2)
    nonzero = square != 0
    return jnp.where(nonzero, scale * jnp.sqrt(jnp.where(nonzero, square, 1)), 0)


def _distances(x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
    """All Euclidean distances, by differences; with `_norm`'s derivative where they are zero.

    Gaps are squared in units of the larger point, a power of two: no square leaves the range of
    numbers, and an outlier changes the units of its own pairs alone.
    """
    units = jnp.maximum(_unit(x)[:, None], _unit(y)[None, :])
    if x.shape[1] <= FEW_COORDINATES:
        gaps = (xk[:, None] - yk[None, :] for xk, yk in zip(x.T, y.T, strict=True))
        squares = functools.reduce(jnp.add, ((gap / units) ** 2 for gap in gaps))
    else:
        gaps = x[:, None, :] - y[None, :, :]
        squares = jnp.sum((gaps / units[:, :, None]) ** 2, axis=2)
    apart = squares != 0
    return jnp.where(apart, units * jnp.sqrt(jnp.where(apart, squares, 1)), 0)


def _unit(points: Float[Array, "n d"]) -> Float[Array, " n"]:
    """The power of two next above the largest coordinate of each point."""
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(points), axis=1))
    _, exponents = jnp.frexp(largest)
    most = jnp.finfo(points.dtype).maxexp - 2
    return jnp.ldexp(jnp.ones_like(largest), jnp.clip(exponents, -most, most))


def _products(x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
    """All inner products, in full precision on every platform."""
    return jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)
