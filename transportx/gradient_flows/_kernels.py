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

    def __call__(self, x: Point, y: Point) -> Scalar:
        return self.profile(jnp.sum((x - y) ** 2))

    def matrix(self, x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
        return self.profile(self.squares.matrix(x, y))


class Gaussian(AbstractRadialKernel):
    r"""$k(x, y) = \exp(-|x - y|^2 / 2 h^2)$.

    Attributes:
        bandwidth: h, in units of the points; may be traced.
    """

    bandwidth: ScalarLike
    squares: ClassVar[AbstractCost] = SquaredEuclidean()

    def __check_init__(self):
        _checks.positive("bandwidth", self.bandwidth)

    def profile(self, squares: Float[Array, "..."]) -> Float[Array, "..."]:
        return jnp.exp(squares * self.rate.astype(squares.dtype))

    @property
    def rate(self) -> Scalar:
        """The derivative of `profile` over itself, -1 / 2 h^2."""
        return -1 / (2 * jnp.asarray(self.bandwidth) ** 2)


class InverseMultiquadric(AbstractRadialKernel):
    r"""$k(x, y) = (1 + |x - y|^2 / h^2)^{-1/2}$: its tail reaches points far from the target.

    Attributes:
        bandwidth: h, in units of the points; may be traced.
    """

    bandwidth: ScalarLike
    squares: ClassVar[AbstractCost] = SquaredEuclidean()

    def __check_init__(self):
        _checks.positive("bandwidth", self.bandwidth)

    def profile(self, squares: Float[Array, "..."]) -> Float[Array, "..."]:
        return jax.lax.rsqrt(1 + squares / jnp.asarray(self.bandwidth, squares.dtype) ** 2)


class _Resolved(AbstractCost):
    """Squared distances, zero where rounding hides them: roots of the rest are meaningful."""

    translation_invariant: ClassVar[bool] = True

    def __call__(self, x: Point, y: Point) -> Scalar:
        return SquaredEuclidean()(x, y)

    def matrix(self, x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
        squares = SquaredEuclidean().matrix(x, y)
        norms = jnp.sum(x * x, axis=1)[:, None] + jnp.sum(y * y, axis=1)[None, :]
        hidden = squares <= 4 * jnp.finfo(x.dtype).eps * jax.lax.stop_gradient(norms)
        return jnp.where(hidden, 0, squares)


class NegativeDistance(AbstractRadialKernel):
    """-|x - y|, the kernel of the energy distance; derivative zero where x = y."""

    squares: ClassVar[AbstractCost] = _Resolved()

    def profile(self, squares: Float[Array, "..."]) -> Float[Array, "..."]:
        # NaN stays NaN.
        apart = squares != 0
        return -jnp.where(apart, jnp.sqrt(jnp.where(apart, squares, 1)), 0)
