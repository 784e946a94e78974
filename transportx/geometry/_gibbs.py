"""Gibbs kernels exp((f_i + g_j - C_ij) / epsilon) as linear operators."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from transportx import _checks
from transportx.geometry import _gibbs_sums
from transportx.geometry._geometries import AbstractGeometry

Scalar = Float[Array, ""]


class AbstractKernel(eqx.Module):
    """An (n, m) matrix known by its products."""

    @property
    @abc.abstractmethod
    def T(self) -> "AbstractKernel":
        """The transposed kernel."""

    @abc.abstractmethod
    def __matmul__(self, v: Float[Array, "m *k"]) -> Float[Array, "n *k"]:
        """Product with a vector (m,) or with columns (m, k)."""


@_checks.gate
class DenseKernel(AbstractKernel):
    """A kernel held as a matrix, or as its transpose.

    Attributes:
        matrix: The entries; those of the transposed kernel where `transposed`.
        transposed: Products then take the vector on the left: XLA would move the matrix.
    """

    matrix: Float[Array, "n m"]
    transposed: bool = eqx.field(static=True, default=False)

    @property
    def T(self) -> "DenseKernel":
        return DenseKernel(self.matrix, not self.transposed)

    def __matmul__(self, v: Float[Array, "m *k"]) -> Float[Array, "n *k"]:
        if self.transposed:
            return jnp.matmul(v.T, self.matrix, precision=jax.lax.Precision.HIGHEST).T
        return jnp.matmul(self.matrix, v, precision=jax.lax.Precision.HIGHEST)


@_checks.gate
class StreamedKernel(AbstractKernel):
    """A kernel whose entries are computed tile by tile at every product; O(n + m) memory.

    Of squared distances in float32 a TPU or an NVIDIA GPU takes them by one fused kernel.
    """

    geometry: AbstractGeometry
    f: Float[Array, " n"]
    g: Float[Array, " m"]
    epsilon: Scalar

    @property
    def T(self) -> "StreamedKernel":
        return StreamedKernel(self.geometry.T, self.g, self.f, self.epsilon)

    def __matmul__(self, v: Float[Array, "m *k"]) -> Float[Array, "n *k"]:
        return _gibbs_sums.product(self.geometry, self.f, self.g, self.epsilon, v)


@_checks.gate
def gibbs_kernel(
    geometry: AbstractGeometry, f: Float[Array, " n"], g: Float[Array, " m"], epsilon: Scalar
) -> AbstractKernel:
    """The kernel exp((f_i + g_j - C_ij) / epsilon): a matrix, or streamed like its geometry.

    Entries of infinite costs are zero, and have derivative zero.
    """
    if geometry.streams:
        return StreamedKernel(geometry, f, g, epsilon)
    return DenseKernel(_gibbs_sums.entries(geometry.working_matrix(), f, g, epsilon))
