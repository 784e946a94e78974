"""Optimal transport and flow matching between two Gaussians, in closed form."""

import numbers

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from transportx import _checks
from transportx._precision import single_inside
from transportx.gaussians._matrices import is_covariance, sqrtm, symmetric
from transportx.gaussians._measures import AffineMap

Point = Float[Array, " d"]
Matrix = Float[Array, "d d"]
Scalar = Float[Array, ""]


@_checks.gate
@single_inside
def transport_map(m0: Point, S0: Matrix, m1: Point, S1: Matrix) -> AffineMap:
    """Optimal transport map from N(m0, S0) to N(m1, S1) for the cost |x - y|^2.

    Its matrix is $T = S_0^{-1/2} (S_0^{1/2} S_1 S_0^{1/2})^{1/2} S_0^{-1/2}$, symmetric. Where
    `S0` is singular, inverses are those on its range, and T is zero beyond; such a map exists
    only if the range of `S1` lies within that of `S0`, and is NaN otherwise. O(d^3).

    Args:
        m0: Source mean, shape (d,).
        S0: Source covariance, shape (d, d).
        m1: Target mean, shape (d,).
        S1: Target covariance, shape (d, d); may be singular.

    Returns:
        The map x -> m1 + T (x - m0) of one point (d,).

    Example:
        >>> m0, S0 = jnp.zeros(2), jnp.eye(2)
        >>> m1, S1 = jnp.array([3.0, 4.0]), 4 * jnp.eye(2)
        >>> push = tx.gaussians.transport_map(m0, S0, m1, S1)
        >>> push(jnp.array([1.0, 0.0]))
        Array([5., 4.], dtype=float32)

    References:
        Peyre and Cuturi, Computational Optimal Transport, 2019, remark 2.31.
    """
    check_ends(m0, S0, m1, S1)
    root, middle = _roots(S0, S1)
    beyond = _beyond_range(S0)
    lost = jnp.sum(beyond * S1)
    slack = 10 * m0.size * jnp.finfo(S1.dtype).eps * jnp.trace(S1)
    half = jnp.linalg.solve(root + beyond, middle)
    matrix = symmetric(jnp.linalg.solve(root + beyond, half.T))
    return AffineMap(m0, m1, jnp.where(lost <= slack, matrix, jnp.nan))


@_checks.gate
@single_inside
def bures_squared(S0: Matrix, S1: Matrix) -> Scalar:
    r"""Squared Bures distance $\mathrm{tr}(S_0 + S_1 - 2 (S_0^{1/2} S_1 S_0^{1/2})^{1/2})$.

    It is W2^2 between centred Gaussians. Zero up to rounding at equal matrices, and never
    below zero.

    Args:
        S0: First covariance, shape (d, d).
        S1: Second covariance, shape (d, d).

    Example:
        >>> round(float(tx.gaussians.bures_squared(jnp.eye(2), 4 * jnp.eye(2))), 3)
        2.0
    """
    _checks.same_shape("S1", S1, "S0", S0)
    _, middle = _roots(S0, S1)
    distance = jnp.trace(S0) + jnp.trace(S1) - 2 * jnp.trace(middle)
    return jnp.where(distance < 0, 0, distance)


@_checks.gate
@single_inside
def wasserstein2_squared(m0: Point, S0: Matrix, m1: Point, S1: Matrix) -> Scalar:
    """Squared 2-Wasserstein distance between N(m0, S0) and N(m1, S1).

    $W_2^2 = |m_0 - m_1|^2$ plus the squared Bures distance of the covariances. For any two
    laws with these moments it is a lower bound (Gelbrich, 1990).

    Args:
        m0: Source mean, shape (d,).
        S0: Source covariance, shape (d, d).
        m1: Target mean, shape (d,).
        S1: Target covariance, shape (d, d).

    Example:
        >>> m0, S0 = jnp.zeros(2), jnp.eye(2)
        >>> m1, S1 = jnp.array([3.0, 4.0]), 4 * jnp.eye(2)
        >>> round(float(tx.gaussians.wasserstein2_squared(m0, S0, m1, S1)), 3)  # 25 + 2
        27.0

    References:
        Peyre and Cuturi, Computational Optimal Transport, 2019, remark 2.31.
    """
    check_ends(m0, S0, m1, S1)
    return jnp.sum((m0 - m1) ** 2) + bures_squared(S0, S1)


@_checks.gate
@single_inside
def wasserstein2(m0: Point, S0: Matrix, m1: Point, S1: Matrix) -> Scalar:
    """2-Wasserstein distance between N(m0, S0) and N(m1, S1).

    Args:
        m0: Source mean, shape (d,).
        S0: Source covariance, shape (d, d).
        m1: Target mean, shape (d,).
        S1: Target covariance, shape (d, d).

    Differentiation:
        With respect to all arguments; at equal laws the derivative is taken as zero.

    Example:
        >>> m0, S0 = jnp.zeros(2), jnp.eye(2)
        >>> m1, S1 = jnp.array([3.0, 4.0]), 4 * jnp.eye(2)
        >>> round(float(tx.gaussians.wasserstein2(m0, S0, m1, S0)), 3)
        5.0
    """
    square = wasserstein2_squared(m0, S0, m1, S1)
    apart = square > 0
    root = jnp.sqrt(jnp.where(apart, square, 1))
    return jnp.where(apart, root, 0 * square)


@_checks.gate
@single_inside
def geodesic(t: ScalarLike, m0: Point, S0: Matrix, m1: Point, S1: Matrix) -> tuple[Point, Matrix]:
    """Mean and covariance at time t of McCann's displacement interpolation between Gaussians.

    $S_t = ((1-t) I + t T) S_0 ((1-t) I + t T)$ with T the matrix of the optimal map, and NaN
    where there is none (`transport_map`).

    Args:
        t: Time in [0, 1]; outside, a Python number is refused and a traced one gives NaN.
        m0: Mean at time 0, shape (d,).
        S0: Covariance at time 0, shape (d, d).
        m1: Mean at time 1, shape (d,).
        S1: Covariance at time 1, shape (d, d).

    Returns:
        Mean (d,) and covariance (d, d).

    Example:
        >>> m0, S0 = jnp.zeros(2), jnp.eye(2)
        >>> m1, S1 = jnp.array([3.0, 4.0]), 4 * jnp.eye(2)
        >>> mean, covariance = tx.gaussians.geodesic(0.5, m0, S0, m1, S1)
        >>> mean, round(float(covariance[0, 0]), 3)
        (Array([1.5, 2. ], dtype=float32), 2.25)

    References:
        McCann, A convexity principle for interacting gases, 1997.
    """
    matrix = transport_map(m0, S0, m1, S1).matrix
    t = unit_time(t, m0.dtype)
    blend = (1 - t) * jnp.eye(m0.size, dtype=m0.dtype) + t * matrix
    return (1 - t) * m0 + t * m1, blend @ S0 @ blend


@_checks.gate
@single_inside
def flow_matching_field(
    coefficients: tuple[Scalar, Scalar, Scalar],
    rates: tuple[Scalar, Scalar, Scalar],
    m0: Point,
    S0: Matrix,
    m1: Point,
    S1: Matrix,
    cross: Matrix | None = None,
) -> AffineMap:
    r"""Flow-matching velocity of x_t = alpha x0 + beta x1 + gamma z between Gaussians, at one time.

    $v(x) = E[\dot x_t \mid x_t = x] = \dot m_t + \mathrm{Cov}(\dot x_t, x_t) S_t^{-1} (x - m_t)$
    with $S_t = \alpha^2 S_0 + \beta^2 S_1 + \alpha\beta (G + G^\top) + \gamma^2 I$.

    Args:
        coefficients: (alpha, beta, gamma) at that time.
        rates: Their time derivatives.
        m0: Source mean, shape (d,).
        S0: Source covariance, shape (d, d).
        m1: Target mean, shape (d,).
        S1: Target covariance, shape (d, d).
        cross: G = Cov(x0, x1) of the coupling, shape (d, d); independent ends by default.

    Returns:
        The velocity, an affine map of one point (d,).

    Example:
        >>> m0, S0 = jnp.zeros(2), jnp.eye(2)
        >>> m1, S1 = jnp.array([3.0, 4.0]), 4 * jnp.eye(2)
        >>> coefficients, rates = tx.interpolants.Linear().rates(jnp.array(0.5))
        >>> field = tx.gaussians.flow_matching_field(coefficients, rates, m0, S0, m1, S1)
        >>> field(jnp.array([1.5, 2.0]))
        Array([3., 4.], dtype=float32)

    References:
        Albergo, Boffi and Vanden-Eijnden, Stochastic Interpolants, 2023, appendix A.
    """
    check_ends(m0, S0, m1, S1)
    alpha, beta, gamma = coefficients
    alpha_rate, beta_rate, gamma_rate = rates
    identity = jnp.eye(m0.size, dtype=m0.dtype)
    G = jnp.zeros_like(S0) if cross is None else cross
    _check_square("cross", G, m0.size)
    S0, S1 = (jnp.where(is_covariance(S), S, jnp.nan) for S in (S0, S1))
    covariance = alpha**2 * S0 + beta**2 * S1 + alpha * beta * (G + G.T) + gamma**2 * identity
    moving = (
        alpha_rate * alpha * S0
        + beta_rate * beta * S1
        + alpha_rate * beta * G
        + beta_rate * alpha * G.T
        + gamma_rate * gamma * identity
    )
    return AffineMap(
        alpha * m0 + beta * m1,
        alpha_rate * m0 + beta_rate * m1,
        jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(covariance), True), moving.T).T,
    )


def _roots(S0: Matrix, S1: Matrix) -> tuple[Matrix, Matrix]:
    """The roots of S0 and of S0^1/2 S1 S0^1/2.

    The product is a matrix times its transpose, so that rounding beside its own size is
    all that can make it indefinite; and a bad `S1` is seen also where `S0` is singular.
    """
    root = sqrtm(S0)
    half = root @ sqrtm(S1)
    return root, sqrtm(symmetric(half @ half.T))


def _beyond_range(S0: Matrix) -> Matrix:
    """Projection on the directions in which a law has no spread; zero where it has in all."""
    values, vectors = jnp.linalg.eigh(jax.lax.stop_gradient(S0))
    empty = values <= S0.shape[0] * jnp.finfo(S0.dtype).eps * jnp.max(jnp.abs(values))
    return (vectors * jnp.where(empty, 1, 0)[None, :].astype(S0.dtype)) @ vectors.T


def unit_time(t: ScalarLike, dtype) -> Scalar:
    """A time in [0, 1], and NaN where it is outside."""
    if isinstance(t, numbers.Real) and not 0 <= float(t) <= 1:
        _checks.reject("t", f"is {t}", "give a time in [0, 1]")
    time = jnp.asarray(t, dtype)
    return jnp.where((time >= 0) & (time <= 1), time, jnp.nan)


def check_ends(m0: Point, S0: Matrix, m1: Point, S1: Matrix) -> None:
    _checks.batch("m0", m0)
    _checks.same_shape("m1", m1, "m0", m0)
    _check_square("S0", S0, m0.size)
    _check_square("S1", S1, m0.size)


def _check_square(name: str, matrix: Matrix, size: int) -> None:
    if matrix.shape != (size, size):
        problem = f"has shape {matrix.shape} beside means of {size} coordinates"
        _checks.reject(name, problem, f"give a {size} x {size} covariance")
