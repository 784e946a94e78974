"""JKO steps by entropic transport."""

import numbers

import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from transportx import _checks
from transportx.geometry import AbstractGeometry
from transportx.ot import AbstractSolver, EntropicPlan, Sinkhorn, solve

Masses = Float[Array, " n"]


@_checks.gate
def entropic_jko_step(
    geometry: AbstractGeometry,
    masses: Masses,
    target: Masses,
    *,
    tau: ScalarLike,
    epsilon: ScalarLike,
    solver: AbstractSolver = Sinkhorn(),
) -> tuple[Masses, EntropicPlan]:
    r"""One entropic JKO step of the relative entropy, as one loose transport problem.

    Minimises $\frac{1}{2\tau}\min_P\big[\langle P, C\rangle + \varepsilon\,
    \mathrm{KL}(P\,\|\,\mu\otimes\rho)\big] + \mathrm{KL}(\rho\,\|\,\pi)$ over rho, the second
    marginal of P: times 2 tau it is `ot.solve` with ``rho_b = 2 tau - epsilon``. First order in
    tau; the regularisation adds a blur of variance about epsilon / 2 a step, which counts
    for little where epsilon is far below 4 tau.

    Args:
        geometry: Squared distances between the cells.
        masses: The measure now.
        target: Masses of pi, positive; their total is of no account.
        tau: Length of the step.
        epsilon: Regularisation, in units of the cost; below 2 tau.
        solver: `ot.Sinkhorn` or `ot.Newton`, with tolerance and step limit; a loose marginal makes
            plain scaling contract fast.

    Returns:
        The masses after the step, and the plan, whose status says whether to believe them.

    References:
        Peyre, Entropic approximation of Wasserstein gradient flows, 2015.
    """
    if isinstance(tau, numbers.Real) and isinstance(epsilon, numbers.Real):
        if not float(epsilon) < 2 * float(tau):
            _checks.reject("epsilon", f"is {epsilon} at a `tau` of {tau}", "keep it below 2 tau")
    tau = _checks.positive_value("tau", tau, masses.dtype)
    epsilon = _checks.positive_value("epsilon", epsilon, masses.dtype)
    loose = 2 * tau - epsilon
    plan = solve(geometry, masses, target, epsilon=epsilon, rho_b=loose, solver=solver)
    return plan.T @ jnp.ones_like(masses), plan
