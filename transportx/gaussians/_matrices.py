"""Square roots of covariances, differentiable to any order at repeated eigenvalues."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from transportx import _checks

Matrix = Float[Array, "d d"]


@_checks.gate
def sqrtm(matrix: Matrix) -> Matrix:
    """Principal square root of a symmetric positive semidefinite matrix.

    Differentiation:
        Forward, reverse and higher orders, through the Sylvester equation
        R dR + dR R = dM, which stays regular where eigenvalues coincide. At a singular
        matrix the derivative is that along its range.
    """
    return _sqrtm(matrix)


@jax.custom_jvp
def _sqrtm(matrix: Matrix) -> Matrix:
    values, vectors = jnp.linalg.eigh(matrix)
    # Eigenvalues below zero by rounding are zero; by more, there is no root.
    slack = matrix.shape[0] * jnp.finfo(matrix.dtype).eps * jnp.max(jnp.abs(values))
    roots = jnp.where(values < -slack, jnp.nan, jnp.sqrt(jnp.maximum(values, 0)))
    return (vectors * roots[None, :]) @ vectors.T


@_sqrtm.defjvp
def _sqrtm_jvp(primals, tangents):
    (matrix,), (tangent,) = primals, tangents
    root = _sqrtm(matrix)
    return root, sylvester(root, (tangent + tangent.T) / 2)


def sylvester(root: Matrix, right: Matrix) -> Matrix:
    """Solve ``root Y + Y root = right`` for symmetric positive semidefinite `root`."""

    def solve(_, right):
        values, vectors = jnp.linalg.eigh(jax.lax.stop_gradient(root))
        sums = values[:, None] + values[None, :]
        slack = root.shape[0] * jnp.finfo(root.dtype).eps * jnp.max(jnp.abs(values))
        regular = sums > slack
        turned = vectors.T @ right @ vectors
        return vectors @ jnp.where(regular, turned / jnp.where(regular, sums, 1), 0) @ vectors.T

    # Differentiated and transposed as an equation, so that no order meets those of eigh.
    return jax.lax.custom_linear_solve(lambda Y: root @ Y + Y @ root, right, solve, symmetric=True)


def symmetric(matrix: Matrix) -> Matrix:
    """The symmetric part: removes what rounding added."""
    return (matrix + matrix.T) / 2
