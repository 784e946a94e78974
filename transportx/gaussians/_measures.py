"""Gaussian measures, their mixtures, and affine maps between them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from transportx import _checks
from transportx._precision import single_inside
from transportx.gaussians._matrices import is_symmetric
from transportx.geometry.internal import SumExp

Point = Float[Array, " d"]
Matrix = Float[Array, "d d"]
Scalar = Float[Array, ""]


@_checks.gate
class AffineMap(eqx.Module):
    """Affine map x -> offset + matrix (x - centre) of one point.

    Attributes:
        centre: Point from which the argument is measured, shape (d,).
        offset: Image of the centre, shape (d,).
        matrix: Linear part, shape (d, d).

    Example:
        >>> double = tx.gaussians.AffineMap(jnp.ones(2), jnp.zeros(2), 2 * jnp.eye(2))
        >>> double(jnp.array([2.0, 1.0]))
        Array([2., 0.], dtype=float32)
    """

    centre: Point
    offset: Point
    matrix: Matrix

    @_checks.gate
    def __call__(self, x: Point) -> Point:
        """Image of one point."""
        _checks.same_shape("x", x, "centre", self.centre)
        return self.offset + self.matrix @ (x - self.centre)


@_checks.gate
@single_inside
def log_density(x: Point, mean: Point, covariance: Matrix) -> Scalar:
    """Log-density of N(mean, covariance) at one point.

    Args:
        x: Point, shape (d,).
        mean: Mean, shape (d,).
        covariance: Positive-definite covariance, shape (d, d); any other gives NaN.

    Example:
        >>> value = tx.gaussians.log_density(jnp.zeros(1), jnp.zeros(1), jnp.eye(1))
        >>> round(float(value), 3)  # -log(2 pi) / 2
        -0.919
    """
    root = jnp.linalg.cholesky(covariance)
    root = jnp.where(is_symmetric(covariance), root, jnp.nan)
    white = jax.scipy.linalg.solve_triangular(root, x - mean, lower=True)
    log_volume = 2 * jnp.sum(jnp.log(jnp.diagonal(root))) + x.size * jnp.log(2 * jnp.pi)
    return -(jnp.sum(white**2) + log_volume) / 2


@_checks.gate
class Mixture(eqx.Module):
    """Gaussian mixture of k components.

    Attributes:
        weights: Shape (k,), non-negative, with sum one. A weight of zero removes its component; a
            negative one makes every answer NaN.
        means: One mean per component, shape (k, d).
        covariances: One positive-definite covariance per component, shape (k, d, d).

    Example:
        >>> means, covariances = jnp.array([[-4.0], [4.0]]), jnp.ones((2, 1, 1))
        >>> mixture = tx.gaussians.Mixture(jnp.array([0.5, 0.5]), means, covariances)
        >>> mixture.sample(key=jr.key(0), num=3).shape
        (3, 1)
        >>> score = jax.grad(mixture.log_density)(jnp.array([5.0]))
        >>> round(float(score[0]), 2)
        -1.0
    """

    weights: Float[Array, " k"]
    means: Float[Array, "k d"]
    covariances: Float[Array, "k d d"]

    def __check_init__(self):
        _checks.points("means", self.means)
        k, d = self.means.shape
        if self.weights.shape != (k,):
            problem = f"has shape {self.weights.shape}"
            _checks.reject("weights", problem, f"give one number per component, {(k,)}")
        if self.covariances.shape != (k, d, d):
            problem = f"has shape {self.covariances.shape}"
            _checks.reject("covariances", problem, f"give one matrix per component, {(k, d, d)}")

    @_checks.gate
    @single_inside
    def log_density(self, x: Point) -> Scalar:
        """Log-density at one point; its gradient is the score."""
        logs = jax.vmap(log_density, in_axes=(None, 0, 0))(x, self.means, self.covariances)
        weights = jnp.where(self.weights < 0, jnp.nan, self.weights)
        # Differentiable also in a weight of zero.
        peak, total = SumExp.part(weights, logs)
        return peak + jnp.log(total)

    @_checks.gate
    @single_inside
    def sample(self, *, key: PRNGKeyArray, num: int) -> Float[Array, "n d"]:
        """Draw `num` independent points."""
        _checks.count("num", num)
        component_key, noise_key = jr.split(key)
        valid = jnp.all(self.weights >= 0) & (jnp.sum(self.weights) > 0)
        components = jr.categorical(component_key, jnp.log(self.weights), shape=(num,))
        noise = jr.normal(noise_key, (num, self.means.shape[1]), self.means.dtype)
        noise = jnp.where(valid, noise, jnp.nan)
        roots = jnp.linalg.cholesky(self.covariances)[components]
        return self.means[components] + jnp.einsum("nij,nj->ni", roots, noise)
