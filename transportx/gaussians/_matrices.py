"""Square roots of covariances, differentiable to any order at repeated eigenvalues."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Matrix = Float[Array, "d d"]


@jax.custom_jvp
def sqrtm(matrix: Matrix) -> Matrix:
    """Principal square root of a symmetric positive semidefinite matrix.

    Differentiation:
        Forward, reverse and higher orders, through the Sylvester equation
        R dR + dR R = dM, which stays regular where eigenvalues coincide. At a singular
        matrix the derivative is that along its range.
    """
    values, vectors = jnp.linalg.eigh(matrix)
    # Eigenvalues below zero by rounding are zero; by more, there is no root.
    slack = matrix.shape[0] * jnp.finfo(matrix.dtype).eps * jnp.max(jnp.abs(values))
    roots = jnp.where(values < -slack, jnp.nan, jnp.sqrt(jnp.maximum(values, 0)))
    return (vectors * roots[None, :]) @ vectors.T


@sqrtm.defjvp
def _sqrtm_jvp(primals, tangents):
    (matrix,), (tangent,) = primals, tangents
    root = sqrtm(matrix)
    return root, sylvester(root, (tangent + tangent.T) / 2)


@jax.custom_jvp
def sylvester(root: Matrix, right: Matrix) -> Matrix:
    """Solve ``root Y + Y root = right`` for symmetric positive semidefinite `root`."""
    values, vectors = jnp.linalg.eigh(root)
    sums = values[:, None] + values[None, :]
    slack = root.shape[0] * jnp.finfo(root.dtype).eps * jnp.max(jnp.abs(values))
    regular = sums > slack
    turned = vectors.T @ right @ vectors
    solved = jnp.where(regular, turned / jnp.where(regular, sums, 1), 0)
    return vectors @ solved @ vectors.T


@sylvester.defjvp
def _sylvester_jvp(primals, tangents):
    (root, right), (root_tangent, right_tangent) = primals, tangents
    solution = sylvester(root, right)
    moved = root_tangent @ solution + solution @ root_tangent
    return solution, sylvester(root, right_tangent - moved)


def symmetric(matrix: Matrix) -> Matrix:
    """The symmetric part: removes what rounding added."""
    return (matrix + matrix.T) / 2
