"""Multipliers as vectors, in the units of the target; the gradient and Hessian of the dual."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from transportx.control._problem import Matrix, Scalar, SteeringProblem
from transportx.control._riccati import mismatch, riccati


class Coordinates(NamedTuple):
    """Symmetric matrices as vectors, whitened by a factor F of the target's covariance."""

    inverse: Matrix

    def multiplier(self, z: Float[Array, " s"]) -> Matrix:
        """P = F^-T Z F^-1."""
        return self.inverse.T @ unpacked(z, self.inverse.shape[0]) @ self.inverse

    def gradient(self, difference: Matrix) -> Float[Array, " s"]:
        """F^-1 D F^-T as a vector."""
        return _packed(self.whitened(difference))

    def whitened(self, covariance: Matrix) -> Matrix:
        """F^-1 S F^-T: the identity for the target's covariance."""
        return self.inverse @ covariance @ self.inverse.T

    def slope(
        self, problem: SteeringProblem, z: Float[Array, " s"], level: Scalar
    ) -> Float[Array, " s"]:
        """The gradient of the dual at a multiplier."""
        P = self.multiplier(z)
        return self.gradient(mismatch(problem, P, riccati(problem, P), level))

    def vector(self, P: Matrix) -> Float[Array, " s"]:
        """The coordinates of a multiplier."""
        root = jnp.linalg.inv(self.inverse)
        return _packed(root.T @ P @ root)


def coordinates(problem: SteeringProblem) -> Coordinates:
    """Those of the target of a problem."""
    root = jnp.linalg.cholesky(problem.target.covariance)
    identity = jnp.eye(root.shape[0], dtype=root.dtype)
    return Coordinates(jax.scipy.linalg.solve_triangular(root, identity, lower=True))


def _packed(matrix: Matrix) -> Float[Array, " s"]:
    """The lower triangle, off-diagonal entries times the root of two: an isometry."""
    rows, columns = np.tril_indices(matrix.shape[0])
    return _lengths(rows, columns, matrix) * (matrix + matrix.T)[rows, columns] / 2


def unpacked(z: Float[Array, " s"], size: int) -> Matrix:
    """The symmetric matrix that a vector stands for."""
    rows, columns = np.tril_indices(size)
    places = np.zeros((size, size), int)
    places[rows, columns] = places[columns, rows] = np.arange(rows.size)
    return (z / _lengths(rows, columns, z))[places]


def _lengths(rows: np.ndarray, columns: np.ndarray, like: Array) -> Float[Array, " s"]:
    return jnp.asarray(np.where(rows == columns, 1, np.sqrt(2)), like.dtype)


def slope_and_hessian(
    problem: SteeringProblem, frame: Coordinates, z: Float[Array, " s"], level: Scalar
) -> tuple[Float[Array, " s"], Float[Array, "s s"]]:
    """Gradient and Hessian of the dual, by one derivative for each coordinate."""

    def along(tangent):
        return jax.jvp(lambda z: frame.slope(problem, z, level), (z,), (tangent,))

    return jax.vmap(along, out_axes=(None, -1))(jnp.eye(z.size, dtype=z.dtype))
