"""Costs: what it takes to move one point onto another."""

import abc
import functools
import math
import numbers
from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from transportx import _checks
from transportx._precision import at_least_single

Point = Float[Array, " d"]
Scalar = Float[Array, ""]


def _norm(x: Point) -> Scalar:
    """Euclidean norm with derivative zero, not NaN, at the origin; NaN stays NaN.

    Of coordinates over the largest, whose squares neither overflow nor vanish.
    """
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x)))
    scalable = (largest != 0) & (largest != jnp.inf)
    scale = jnp.where(scalable, largest, 1)
    square = jnp.sum((x / scale) ** 2)
    nonzero = square != 0
    return jnp.where(nonzero, scale * jnp.sqrt(jnp.where(nonzero, square, 1)), 0)


def _distances(x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
    """All Euclidean distances, by differences; with `_norm`'s derivative where they are zero.

    Squares are of gaps in units of the larger point, a power of two: none leaves the range
    of numbers, and no outlier takes it from others.
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


class AbstractCost(eqx.Module):
    """A cost between two points, and all of them between two clouds.

    An infinite cost forbids a pair: plans put nothing there. `translation_invariant` says
    that moving both points by one vector changes nothing; geometries then centre their
    clouds where the cost `wants_centring`, which is what keeps float32 accurate far from the
    origin.
    """

    translation_invariant: eqx.AbstractVar[bool]

    @_checks.gate
    def wants_centring(self, dim: int) -> bool:
        """Whether costs in `dim` coordinates round less if points are near the origin.

        Not where differences of coordinates are taken first: these are as good anywhere.
        """
        del dim
        return self.translation_invariant

    @abc.abstractmethod
    def __call__(self, x: Point, y: Point) -> Scalar:
        """Cost of moving `x` onto `y`."""

    @abc.abstractmethod
    def matrix(self, x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
        """All costs between two clouds; O(n m d) operations, no (n, m, d) array."""


class AbstractPointwiseCost(AbstractCost):
    """A cost known only pair by pair: subclasses write `__call__` alone."""

    @_checks.gate
    def wants_centring(self, dim: int) -> bool:
        del dim
        return False

    @_checks.gate
    def matrix(self, x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
        return jax.vmap(lambda xi: jax.vmap(lambda yj: self(xi, yj))(y))(x)


# Up to this many coordinates squared distances are sums of squared differences, which fuse
# into what uses them and keep every digit; above, one matrix product.
FEW_COORDINATES = 8


class SquaredEuclidean(AbstractCost):
    """|x - y|^2, with no factor 1/2; the cost of W2.

    Of clouds with more than eight coordinates it is expanded into norms and a matrix
    product: fast, with rounding relative to |x|^2 + |y|^2.
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
    """|x - y|, the cost of W1. Its derivative where x = y is taken as zero."""

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
    """sum |x_i - y_i|^p, the p-th power of the p-norm distance.

    A power beyond the range of numbers is infinite: that pair carries nothing.

    Attributes:
        p: Exponent, at least 1 and finite; may be traced, and costs are then NaN at any other.
            It differentiates except where a coordinate of x equals that of y.
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
    """-<x, y>: optimal plans equal those of `SquaredEuclidean`, values do not."""

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
    """1 - <x, y> / (|x| |y|), in [0, 2]. A zero vector is at cost 1 from everything."""

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
    """Angle between unit vectors, in [0, pi]: distance along the sphere.

    The points must have norm one; this is not checked. Accurate at all angles
    (Kahan's half-angle form); the derivative at coinciding and at opposite points is taken
    as zero.
    """

    translation_invariant: ClassVar[bool] = False

    @_checks.gate
    @at_least_single
    def __call__(self, x: Point, y: Point) -> Scalar:
        return 2 * jnp.arctan2(_norm(x - y), _norm(x + y))


def _as_pytree(function: Callable[..., Array]) -> Callable[..., Array]:
    """A plain function as static structure, so that `jit` and `vmap` may return its cost."""
    plain = jax.tree_util.all_leaves([function])
    return jax.tree_util.Partial(function) if plain else function


@_checks.gate
class Pointwise(AbstractPointwiseCost):
    """Any callable `function(x, y) -> scalar` as a cost."""

    function: Callable[[Array, Array], Array] = eqx.field(converter=_as_pytree)
    translation_invariant: ClassVar[bool] = False

    @_checks.gate
    def __call__(self, x: Point, y: Point) -> Scalar:
        return self.function(x, y)


@_checks.gate
class Swapped(AbstractCost):
    """A cost with its two points exchanged: what the transpose of a geometry needs."""

    cost: AbstractCost

    def __init__(self, cost: AbstractCost):
        self.cost = cost

    @property
    def translation_invariant(self) -> bool:
        return self.cost.translation_invariant

    @_checks.gate
    def wants_centring(self, dim: int) -> bool:
        return self.cost.wants_centring(dim)

    @_checks.gate
    def __call__(self, x: Point, y: Point) -> Scalar:
        return self.cost(y, x)

    @_checks.gate
    def matrix(self, x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
        return self.cost.matrix(y, x).T


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
