r"""Unbalanced transport between two Gaussians of any masses, in closed form.

A normalised plan pays penalties and entropy together through its marginals, each counting
$\rho_i + \varepsilon = 2 / w_i$, and is an entropic plan between them. Its mass is then a
problem of one number.
"""

import math
import numbers

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import xlogy
from jaxtyping import Array, Float, ScalarLike

from transportx import _checks
from transportx._precision import single_inside
from transportx.gaussians._matrices import sqrtm, symmetric
from transportx.gaussians._transport import check_ends

Point = Float[Array, " d"]
Matrix = Float[Array, "d d"]
Scalar = Float[Array, ""]


@_checks.gate
class UnbalancedGaussianPlan(eqx.Module):
    """Optimal unbalanced plan between two Gaussians: a mass times a Gaussian on pairs (x, y).

    Attributes:
        value: Regularised optimum.
        mass: Total mass of the plan.
        m0: Mean of its source marginal, shape (d,).
        S0: Covariance of its source marginal, shape (d, d).
        m1: Mean of its target marginal, shape (d,).
        S1: Covariance of its target marginal, shape (d, d).
        cross: Cov(x, y) under the normalised plan, shape (d, d).

    Example:
        >>> m0, S0 = jnp.zeros(2), jnp.eye(2)
        >>> m1, S1 = jnp.array([3.0, 4.0]), 4 * jnp.eye(2)
        >>> plan = tx.gaussians.unbalanced(1.0, m0, S0, 1.0, m1, S1, rho_a=1.0, rho_b=1.0)
        >>> bool(plan.mass < 1), bool(jnp.all(plan.m0 > m0))  # far ends meet, at less mass
        (True, True)
    """

    value: Scalar
    mass: Scalar
    m0: Point
    S0: Matrix
    m1: Point
    S1: Matrix
    cross: Matrix


@_checks.gate
@single_inside
def unbalanced(
    mass0: ScalarLike,
    m0: Point,
    S0: Matrix,
    mass1: ScalarLike,
    m1: Point,
    S1: Matrix,
    *,
    rho_a: ScalarLike,
    rho_b: ScalarLike,
) -> UnbalancedGaussianPlan:
    r"""Unbalanced optimal transport from a = mass0 N(m0, S0) to b = mass1 N(m1, S1).

    Minimises $\langle P, |x - y|^2\rangle + \rho_a\,\mathrm{KL}(P_1\,\|\,a)
    + \rho_b\,\mathrm{KL}(P_2\,\|\,b)$ over the measures P on pairs with marginals
    $P_1, P_2$: `entropic_unbalanced` without entropy. Covariances must be positive
    definite. O(d^3).

    Args:
        mass0: Source mass, positive.
        m0: Source mean, shape (d,).
        S0: Source covariance, shape (d, d), positive definite.
        mass1: Target mass, positive.
        m1: Target mean, shape (d,).
        S1: Target covariance, shape (d, d), positive definite.
        rho_a: Penalty on the source marginal, positive and finite, in units of the cost. The
            rounding of `value` grows with both penalties.
        rho_b: Penalty on the target marginal, positive and finite.

    Returns:
        The plan: its value, mass and marginals.

    Raises:
        ValueError: Shapes disagree; a mass or a penalty is a Python number that is not
            positive; or a penalty is infinite.

    Differentiation:
        With respect to all arguments, to any order.

    Example:
        >>> m0, S0 = jnp.zeros(2), jnp.eye(2)
        >>> m1, S1 = jnp.array([3.0, 4.0]), 4 * jnp.eye(2)
        >>> plan = tx.gaussians.unbalanced(2.0, m0, S0, 2.0, m0, S0, rho_a=1.0, rho_b=1.0)
        >>> round(float(plan.mass), 2), abs(round(float(plan.value), 2))
        (2.0, 0.0)

    References:
        Janati, Muzellec, Peyre and Cuturi, Entropic optimal transport between unbalanced
        Gaussian measures has a closed form, 2020; here for two penalties.
    """
    return _solve(mass0, m0, S0, mass1, m1, S1, 0, rho_a, rho_b)


@_checks.gate
@single_inside
def entropic_unbalanced(
    mass0: ScalarLike,
    m0: Point,
    S0: Matrix,
    mass1: ScalarLike,
    m1: Point,
    S1: Matrix,
    *,
    epsilon: ScalarLike,
    rho_a: ScalarLike,
    rho_b: ScalarLike,
) -> UnbalancedGaussianPlan:
    r"""Entropic unbalanced transport from a = mass0 N(m0, S0) to b = mass1 N(m1, S1).

    Minimises $\langle P, |x - y|^2\rangle + \varepsilon\,\mathrm{KL}(P\,\|\,a\otimes b)
    + \rho_a\,\mathrm{KL}(P_1\,\|\,a) + \rho_b\,\mathrm{KL}(P_2\,\|\,b)$ over the measures P
    on pairs with marginals $P_1, P_2$. Value and mass obey $V = \rho_a |a| + \rho_b |b|
    + \varepsilon |a| |b| - (\rho_a + \rho_b + \varepsilon) |P|$. Covariances may be
    singular. O(d^3).

    Args:
        mass0: Source mass, positive.
        m0: Source mean, shape (d,).
        S0: Source covariance, shape (d, d).
        mass1: Target mass, positive.
        m1: Target mean, shape (d,).
        S1: Target covariance, shape (d, d).
        epsilon: Regularisation, in units of the cost.
        rho_a: Penalty on the source marginal, positive and finite, in units of the cost. The
            rounding of `value` grows with both penalties.
        rho_b: Penalty on the target marginal, positive and finite.

    Returns:
        The plan: its value, mass and marginals.

    Raises:
        ValueError: Shapes disagree; a mass, `epsilon` or a penalty is a Python number
            that is not positive; or a penalty is infinite.

    Differentiation:
        With respect to all arguments, to any order, where both covariances are positive
        definite.

    Example:
        >>> m0, S0 = jnp.zeros(2), jnp.eye(2)
        >>> m1, S1 = jnp.array([3.0, 4.0]), 4 * jnp.eye(2)
        >>> plan = tx.gaussians.entropic_unbalanced(
        ...     1.0, m0, S0, 1.0, m1, S1, epsilon=0.1, rho_a=1.0, rho_b=1.0
        ... )
        >>> bool(plan.mass < 1)  # far apart, at a small penalty
        True

    References:
        Janati, Muzellec, Peyre and Cuturi, Entropic optimal transport between unbalanced
        Gaussian measures has a closed form, 2020; here for two penalties.
    """
    epsilon = _positive("epsilon", epsilon, m0)
    return _solve(mass0, m0, S0, mass1, m1, S1, epsilon, rho_a, rho_b)


def _solve(
    mass0: ScalarLike,
    m0: Point,
    S0: Matrix,
    mass1: ScalarLike,
    m1: Point,
    S1: Matrix,
    epsilon: ScalarLike,
    rho_a: ScalarLike,
    rho_b: ScalarLike,
) -> UnbalancedGaussianPlan:
    check_ends(m0, S0, m1, S1)
    mass0, mass1 = _positive("mass0", mass0, m0), _positive("mass1", mass1, m0)
    rho_a, rho_b = _positive("rho_a", rho_a, m0), _positive("rho_b", rho_b, m0)
    epsilon, identity = jnp.asarray(epsilon, m0.dtype), jnp.eye(m0.size, dtype=m0.dtype)
    w0, w1 = 2 / (rho_a + epsilon), 2 / (rho_b + epsilon)
    slope, cost = _centred(S0, S1, w0, w1, epsilon / 2)
    source = symmetric(jnp.linalg.solve(identity + w0 * S0 @ (identity - slope), S0))
    pull = jnp.linalg.solve(identity + w0 * S0 + w1 * S1, m0 - m1)
    logs = 2 / w0 * jnp.log(mass0) + 2 / w1 * jnp.log(mass1)
    total = rho_a + rho_b + epsilon
    mass = jnp.exp((logs - cost - pull @ (m0 - m1)) / total)
    return UnbalancedGaussianPlan(
        value=rho_a * mass0 + rho_b * mass1 + epsilon * mass0 * mass1 - total * mass,
        mass=mass,
        m0=m0 - w0 * S0 @ pull,
        S0=source,
        m1=m1 + w1 * S1 @ pull,
        S1=symmetric(slope @ source @ slope) + epsilon / 2 * slope,
        cross=source @ slope,
    )


def _centred(S0: Matrix, S1: Matrix, w0: Scalar, w1: Scalar, e: Scalar) -> tuple[Matrix, Scalar]:
    r"""Slope of E[y | x], and cost, of the normalised plan between centred Gaussians.

    With factors $F_i F_i^\top = S_i (I + w_i S_i)^{-1}$ and
    $N = F_1^\top F_0 F_0^\top F_1$, all is a function of the M that commutes with N and
    solves $M (M + e I) = N (I + w_0 M) (I + w_1 M)$. In the cost only log-determinants
    remain: at the optimum the traces of transport and of penalties cancel.
    """
    identity = jnp.eye(S0.shape[0], dtype=S0.dtype)
    factor0, factor1 = _shrunk_factor(S0, w0), _shrunk_factor(S1, w1)
    half = factor1.T @ factor0
    N = half @ half.T
    linear = (w0 + w1) / 2 * N - e / 2 * identity
    leading = identity - w0 * w1 * N
    root = sqrtm(symmetric(linear @ linear + leading @ N))
    M = symmetric(jnp.linalg.solve(leading, linear + root))
    slope = factor1 @ jnp.linalg.solve(M + e * identity, (identity + w1 * M) @ factor1.T)
    entropy = e * _log_det(M + e * identity) - half.shape[0] * xlogy(e, e)
    return symmetric(slope), entropy + _growth(S0, M, w0) + _growth(S1, M, w1)


def _growth(S: Matrix, M: Matrix, weight: Scalar) -> Scalar:
    identity = jnp.eye(S.shape[0], dtype=S.dtype)
    return (_log_det(identity + weight * S) - _log_det(identity + weight * M)) / weight


def _log_det(matrix: Matrix) -> Scalar:
    return jnp.linalg.slogdet(matrix)[1]


def _shrunk_factor(S: Matrix, weight: Scalar) -> Matrix:
    """A factor F of F F^T = S (I + weight S)^-1."""
    grown = jnp.linalg.cholesky(jnp.eye(S.shape[0], dtype=S.dtype) + weight * S)
    return jax.scipy.linalg.solve_triangular(grown, sqrtm(S), lower=True).T


def _positive(argument: str, value: ScalarLike, like: Array) -> Scalar:
    if isinstance(value, numbers.Real) and math.isinf(value):
        _checks.reject(argument, f"is {value}", "give a finite number; `entropic_plan` is balanced")
    return _checks.positive_value(argument, value, like.dtype)
