"""Costs: what it takes to move one point onto another."""

import abc
import functools
from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from transportx import _checks

Point = Float[Array, " d"]
Scalar = Float[Array, ""]


def _norm(x: Point) -> Scalar:
    """Euclidean norm with derivative zero, not NaN, at the origin; NaN stays NaN."""
    square = jnp.sum(x * x)
    nonzero = square != 0
    return jnp.where(nonzero, jnp.sqrt(jnp.where(nonzero, square, 1)), 0)


def _products(x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
    """All inner products, in full precision on every platform."""
    return jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)


class AbstractCost(eqx.Module):
    """A cost between two points, and all of them between two clouds.

    `translation_invariant` says that moving both points by one vector changes nothing;
    geometries then centre their clouds, which is what keeps float32 accurate far from
    the origin.
    """

    translation_invariant: eqx.AbstractVar[bool]

    @abc.abstractmethod
    def __call__(self, x: Point, y: Point) -> Scalar:
        """Cost of moving `x` onto `y`."""

    @abc.abstractmethod
    def matrix(self, x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
        """All costs between two clouds; O(n m d) operations, no (n, m, d) array."""


class AbstractPointwiseCost(AbstractCost):
    """A cost known only pair by pair: subclasses write `__call__` alone."""

    @_checks.gate
    def matrix(self, x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
        return jax.vmap(lambda xi: jax.vmap(lambda yj: self(xi, yj))(y))(x)


# Up to this many coordinates squared distances are sums of squared differences, which fuse
# into what uses them and keep every digit; above, one matrix product.
_FEW_COORDINATES = 8


class SquaredEuclidean(AbstractCost):
    """|x - y|^2, with no factor 1/2; the cost of W2.

    Of clouds with more than eight coordinates it is expanded into norms and a matrix
    product: fast, with rounding relative to |x|^2 + |y|^2.
    """

    translation_invariant: ClassVar[bool] = True

    @_checks.gate
    def __call__(self, x: Point, y: Point) -> Scalar:
        return jnp.sum((x - y) ** 2)

    @_checks.gate
    def matrix(self, x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
        if x.shape[1] <= _FEW_COORDINATES:
            gaps = (xk[:, None] - yk[None, :] for xk, yk in zip(x.T, y.T, strict=True))
            return functools.reduce(jnp.add, (gap * gap for gap in gaps))
        squares = jnp.sum(x * x, axis=1)[:, None] + jnp.sum(y * y, axis=1)[None, :]
        costs = squares - 2 * _products(x, y)
        # Rounding may leave a negative cost. The clip is hidden from autodiff: a plain
        # maximum would halve the Hessian wherever x = y.
        return costs + jax.lax.stop_gradient(jnp.maximum(costs, 0) - costs)


class Euclidean(AbstractPointwiseCost):
    """|x - y|, the cost of W1. Its derivative where x = y is taken as zero."""

    translation_invariant: ClassVar[bool] = True

    @_checks.gate
    def __call__(self, x: Point, y: Point) -> Scalar:
        return _norm(x - y)


@_checks.gate
class PNorm(AbstractPointwiseCost):
    """sum |x_i - y_i|^p, the p-th power of the p-norm distance.

    Attributes:
        p: Exponent, at least 1; may be traced. It differentiates except where a
            coordinate of x equals that of y.
    """

    p: ScalarLike
    translation_invariant: ClassVar[bool] = True

    def __check_init__(self):
        _checks.exponent("p", self.p)

    @_checks.gate
    def __call__(self, x: Point, y: Point) -> Scalar:
        gap = jnp.abs(x - y)
        apart = gap != 0
        p = jnp.asarray(self.p, x.dtype)
        return jnp.sum(jnp.where(apart, jnp.where(apart, gap, 1) ** p, 0))


class Dot(AbstractCost):
    """-<x, y>: optimal plans equal those of `SquaredEuclidean`, values do not."""

    translation_invariant: ClassVar[bool] = False

    @_checks.gate
    def __call__(self, x: Point, y: Point) -> Scalar:
        return -jnp.sum(x * y)

    @_checks.gate
    def matrix(self, x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
        return -_products(x, y)


class Cosine(AbstractCost):
    """1 - <x, y> / (|x| |y|), in [0, 2]. A zero vector is at cost 1 from everything."""

    translation_invariant: ClassVar[bool] = False

    @_checks.gate
    def __call__(self, x: Point, y: Point) -> Scalar:
        return 1 - jnp.sum(_direction(x) * _direction(y))

    @_checks.gate
    def matrix(self, x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
        return 1 - _products(jax.vmap(_direction)(x), jax.vmap(_direction)(y))


class Geodesic(AbstractPointwiseCost):
    """Angle between unit vectors, in [0, pi]: distance along the sphere.

    The points must have norm one; this is not checked. Accurate at all angles
    (Kahan's half-angle form); the derivative at coinciding points is taken as zero.
    """

    translation_invariant: ClassVar[bool] = False

    @_checks.gate
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
    def __call__(self, x: Point, y: Point) -> Scalar:
        return self.cost(y, x)

    @_checks.gate
    def matrix(self, x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
        return self.cost.matrix(y, x).T


def _direction(x: Point) -> Point:
    """`x` scaled to norm one, and zero where it is zero."""
    norm = _norm(x)
    return x / jnp.where(norm > 0, norm, 1)
