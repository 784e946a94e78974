"""Kernels k(x, y) that are functions of the distance, and any others."""

import abc
from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from transportx import _checks
from transportx.geometry import AbstractCost, SquaredEuclidean

Point = Float[Array, " d"]
Scalar = Float[Array, ""]
# Where differences, one coordinate after the other, take less time than a product.
_FEW_COORDINATES = 8
Kernel = AbstractCost | Callable[[Array, Array], Array]


class AbstractRadialKernel(AbstractCost):
    r"""$k(x, y) = \phi(|x - y|^2)$: a subclass writes `profile`, which is phi.

    Sums over pairs, with their derivatives by the points, then take one pass over the pairs.
    `squares` is how distances between clouds are computed.
    """

    squares: eqx.AbstractClassVar[AbstractCost]
    translation_invariant: ClassVar[bool] = True

    @abc.abstractmethod
    def profile(self, squares: Float[Array, "..."]) -> Float[Array, "..."]:
        """Phi of every entry, differentiable also where it is zero."""

    @_checks.gate
    def profile_and_slope(self, squares: Float[Array, "..."]) -> tuple[Array, Array]:
        """Phi and its derivative, entry by entry."""
        return jax.jvp(self.profile, (squares,), (jnp.ones_like(squares),))

    @_checks.gate
    def __call__(self, x: Point, y: Point) -> Scalar:
        return self.profile(jnp.sum((x - y) ** 2))

    @_checks.gate
    def matrix(self, x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
        return self.profile(self.squares.matrix(x, y))


class _Expanded(AbstractCost):
    """Squared distances, those of more than a few coordinates by one product.

    Rounding may leave them below zero, where a smooth profile takes no harm.
    """

    translation_invariant: ClassVar[bool] = True

    def __call__(self, x: Point, y: Point) -> Scalar:
        return SquaredEuclidean()(x, y)

    def matrix(self, x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
        if x.shape[1] <= _FEW_COORDINATES:
            return SquaredEuclidean().matrix(x, y)
        norms_x, norms_y = (jnp.sum(z * z, axis=1, keepdims=True) for z in (x, y))
        left = jnp.concatenate([-2 * x, norms_x, jnp.ones_like(norms_x)], axis=1)
        right = jnp.concatenate([y, jnp.ones_like(norms_y), norms_y], axis=1)
        return jnp.matmul(left, right.T, precision=jax.lax.Precision.HIGHEST)


def _norms(x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
    return jnp.sum(x * x, axis=1)[:, None] + jnp.sum(y * y, axis=1)[None, :]


@_checks.gate
class Gaussian(AbstractRadialKernel):
    r"""$k(x, y) = \exp(-|x - y|^2 / 2 h^2)$.

    Attributes:
        bandwidth: h, in units of the points; may be traced.
    """

    bandwidth: ScalarLike
    squares: ClassVar[AbstractCost] = _Expanded()

    def __check_init__(self):
        _checks.positive("bandwidth", self.bandwidth)

    @_checks.gate
    def profile(self, squares: Float[Array, "..."]) -> Float[Array, "..."]:
        return jnp.exp(squares * self.rate.astype(squares.dtype))

    @property
    def rate(self) -> Scalar:
        """The derivative of `profile` over itself, -1 / 2 h^2."""
        width = _checks.positive_value("bandwidth", self.bandwidth, None)
        return -1 / (2 * width**2)


@_checks.gate
class InverseMultiquadric(AbstractRadialKernel):
    r"""$k(x, y) = (1 + |x - y|^2 / h^2)^{-1/2}$: its tail reaches points far from the target.

    Attributes:
        bandwidth: h, in units of the points; may be traced.
    """

    bandwidth: ScalarLike
    squares: ClassVar[AbstractCost] = SquaredEuclidean()

    def __check_init__(self):
        _checks.positive("bandwidth", self.bandwidth)

    @_checks.gate
    def profile(self, squares: Float[Array, "..."]) -> Float[Array, "..."]:
        width = _checks.positive_value("bandwidth", self.bandwidth, squares.dtype)
        return jax.lax.rsqrt(1 + squares / width**2)


class _Resolved(AbstractCost):
    """Squared distances, zero where rounding hides them: roots of the rest are meaningful."""

    translation_invariant: ClassVar[bool] = True

    def __call__(self, x: Point, y: Point) -> Scalar:
        return SquaredEuclidean()(x, y)

    def matrix(self, x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
        squares = _Expanded().matrix(x, y)
        rounding = 4 * jnp.finfo(x.dtype).eps * jax.lax.stop_gradient(_norms(x, y))
        return jnp.where(squares <= rounding, 0, squares)


class NegativeDistance(AbstractRadialKernel):
    """-|x - y|, the kernel of the energy distance; derivative zero where x = y."""

    squares: ClassVar[AbstractCost] = _Resolved()

    @_checks.gate
    def profile(self, squares: Float[Array, "..."]) -> Float[Array, "..."]:
        # NaN stays NaN.
        apart = squares != 0
        return -jnp.where(apart, jnp.sqrt(jnp.where(apart, squares, 1)), 0)

    @_checks.gate
    def profile_and_slope(self, squares: Float[Array, "..."]) -> tuple[Array, Array]:
        apart = squares != 0
        inverse = jnp.where(apart, jax.lax.rsqrt(jnp.where(apart, squares, 1)), 0)
        return -squares * inverse, -inverse / 2
