"""Potentials to start from: those between Gaussians of the same moments."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from transportx import _checks, gaussians
from transportx.geometry import PointCloud
from transportx.ot._problem import Potentials


@_checks.gate
def gaussian_potentials(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    a: Float[Array, " n"] | None = None,
    b: Float[Array, " m"] | None = None,
    *,
    epsilon: ScalarLike,
) -> Potentials:
    """Potentials of the entropic plan between Gaussians with the moments of two clouds.

    For the cost |x - y|^2 and enforced marginals. Pass them to ``solve(..., init=...)`` to
    start at `epsilon` itself: exact for Gaussians, near for clouds of one bulk, of no use
    for separate clusters. O((n + m) d^2 + d^3).

    Args:
        x: Source points, shape (n, d).
        y: Target points, shape (m, d).
        a: Source weights, shape (n,); uniform by default.
        b: Target weights, shape (m,); uniform by default.
        epsilon: Regularisation, in units of the cost.

    Returns:
        (f, g), of shapes (n,) and (m,).

    Example:
        >>> x, y = jr.normal(jr.key(0), (8, 2)), jr.normal(jr.key(1), (8, 2)) + 1.0
        >>> init = tx.ot.gaussian_potentials(x, y, epsilon=0.5)
        >>> plan = tx.ot.solve(tx.geometry.PointCloud(x, y), epsilon=0.5, init=init)
        >>> bool(plan.converged)
        True

    References:
        Thornton and Cuturi, Rethinking initialization of the Sinkhorn algorithm, 2023.
    """
    PointCloud(x, y)
    _checks.positive("epsilon", epsilon)
    moments = *_moments(x, a), *_moments(y, b)
    plan = gaussians.entropic_plan(*moments, epsilon=epsilon)
    return jax.vmap(plan.f)(x), jax.vmap(plan.g)(y)


def _moments(points, weights):
    n, d = points.shape
    shares = jnp.full(n, 1 / n, points.dtype) if weights is None else weights / jnp.sum(weights)
    mean = shares @ points
    gaps = points - mean[None, :]
    covariance = (gaps * shares[:, None]).T @ gaps
    # Clouds may lie in a plane; a little of their size keeps every matrix positive.
    floor = 1e-6 * jnp.trace(covariance) / d
    return mean, covariance + floor * jnp.eye(d, dtype=points.dtype)
