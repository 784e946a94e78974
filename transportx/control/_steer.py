"""Density control of linear systems between Gaussian measures of any masses."""

import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from transportx import _checks
from transportx._precision import single_inside
from transportx.control._answer import Steering
from transportx.control._problem import make_problem
from transportx.control._solver import AbstractSteeringSolver, DualNewton
from transportx.control._systems import GaussianMeasure, LinearSystem


@_checks.gate
@single_inside
def steer(
    system: LinearSystem,
    R: Float[Array, "m m"],
    source: GaussianMeasure,
    target: GaussianMeasure,
    *,
    rho_a: ScalarLike = jnp.inf,
    rho_b: ScalarLike = jnp.inf,
    solver: AbstractSteeringSolver = DualNewton(),
) -> Steering:
    r"""Steer a linear system from one Gaussian measure to another, at least control energy.

    Minimises $M \sum_k E\,u_k^\top R\,u_k + \rho_a\,\mathrm{KL}(\mu_0\,\|\,a) +
    \rho_b\,\mathrm{KL}(\mu_N\,\|\,b)$ over the policies of $x_{k+1} = A_k x_k + B_k u_k + w_k$
    and the measures $\mu_0$ that they start from. M is the mass of $\mu_0$, which the dynamics
    keep, and a and b are the source and target references. $\mathrm{KL}(p\,\|\,q) = \int p
    \log(p / q) - p + q$. An infinite penalty enforces its reference; with both this is covariance
    steering. The optimum among all policies is affine and Gaussian. Without noise it is
    unbalanced transport at the cost of the least control energy between two points.

    A unit of mass at the optimum costs C, the sum of a quadratic program of the means, solved in
    closed form, and a convex problem of the covariances (`DualNewton`). Then $(\rho_a + \rho_b)
    \log M = \rho_a \log|a| + \rho_b \log|b| - C$, and the value is $\rho_a (|a| - M) + \rho_b
    (|b| - M)$.

    Args:
        system: The linear system.
        R: Cost of the controls, shape (m, m), positive definite. A cost that depends on the step
            is one gain per step: B over a root of R.
        source: Source reference a. Its covariance may be singular.
        target: Target reference b, of positive definite covariance.
        rho_a: Penalty on the first measure, positive, in units of the cost; infinity enforces a.
        rho_b: Penalty on the last measure, positive, in units of the cost; infinity enforces b.
        solver: `DualNewton`; or `Conic`, the reference, for which `cvxpy` must be installed and
            which runs outside of `jit` alone.

    Returns:
        Policy, mass and moments. The status is UNCONTROLLABLE where the controls do not reach
        every mean that an enforced target may have; INFEASIBLE where noise alone spreads more
        than an enforced target, where two enforced masses differ, or where a mass, a penalty or a
        matrix is not positive.

    Raises:
        ValueError: Shapes disagree, or a mass or penalty is a Python number that is not positive.

    Differentiation:
        In A, B, noise, R, references and penalties, forward and reverse: `value` by the envelope
        theorem, all else implicitly, by one linear solve of size d (d + 1) / 2. Where the policy
        needs noise of its own, at the last temperature of the solver.

    Example:
        >>> system = tx.control.constant_system(
        ...     jnp.eye(2), jnp.eye(2), jnp.zeros((2, 2)), steps=4
        ... )
        >>> start = tx.control.GaussianMeasure(2.0, jnp.zeros(2), jnp.eye(2))
        >>> end = tx.control.GaussianMeasure(2.0, jnp.array([3.0, 4.0]), jnp.eye(2))
        >>> steering = tx.control.steer(system, jnp.eye(2), start, end)
        >>> round(float(steering.value), 2)  # 2 * 5^2 / 4
        12.5
        >>> loose = tx.control.steer(system, jnp.eye(2), start, end, rho_a=10.0, rho_b=1.0)
        >>> bool(loose.mass < 2), bool(loose.deterministic)
        (True, True)

    References:
        Unbalanced optimal transport and density control for discrete-time linear systems,
        arXiv:2605.06391, 2026; Liu, Rapakoulias and Tsiotras, Optimal covariance steering for
        discrete-time linear stochastic systems, 2022.
    """
    return solver.answer(make_problem(system, R, source, target, rho_a, rho_b))
