"""The loop around every entropic solver: absorb, audit, refine, lower epsilon."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from transportx.ot._problem import Potentials, Problem
from transportx.ot._solvers import AbstractSolver, Scaling
from transportx.ot._status import Status

Scalar = Float[Array, ""]

# Epsilon falls by this factor from half the mean cost; each level is solved to this error.
_FACTOR = 4.0
_LEVEL_TOL = 0.03
# Share of the tolerance that scalings aim at, for the audit to find it met.
_AIM = 0.6
# Audits in a row without progress that end a solve.
_MOST_STALLS = 3
# Steps in the log domain taken where scalings left the range of numbers.
_LOG_STEPS = 30


class Solved(NamedTuple):
    """Potentials, and what the audit of these very arrays found."""

    f: Float[Array, " n"]
    g: Float[Array, " m"]
    error: Scalar
    num_steps: Int[Array, ""]
    status: Status


class _State(NamedTuple):
    f: Float[Array, " n"]
    g: Float[Array, " m"]
    epsilon: Scalar
    error: Scalar
    best: Scalar
    stalls: Int[Array, ""]
    steps: Int[Array, ""]
    log_steps: Int[Array, ""]
    finished: Bool[Array, ""]


def anneal(
    problem: Problem,
    solver: AbstractSolver,
    *,
    init: Potentials,
    epsilon: Scalar,
    cold: Bool[Array, ""] | bool,
) -> Solved:
    """Solve from `init`, at falling regularisation from `epsilon` down to the problem's.

    Each round absorbs the potentials into a fresh kernel and audits its marginals; if they
    do not fit at the problem's own epsilon, the solver refines its scalings. So the error
    returned is that of the arrays returned. A `cold` start takes a step in the log domain.
    """

    def unfinished(state):
        return ~state.finished

    def body(state):
        local = problem.at(state.epsilon)
        f, g = jax.lax.fori_loop(
            0, state.log_steps, lambda _, fg: solver.log_step(local, *fg), (state.f, state.g)
        )
        f, g = local.centre(f, g)
        steps = state.steps + state.log_steps
        kernel = local.kernel(f, g)
        row_sums, column_sums = kernel @ problem.b, kernel.T @ problem.a
        error = local.error(f, g, problem.a * row_sums, problem.b * column_sums)
        final = state.epsilon == problem.epsilon
        # Steps in the log domain are slow, not stuck.
        progress = error < jnp.where(state.log_steps > 1, 0.98, 0.7) * state.best
        stalls = jnp.where(final & ~progress, state.stalls + 1, 0)
        spent = steps >= solver.max_steps
        finished = final & ((error <= solver.tol) | spent | (stalls >= _MOST_STALLS))
        tol = jnp.where(final, _AIM * solver.tol, _LEVEL_TOL)

        def refine():
            scaling = Scaling(local, kernel, f, g)
            start = scaling.complete(jnp.zeros_like(f), column_sums)
            budget = solver.max_steps - steps - 1
            iterate, taken = solver.refine(scaling, start, tol=tol, budget=budget)
            usable = jnp.isfinite(iterate.error)
            phi, psi = (jnp.where(usable, move, 0) for move in (iterate.phi, iterate.psi))
            log_steps = jnp.where(usable, 0, jnp.minimum(_LOG_STEPS, budget - taken))
            return f + state.epsilon * phi, g + state.epsilon * psi, taken + 1, log_steps

        def stay():
            return f, g, jnp.array(0), jnp.array(0)

        f, g, taken, log_steps = jax.lax.cond(finished | spent, stay, refine)
        lower = jnp.maximum(state.epsilon / _FACTOR, problem.epsilon)
        return _State(
            f,
            g,
            jnp.where(spent, problem.epsilon, lower),
            error,
            jnp.where(final, jnp.minimum(error, state.best), state.best),
            stalls,
            steps + taken,
            log_steps,
            finished,
        )

    infinite = jnp.full_like(problem.epsilon, jnp.inf)
    start = _State(
        *init,
        epsilon=jnp.maximum(epsilon, problem.epsilon),
        error=infinite,
        best=infinite,
        stalls=jnp.array(0),
        steps=jnp.array(0),
        log_steps=jnp.asarray(cold, int),
        # Comparisons with a bad epsilon would never end.
        finished=~(jnp.isfinite(epsilon) & (problem.epsilon > 0)),
    )
    end = jax.lax.while_loop(unfinished, body, start)
    return Solved(end.f, end.g, end.error, end.steps, _status(end, solver))


def _status(end: _State, solver: AbstractSolver) -> Status:
    status = Status.where(end.stalls >= _MOST_STALLS, Status.STALLED, Status.MAX_STEPS)
    status = Status.where(end.error <= solver.tol, Status.CONVERGED, status)
    finite = jnp.isfinite(end.error) & jnp.all(jnp.isfinite(end.f)) & jnp.all(jnp.isfinite(end.g))
    return Status.where(finite, status, Status.NON_FINITE)
