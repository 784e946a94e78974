r"""The Schrodinger bridge between two Gaussians, in closed form.

With G the matrix of the entropic map at epsilon = 2 sigma^2 and $B_t = (1-t) I + t G$, the
bridge looks like McCann's geodesic, where G is the optimal map, with noise on top.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from transportx import _checks
from transportx._precision import single_inside
from transportx.gaussians._entropic import regression
from transportx.gaussians._matrices import sqrtm, symmetric
from transportx.gaussians._measures import AffineMap
from transportx.gaussians._transport import check_ends, unit_time

Point = Float[Array, " d"]
Matrix = Float[Array, "d d"]
Scalar = Float[Array, ""]


@_checks.gate
@single_inside
def bridge(
    t: ScalarLike, m0: Point, S0: Matrix, m1: Point, S1: Matrix, *, sigma: ScalarLike
) -> tuple[Point, Matrix]:
    r"""Mean and covariance at time t of the Schrodinger bridge between two Gaussians.

    The reference is dX = sigma dW. With G the matrix of the entropic map at epsilon =
    2 sigma^2 and $B_t = (1-t) I + t G$, the covariance is
    $S_t = B_t S_0 B_t + \sigma^2 t B_t$, which starts at `S0` and ends at `S1`. Covariances
    may be singular. O(d^3).

    Args:
        t: Time in [0, 1].
        m0: Source mean, shape (d,).
        S0: Source covariance, shape (d, d).
        m1: Target mean, shape (d,).
        S1: Target covariance, shape (d, d).
        sigma: Noise level of the reference, positive, in units of the points.

    Returns:
        Mean (d,) and covariance (d, d).

    Raises:
        ValueError: Shapes disagree, or a Python number does not fit: `sigma` is not positive
            and finite, or `t` is outside [0, 1]. Traced numbers that do not fit give NaN.

    Differentiation:
        With respect to all arguments, t included, to any order, where both covariances are
        positive definite.

    Example:
        >>> m0, S0 = jnp.zeros(2), jnp.eye(2)
        >>> m1, S1 = jnp.array([3.0, 4.0]), 4 * jnp.eye(2)
        >>> mean, covariance = tx.gaussians.bridge(1.0, m0, S0, m1, S1, sigma=1.0)
        >>> bool(jnp.allclose(covariance, S1, atol=1e-4)), mean
        (True, Array([3., 4.], dtype=float32))

    References:
        Bunne, Hsieh, Cuturi and Krause, The Schrodinger bridge between Gaussian measures
        has a closed form, 2023.
    """
    check_ends(m0, S0, m1, S1)
    t = unit_time(t, m0.dtype)
    sigma = _checks.positive_value("sigma", sigma, m0.dtype)
    blend = _blend(t, _slope(S0, S1, sigma))
    return (1 - t) * m0 + t * m1, blend @ S0 @ blend + sigma**2 * t * blend


@_checks.gate
@single_inside
def bridge_drift(
    t: ScalarLike, m0: Point, S0: Matrix, m1: Point, S1: Matrix, *, sigma: ScalarLike
) -> AffineMap:
    r"""Drift u at one time of the Schrodinger bridge dX = u(t, X) dt + sigma dW between Gaussians.

    $u(t, x) = m_1 - m_0 + U_t (x - m_t)$ with $U_t = (G - I) B_t^{-1}$ symmetric, so that
    $\dot S = U S + S U + \sigma^2 I$ and, because no force acts, $\dot U = -U^2$; G and $B_t$
    are those of `bridge`. At time 1 `S1` must be positive definite. O(d^3).

    Args:
        t: Time in [0, 1].
        m0: Source mean, shape (d,).
        S0: Source covariance, shape (d, d).
        m1: Target mean, shape (d,).
        S1: Target covariance, shape (d, d).
        sigma: Noise level of the reference, positive, in units of the points.

    Returns:
        The drift, an affine map of one point (d,).

    Raises:
        ValueError: Shapes disagree, or a Python number does not fit: `sigma` is not positive
            and finite, or `t` is outside [0, 1]. Traced numbers that do not fit give NaN.

    Differentiation:
        With respect to all arguments, t included, to any order, where both covariances are
        positive definite.

    Example:
        >>> m0, S0 = jnp.zeros(2), jnp.eye(2)
        >>> m1, S1 = jnp.array([3.0, 4.0]), 4 * jnp.eye(2)
        >>> drift = tx.gaussians.bridge_drift(0.0, m0, S0, m1, S1, sigma=1.0)
        >>> drift(m0)
        Array([3., 4.], dtype=float32)

    References:
        Bunne, Hsieh, Cuturi and Krause, The Schrodinger bridge between Gaussian measures
        has a closed form, 2023.
    """
    check_ends(m0, S0, m1, S1)
    t = unit_time(t, m0.dtype)
    sigma = _checks.positive_value("sigma", sigma, m0.dtype)
    slope = _slope(S0, S1, sigma)
    matrix = jnp.linalg.solve(_blend(t, slope), slope - jnp.eye(m0.size, dtype=m0.dtype))
    return AffineMap((1 - t) * m0 + t * m1, m1 - m0, symmetric(matrix))


def _slope(S0: Matrix, S1: Matrix, sigma: Scalar) -> Matrix:
    """Matrix G of the static problem's entropic map."""
    return regression(sqrtm(S0), sqrtm(S1), 2 * sigma**2)[0]


def _blend(t: Scalar, slope: Matrix) -> Matrix:
    return (1 - t) * jnp.eye(slope.shape[0], dtype=slope.dtype) + t * slope
