"""Kernels k(x, y) that are functions of the distance, and any others."""

import abc
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from transportx import _checks
from transportx.geometry import AbstractCost
from transportx.geometry.internal import ResolvedSquares

Point = Float[Array, " d"]
Scalar = Float[Array, ""]
Kernel = AbstractCost | Callable[[Array, Array], Array]


class AbstractRadialKernel(AbstractCost):
    r"""$k(x, y) = \phi(|x - y|^2)$: a subclass writes `profile`, which is phi.

    Sums over pairs, with their derivatives by the points, then take one pass over the pairs.
    `squares` is how distances between clouds are computed. A kernel that underflows far away
    overrides `log_profile`, by which averages take it.
    """

    squares: ClassVar[AbstractCost] = ResolvedSquares()
    translation_invariant: ClassVar[bool] = True

    @_checks.gate
    def wants_centring(self, dim: int) -> bool:
        return self.squares.wants_centring(dim)

    @abc.abstractmethod
    def profile(self, squares: Float[Array, "..."]) -> Float[Array, "..."]:
        """Phi of every entry, differentiable also where it is zero."""

    @_checks.gate
    def profile_and_slope(self, squares: Float[Array, "..."]) -> tuple[Array, Array]:
        """Phi and its derivative, entry by entry."""
        return jax.jvp(self.profile, (squares,), (jnp.ones_like(squares),))

    @_checks.gate
    def log_profile(self, squares: Float[Array, "..."]) -> Float[Array, "..."]:
        """The logarithm of phi, entry by entry; NaN where phi is negative."""
        return jnp.log(self.profile(squares))

    @_checks.gate
    def __call__(self, x: Point, y: Point) -> Scalar:
        return self.profile(jnp.sum((x - y) ** 2))

    @_checks.gate
    def matrix(self, x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
        return self.profile(self.squares.matrix(x, y))


@_checks.gate
class Gaussian(AbstractRadialKernel):
    r"""$k(x, y) = \exp(-|x - y|^2 / 2 h^2)$.

    Attributes:
        bandwidth: h, in units of the points; may be traced.

    Example:
        >>> kernel = tx.gradient_flows.Gaussian(1.0)
        >>> round(float(kernel(jnp.zeros(1), jnp.array([2.0]))), 3)  # exp(-2)
        0.135
    """

    bandwidth: ScalarLike

    def __check_init__(self):
        _checks.positive("bandwidth", self.bandwidth)

    @_checks.gate
    def profile(self, squares: Float[Array, "..."]) -> Float[Array, "..."]:
        return jnp.exp(squares * self.rate.astype(squares.dtype))

    @_checks.gate
    def log_profile(self, squares: Float[Array, "..."]) -> Float[Array, "..."]:
        return squares * self.rate.astype(squares.dtype)

    @property
    def rate(self) -> Scalar:
        """The derivative of `profile` over itself, -1 / 2 h^2."""
        width = _checks.positive_value("bandwidth", self.bandwidth, None)
        return -1 / (2 * width**2)


@_checks.gate
class Laplace(AbstractRadialKernel):
    r"""$k(x, y) = \exp(-|x - y| / h)$, the kernel that drifting is published with.

    Its derivative is taken as zero where x = y.

    Attributes:
        bandwidth: h, in units of the points; may be traced.

    Example:
        >>> kernel = tx.gradient_flows.Laplace(1.0)
        >>> round(float(kernel(jnp.zeros(1), jnp.array([2.0]))), 3)  # exp(-2)
        0.135
    """

    bandwidth: ScalarLike

    def __check_init__(self):
        _checks.positive("bandwidth", self.bandwidth)

    @_checks.gate
    def profile(self, squares: Float[Array, "..."]) -> Float[Array, "..."]:
        return jnp.exp(self.log_profile(squares))

    @_checks.gate
    def log_profile(self, squares: Float[Array, "..."]) -> Float[Array, "..."]:
        width = _checks.positive_value("bandwidth", self.bandwidth, squares.dtype)
        return NegativeDistance().profile(squares) / width

    @_checks.gate
    def profile_and_slope(self, squares: Float[Array, "..."]) -> tuple[Array, Array]:
        width = _checks.positive_value("bandwidth", self.bandwidth, squares.dtype)
        logs, slopes = NegativeDistance().profile_and_slope(squares)
        values = jnp.exp(logs / width)
        return values, values * slopes / width


@_checks.gate
class InverseMultiquadric(AbstractRadialKernel):
    r"""$k(x, y) = (1 + |x - y|^2 / h^2)^{-1/2}$: its tail reaches points far from the target.

    Attributes:
        bandwidth: h, in units of the points; may be traced.
    """

    bandwidth: ScalarLike

    def __check_init__(self):
        _checks.positive("bandwidth", self.bandwidth)

    @_checks.gate
    def profile(self, squares: Float[Array, "..."]) -> Float[Array, "..."]:
        width = _checks.positive_value("bandwidth", self.bandwidth, squares.dtype)
        return jax.lax.rsqrt(1 + squares / width**2)

    @_checks.gate
    def log_profile(self, squares: Float[Array, "..."]) -> Float[Array, "..."]:
        width = _checks.positive_value("bandwidth", self.bandwidth, squares.dtype)
        return -jnp.log1p(squares / width**2) / 2


class NegativeDistance(AbstractRadialKernel):
    """-|x - y|, the kernel of the energy distance; derivative zero where x = y."""

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
