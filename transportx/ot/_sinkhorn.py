"""Sinkhorn's algorithm, and its averaged form for symmetric problems."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from transportx import _checks
from transportx._varying import alike
from transportx.geometry.internal import capped_exp
from transportx.ot._problem import Potentials, Problem
from transportx.ot._scaling import Iterate, Scaling, is_open
from transportx.ot._solver import AbstractSolver

Scalar = Float[Array, ""]
Steps = Int[Array, ""]


@_checks.gate
class Sinkhorn(AbstractSolver):
    """Sinkhorn's algorithm: alternate exact updates of the two potentials, each O(n m).

    Attributes:
        tol: Bound on the L1 error of the plan's marginals, divided by the mass.
        max_steps: Largest number of pairs of updates. The number needed grows like 1 / epsilon.

    Example:
        >>> x = jnp.array([[0.0], [1.0]])
        >>> solver = tx.ot.Sinkhorn(tol=1e-4)
        >>> plan = tx.ot.solve(tx.geometry.PointCloud(x, x + 1.0), epsilon=1.0, solver=solver)
        >>> bool(plan.marginal_error <= 1e-4)
        True

    References:
        Cuturi, Sinkhorn distances, 2013; Schmitzer, Stabilized sparse scaling algorithms
        for entropy regularized transport problems, 2019 (absorption, annealing).
    """

    tol: float = eqx.field(static=True, default=1e-3)
    max_steps: int = eqx.field(static=True, default=10_000)

    @_checks.gate
    def refine(
        self, scaling: Scaling, start: Iterate, *, tol: Scalar, budget: Steps
    ) -> tuple[Iterate, Steps]:
        def step(iterate):
            return scaling.evaluate(scaling.fit_rows(iterate.row_sums))

        return _repeat(step, start, tol=tol, budget=budget)


class Symmetric(AbstractSolver):
    """Symmetric Sinkhorn: averages a potential with its update, where both potentials are one.

    For problems that equal their own transpose. The error at least halves per step where the
    kernel is positive.
    """

    tol: float = eqx.field(static=True)
    max_steps: int = eqx.field(static=True)

    def refine(
        self, scaling: Scaling, start: Iterate, *, tol: Scalar, budget: Steps
    ) -> tuple[Iterate, Steps]:
        problem = scaling.problem

        def evaluate(phi):
            row_sums = scaling.kernel @ (problem.a * capped_exp(phi))
            required = problem.required_a(scaling.f + problem.epsilon * phi)
            residual = required - problem.a * capped_exp(phi) * row_sums
            error = jnp.sum(jnp.abs(residual)) / jnp.sum(required)
            return Iterate(phi, phi, row_sums, row_sums, residual, error)

        def step(iterate):
            return evaluate((iterate.phi + scaling.fit_rows(iterate.row_sums)) / 2)

        # Both marginals are this one: each has half of the error.
        return _repeat(step, evaluate(jnp.zeros_like(start.phi)), tol=tol / 2, budget=budget)

    def log_step(
        self, problem: Problem, f: Float[Array, " n"], g: Float[Array, " m"]
    ) -> Potentials:
        f = (f + problem.update_f(g)) / 2
        return problem.centre(f, f)


def _repeat(step, start: Iterate, *, tol: Scalar, budget: Steps) -> tuple[Iterate, Steps]:
    """Take steps until the error is small, the budget spent, or scalings leave a safe range."""

    def unfinished(carry):
        iterate, steps = carry
        return is_open(iterate, tol) & (steps < budget)

    return jax.lax.while_loop(
        unfinished, lambda carry: (step(carry[0]), carry[1] + 1), alike((start, jnp.array(0)))
    )
