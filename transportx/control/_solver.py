"""The solvers of a steering problem: what one is, and Newton's method on the dual."""

import abc
import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from transportx import _checks
from transportx._status import Status, judge
from transportx.control._answer import Solved, Steering, assemble
from transportx.control._ascent import ascend
from transportx.control._coordinates import coordinates
from transportx.control._implicit import optimal_multiplier
from transportx.control._problem import (
    Matrix,
    SteeringProblem,
    is_controllable,
    is_finite,
    is_proper,
    optimal_means,
    reach,
)
from transportx.control._riccati import (
    barrier,
    covariances,
    dual,
    riccati,
    source_covariance,
    target_covariance,
)

Scalar = Float[Array, ""]


class AbstractSteeringSolver(eqx.Module):
    """One way to solve a steering problem.

    A subclass implements `answer`, which makes a `Steering` of a problem whose shapes have been
    checked.

    Example:
        >>> isinstance(tx.control.DualNewton(tol=1e-3), tx.control.AbstractSteeringSolver)
        True
    """

    @abc.abstractmethod
    def answer(self, problem: SteeringProblem) -> Steering:
        """Solve; a problem without an answer gives NaN and a status."""


class Soundness(NamedTuple):
    """Whether a problem can have an answer, and the size of its costs; NaN if it cannot."""

    finite: Bool[Array, ""]
    proper: Bool[Array, ""]
    controllable: Bool[Array, ""]
    scale: Scalar

    @property
    def cases(self) -> tuple[tuple[Bool[Array, ""], Status], ...]:
        """What is wrong, in the order in which it is said."""
        return (
            (~self.finite, Status.NON_FINITE),
            (~self.proper, Status.INFEASIBLE),
            (~self.controllable, Status.UNCONTROLLABLE),
        )


def soundness(problem: SteeringProblem) -> Soundness:
    """Judge a problem before it is solved.

    The size of its costs is that of going from one independent draw of the source to one of the
    target.
    """
    transition, spread = reach(problem)
    finite, proper, controllable = is_finite(problem), is_proper(problem), is_controllable(spread)
    ends = transition @ problem.source.covariance @ transition.T + problem.target.covariance
    scale = jnp.trace(jnp.linalg.solve(spread, ends))
    return Soundness(
        finite, proper, controllable, jnp.where(finite & proper & controllable, scale, jnp.nan)
    )


@_checks.gate
class DualNewton(AbstractSteeringSolver):
    r"""Newton's method on the dual of the covariances, with Riccati recursions inside; the default.

    For a unit of mass, means and covariances separate. In $S_k$, $U_k = K_k S_k$ and $Y_k \succeq
    U_k S_k^{-1} U_k^\top$, the second moment of the controls, the covariances solve a convex
    problem: $\sum_k \mathrm{tr}(R Y_k)$ and both penalties, under $S_{k+1} = A S A^\top + A
    U^\top B^\top + B U A^\top + B Y B^\top + W$. Only the multiplier P of the last covariance is
    kept. Given P, the others are those of a linear-quadratic regulator with terminal cost
    $\langle x, P x\rangle$: $\Pi_N = P$, $H_k = R + B^\top \Pi_{k+1} B$, $K_k = -H_k^{-1}
    B^\top \Pi_{k+1} A$, $\Pi_k = A^\top \Pi_{k+1} (A + B K_k)$. What remains to be maximised over
    symmetric P is concave,

    $$D(P) = \tfrac{\rho_a}{2} \log\det(I + \tfrac{2}{\rho_a} \Sigma_a \Pi_0)
    + \tfrac{\rho_b}{2} \log\det(I - \tfrac{2}{\rho_b} \Sigma_b P)
    + \sum_k \mathrm{tr}(\Pi_{k+1} W_k),$$

    with traces in place of logarithms where a penalty is infinite. Its gradient is the last
    covariance that the feedback makes, less $(\Sigma_b^{-1} - 2 P / \rho_b)^{-1}$. Where an A or
    the source covariance is singular, an $H_k$ may be so at the maximum: there the controls need
    noise of their own. So $\tau \sum_k \log\det H_k$ is added, the reward of a policy with noise
    $\tau H_k^{-1}$ for its entropy, and $\tau$ falls, until the policy costs only
    $\sqrt{\epsilon}$ of the ends' distance more than D, with $\epsilon$ the rounding of the
    dtype. Last, $\tau = 0$ is tried. A step costs O(k d^5).

    Attributes:
        tol: Bound on the relative error of the last covariance. Steps go on until rounding.
        max_steps: Largest number of Newton steps.

    Example:
        >>> tx.control.DualNewton(tol=1e-3).max_steps
        200

    References:
        Liu, Rapakoulias and Tsiotras, Optimal covariance steering for discrete-time linear
        stochastic systems, 2022 (the convex form, and that no noise is needed where every A is
        invertible).
    """

    tol: float = eqx.field(static=True, default=1e-4)
    max_steps: int = eqx.field(static=True, default=200)

    def __check_init__(self):
        _checks.positive("tol", self.tol)
        if math.isinf(self.tol):
            _checks.reject("tol", "is infinite", "give the error that the covariance may have")
        _checks.count("max_steps", self.max_steps)

    @eqx.filter_jit
    def answer(self, problem: SteeringProblem) -> Steering:
        fixed = jax.lax.stop_gradient(problem)
        sound = soundness(fixed)
        found = ascend(fixed, sound.scale, tol=self.tol, max_steps=self.max_steps)
        lost = jnp.isnan(sound.scale) | found.unbounded
        P = optimal_multiplier(problem, jnp.where(lost, jnp.nan, found.P), found.level)
        means = jax.tree.map(lambda x: jnp.where(lost, jnp.nan, x), optimal_means(problem))
        solved = _solved(problem, P, found.level)
        status = judge(
            *sound.cases,
            (found.unbounded, Status.INFEASIBLE),
            (solved.residual <= self.tol, Status.CONVERGED),
            (found.stuck, Status.STALLED),
            otherwise=Status.MAX_STEPS,
        )
        return assemble(problem, means, solved, found.num_steps, status)


def _solved(problem: SteeringProblem, P: Matrix, level: Scalar) -> Solved:
    feedback = riccati(problem, P)
    noise = level * feedback.inverses
    states = covariances(problem, feedback.gains, noise, source_covariance(problem, feedback))
    # Of the derivative the barrier is a term, of the value it is not: that is a lower bound.
    entropy = level * barrier(feedback)
    cost = dual(problem, P, feedback) + entropy - jax.lax.stop_gradient(entropy)
    frame, best = coordinates(problem), target_covariance(problem, P)
    missed = states[-1] - best
    relative = jnp.linalg.solve(frame.whitened(best), frame.whitened(missed))
    hard = problem.loose_b == 0
    # x - log(1 + x) is at most x^2 from -1/2 on.
    penalty = jnp.sum(relative * relative.T) / (2 * jnp.where(hard, 1, problem.loose_b))
    gap = jnp.where(hard, jnp.abs(jnp.sum(P * missed)), penalty)
    gap = gap + level * problem.R.shape[0] * problem.system.num_steps
    residual = jax.lax.stop_gradient(jnp.max(jnp.abs(relative)))
    return Solved(feedback.gains, noise, states, cost, gap, residual)
