"""The dual of the covariances: Riccati backward, moments forward, and what their ends miss."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from transportx.control._problem import Matrix, Scalar, SteeringProblem
from transportx.gaussians import sqrtm

_TERMS = 10  # of the series of a logarithm
_NEAR = 0.05  # where it replaces the logarithm


class Feedback(NamedTuple):
    r"""The Riccati recursion of a terminal cost <x, P x>.

    Attributes:
        gains: K of each step, shape (k, m, d).
        curvatures: $H = R + B^\top \Pi B$ of each step, shape (k, m, m), which the multiplier
            must leave positive definite.
        inverses: Inverses of the curvatures, shape (k, m, m).
        noise_cost: Sum of tr(Pi W) over the steps.
        first: Pi of the first state, shape (d, d).
    """

    gains: Float[Array, "k m d"]
    curvatures: Float[Array, "k m m"]
    inverses: Float[Array, "k m m"]
    noise_cost: Scalar
    first: Matrix


def riccati(problem: SteeringProblem, P: Matrix) -> Feedback:
    """The optimal feedback for a terminal cost <x, P x>, of any sign."""

    def back(after, matrices):
        A, B, noise = matrices
        curvature = problem.R + B.T @ after @ B
        right = jnp.concatenate([-B.T @ after @ A, jnp.eye(B.shape[1], dtype=B.dtype)], axis=1)
        gain, inverse = jnp.split(jnp.linalg.solve(curvature, right), [A.shape[1]], axis=1)
        before = symmetric(A.T @ after @ (A + B @ gain))
        return before, (gain, curvature, symmetric(inverse), jnp.sum(after * noise))

    system = problem.system
    matrices = system.A, system.B, system.noise
    first, (gains, curvatures, inverses, costs) = jax.lax.scan(back, P, matrices, reverse=True)
    return Feedback(gains, curvatures, inverses, jnp.sum(costs), first)


def symmetric(matrix: Array) -> Array:
    """The symmetric part, which removes what rounding added."""
    return (matrix + matrix.T) / 2


def source_covariance(problem: SteeringProblem, feedback: Feedback) -> Matrix:
    r"""$(\Sigma_a^{-1} + 2 \Pi_0 / \rho_a)^{-1}$, the best first covariance."""
    return _tilted(problem.source.covariance, problem.loose_a * feedback.first)


def target_covariance(problem: SteeringProblem, P: Matrix) -> Matrix:
    r"""$(\Sigma_b^{-1} - 2 P / \rho_b)^{-1}$, the best last covariance."""
    return _tilted(problem.target.covariance, -problem.loose_b * P)


def _tilted(covariance: Matrix, tilt: Matrix) -> Matrix:
    identity = jnp.eye(covariance.shape[0], dtype=covariance.dtype)
    return symmetric(jnp.linalg.solve(identity + 2 * covariance @ tilt, covariance))


def covariances(
    problem: SteeringProblem,
    gains: Float[Array, "k m d"],
    noise: Float[Array, "k m m"],
    first: Matrix,
) -> Float[Array, "k1 d d"]:
    """Covariances of the states under a feedback with noise of its own."""

    def forth(covariance, given):
        A, B, W, gain, own = given
        closed = A + B @ gain
        after = symmetric(closed @ covariance @ closed.T + B @ own @ B.T + W)
        return after, after

    system = problem.system
    given = system.A, system.B, system.noise, gains, noise
    _, later = jax.lax.scan(forth, first, given)
    return jnp.concatenate([first[None], later])


def mismatch(problem: SteeringProblem, P: Matrix, feedback: Feedback, level: Scalar) -> Matrix:
    """The last covariance less the best one: the gradient of the dual in P."""
    first = source_covariance(problem, feedback)
    made = covariances(problem, feedback.gains, level * feedback.inverses, first)
    return made[-1] - target_covariance(problem, P)


def dual(problem: SteeringProblem, P: Matrix, feedback: Feedback) -> Scalar:
    """The dual value of the covariances: a lower bound on what they cost."""
    source = _penalised(problem.source.covariance, feedback.first, problem.loose_a)
    target = _penalised(problem.target.covariance, -P, problem.loose_b)
    return source + target + feedback.noise_cost


def barrier(feedback: Feedback) -> Scalar:
    """Sum of log det H: what a temperature adds to the dual, but for a constant."""
    return jnp.sum(jnp.linalg.slogdet(feedback.curvatures)[1])


def is_inside(problem: SteeringProblem, P: Matrix, feedback: Feedback) -> Bool[Array, ""]:
    """Whether a multiplier is in the interior of the dual's domain."""
    source = _relative(problem.source.covariance, feedback.first, problem.loose_a)
    target = _relative(problem.target.covariance, -P, problem.loose_b)
    roots = [jnp.linalg.cholesky(each) for each in (feedback.curvatures, source, target)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(root)) for root in roots]))


def _relative(covariance: Matrix, tilt: Matrix, loose: Scalar) -> Matrix:
    root = sqrtm(covariance)
    return jnp.eye(root.shape[0], dtype=root.dtype) + 2 * loose * root @ tilt @ root


def _penalised(covariance: Matrix, tilt: Matrix, loose: Scalar) -> Scalar:
    r"""$\rho / 2 \log\det(I + 2 \Sigma \Pi / \rho)$, the least of rho KL + tr(Pi S) over S.

    It tends to tr(Sigma Pi) as the penalty grows: there by the series of the logarithm.
    """
    product = covariance @ tilt
    # A bound on the norm whose squares do not overflow.
    size = product.shape[0] * jnp.max(jnp.abs(jax.lax.stop_gradient(product)))
    near = 2 * loose * size < _NEAR
    identity = jnp.eye(product.shape[0], dtype=product.dtype)
    series = jnp.zeros_like(product)
    small = jnp.where(near, product, 0)
    for j in range(_TERMS, 0, -1):
        series = identity / j - 2 * loose * small @ series
    safe = jnp.where(near, 1, loose)
    far = jnp.linalg.slogdet(identity + 2 * safe * jnp.where(near, 0, product))[1] / (2 * safe)
    return jnp.where(near, jnp.trace(small @ series), far)
