"""Derivatives of the optimal multiplier in everything that a problem holds."""

import jax
import jax.numpy as jnp

from transportx.control._coordinates import coordinates, slope_and_hessian
from transportx.control._problem import Matrix, Scalar, SteeringProblem


@jax.custom_jvp
def optimal_multiplier(problem: SteeringProblem, P: Matrix, level: Scalar) -> Matrix:
    """The multiplier as it is, with the derivatives of the optimum at a fixed temperature."""
    return P


@optimal_multiplier.defjvp
def _optimal_multiplier_jvp(primals, tangents):
    """Differentiate the condition that the last covariance is the best one, and solve."""
    problem, P, level = primals
    P = optimal_multiplier(problem, P, level)
    frame = jax.lax.stop_gradient(coordinates(problem))
    z = frame.vector(P)
    _, hessian = slope_and_hessian(problem, frame, z, level)
    _, right = jax.jvp(lambda p: frame.slope(p, z, level), (problem,), tangents[:1])
    return P, frame.multiplier(-jnp.linalg.solve(hessian, right))
