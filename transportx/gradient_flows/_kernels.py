"""Kernels k(x, y) and sums of them over two clouds, streamed."""

from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from transportx import _checks
from transportx.geometry import AbstractCost, Euclidean, PointCloud, SquaredEuclidean

Point = Float[Array, " d"]
Scalar = Float[Array, ""]
Kernel = AbstractCost | Callable[[Array, Array], Array]


class Gaussian(AbstractCost):
    r"""$k(x, y) = \exp(-|x - y|^2 / 2 h^2)$.

    Attributes:
        bandwidth: h, in units of the points; may be traced.
    """

    bandwidth: ScalarLike
    translation_invariant: ClassVar[bool] = True

    def __check_init__(self):
        _checks.positive("bandwidth", self.bandwidth)

    def __call__(self, x: Point, y: Point) -> Scalar:
        return self._of(SquaredEuclidean()(x, y))

    def matrix(self, x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
        return self._of(SquaredEuclidean().matrix(x, y))

    def _of(self, squares: Array) -> Array:
        return jnp.exp(squares * (-1 / (2 * jnp.asarray(self.bandwidth, squares.dtype) ** 2)))


class InverseMultiquadric(AbstractCost):
    r"""$k(x, y) = (1 + |x - y|^2 / h^2)^{-1/2}$: its tail reaches points far from the target.

    Attributes:
        bandwidth: h, in units of the points; may be traced.
    """

    bandwidth: ScalarLike
    translation_invariant: ClassVar[bool] = True

    def __check_init__(self):
        _checks.positive("bandwidth", self.bandwidth)

    def __call__(self, x: Point, y: Point) -> Scalar:
        return self._of(SquaredEuclidean()(x, y))

    def matrix(self, x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
        return self._of(SquaredEuclidean().matrix(x, y))

    def _of(self, squares: Array) -> Array:
        return jax.lax.rsqrt(1 + squares / jnp.asarray(self.bandwidth, squares.dtype) ** 2)


class NegativeDistance(AbstractCost):
    """-|x - y|, the kernel of the energy distance; derivative zero where x = y."""

    translation_invariant: ClassVar[bool] = True

    def __call__(self, x: Point, y: Point) -> Scalar:
        return -Euclidean()(x, y)

    def matrix(self, x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
        return -Euclidean().matrix(x, y)


def double_sum(
    kernel: Kernel,
    x: Float[Array, "n d"],
    a: Float[Array, " n"],
    y: Float[Array, "m d"],
    b: Float[Array, " m"],
) -> Scalar:
    """sum_ij a_i b_j k(x_i, y_j): O(n m) operations, O(n + m) memory where it streams."""
    return jnp.sum(a * product(kernel, x, y, b))


def product(
    kernel: Kernel, x: Float[Array, "n d"], y: Float[Array, "m d"], v: Float[Array, "m *k"]
) -> Float[Array, "n *k"]:
    """The kernel's matrix times a vector or columns, tile by tile."""
    highest = jax.lax.Precision.HIGHEST
    return PointCloud(x, y, kernel).map_tiles(lambda k: jnp.matmul(k, v, precision=highest))
