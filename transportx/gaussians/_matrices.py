"""Square roots of covariances, differentiable to any order at repeated eigenvalues."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from transportx import _checks
from transportx._precision import single_inside

Matrix = Float[Array, "d d"]


@_checks.gate
@single_inside
def sqrtm(matrix: Matrix) -> Matrix:
    """Principal square root of a symmetric positive semidefinite matrix.

    Args:
        matrix: Symmetric positive semidefinite, shape (d, d); the root of any other is NaN.

    Returns:
        The symmetric positive semidefinite R with R R = matrix.

    Differentiation:
        Forward, reverse and higher orders, through the Sylvester equation
        R dR + dR R = dM, which stays regular where eigenvalues coincide. At a singular
        matrix the derivative is that along its range.

    Example:
        >>> root = tx.gaussians.sqrtm(jnp.array([[5.0, 4.0], [4.0, 5.0]]))
        >>> np.asarray(root).round(2).tolist()
        [[2.0, 1.0], [1.0, 2.0]]
    """
    return _root(matrix)


@jax.custom_jvp
def _root(matrix: Matrix) -> Matrix:
    values, vectors = jnp.linalg.eigh(matrix)
    # Eigenvalues below zero by rounding are zero; by more, there is no root.
    slack = matrix.shape[0] * jnp.finfo(matrix.dtype).eps * jnp.max(jnp.abs(values))
    bad = (values < -slack) | ~is_symmetric(matrix)
    roots = jnp.where(bad, jnp.nan, jnp.sqrt(jnp.maximum(values, 0)))
    return (vectors * roots[None, :]) @ vectors.T


@_root.defjvp
def _root_jvp(primals, tangents):
    (matrix,), (tangent,) = primals, tangents
    root = _root(matrix)
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
    """The symmetric part (M + M^T) / 2, which removes what rounding added."""
    return (matrix + matrix.T) / 2


def is_symmetric(matrix: Matrix) -> Bool[Array, ""]:
    """Whether a matrix is symmetric up to 1e-3 of its largest entry, as one stored in a half is."""
    slack = 1e-3 * jnp.max(jnp.abs(matrix))
    return jnp.max(jnp.abs(matrix - matrix.T)) <= slack


def is_covariance(matrix: Matrix) -> Bool[Array, ""]:
    """Whether a matrix is symmetric and positive semidefinite, up to rounding."""
    size = matrix.shape[0]
    slack = size * jnp.finfo(matrix.dtype).eps * jnp.max(jnp.abs(jnp.diagonal(matrix)))
    slack = jnp.maximum(slack, jnp.finfo(matrix.dtype).tiny)
    root = jnp.linalg.cholesky(matrix + slack * jnp.eye(size, dtype=matrix.dtype))
    return is_symmetric(matrix) & jnp.all(jnp.isfinite(root))
