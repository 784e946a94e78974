"""The loop around every entropic solver: absorb, audit, refine, lower epsilon."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from transportx._status import Status
from transportx.ot._problem import Potentials, Problem
from transportx.ot._solvers import AbstractSolver, Scaling

Scalar = Float[Array, ""]

# Epsilon falls by at most this factor, evenly; each level is solved to this error.
_FACTOR = 8.0
_LEVEL_TOL = 0.03
# Share of the tolerance that scalings aim at, for the audit to find it met.
_AIM = 0.6
# A solver that leaves more than this share of the error does not progress. Steps in the log
# domain, taken in its place, are slow: they are stuck only if they leave this much.
_SLOWEST, _SLOWEST_LOG = 0.7, 0.998
_LOG_STEPS = 30
# Audits of steps in the log domain without progress that end a solve.
_MOST_STALLS = 2


class Solved(NamedTuple):
    """Potentials, and what the audit of these very arrays found."""

    f: Float[Array, " n"]
    g: Float[Array, " m"]
    error: Scalar
    num_steps: Int[Array, ""]
    status: Status


class _Level(NamedTuple):
    """Potentials at a regularisation."""

    f: Float[Array, " n"]
    g: Float[Array, " m"]
    epsilon: Scalar


class _State(NamedTuple):
    level: _Level
    above: _Level
    error: Scalar
    best: Scalar
    stalls: Int[Array, ""]
    steps: Int[Array, ""]
    log_steps: Int[Array, ""]
    finished: Bool[Array, ""]


def anneal(
    problem: Problem, solver: AbstractSolver, *, init: Potentials, epsilon: Scalar
) -> Solved:
    """Solve from `init`, at falling regularisation from `epsilon` down to the problem's.

    Each round absorbs the potentials into a fresh kernel and audits its marginals; if they
    do not fit at the problem's own epsilon, the solver refines its scalings. So the error
    returned is that of the arrays returned. Where the solver fails, or scalings would leave
    the range of numbers, steps in the log domain take its place.
    """
    infinite = jnp.full_like(problem.epsilon, jnp.inf)
    epsilon = jnp.maximum(epsilon, problem.epsilon)
    ratio = epsilon / problem.epsilon
    factor = ratio ** (1 / jnp.maximum(jnp.ceil(jnp.log(ratio) / jnp.log(_FACTOR)), 1))
    level = _Level(*init, epsilon)
    start = _State(
        level,
        above=level._replace(epsilon=infinite),
        error=infinite,
        best=infinite,
        stalls=jnp.array(0),
        steps=jnp.array(0),
        log_steps=jnp.array(0),
        # Comparisons with a bad epsilon would never end.
        finished=~(jnp.isfinite(epsilon) & (problem.epsilon > 0)),
    )
    end = jax.lax.while_loop(
        lambda state: ~state.finished, lambda state: _round(problem, solver, state, factor), start
    )
    return Solved(*end.level[:2], end.error, end.steps, _status(end, problem, solver))


def _round(problem: Problem, solver: AbstractSolver, state: _State, factor: Scalar) -> _State:
    """Absorb and audit; unless that ends the solve, refine and go to the next level."""
    epsilon = state.level.epsilon
    local, final = problem.at(epsilon), epsilon == problem.epsilon
    f, g = jax.lax.fori_loop(
        0,
        state.log_steps,
        lambda _, potentials: solver.log_step(local, *potentials),
        local.centre(*state.level[:2]),
    )
    kernel = local.kernel(f, g)
    row_sums, column_sums = kernel @ problem.b, kernel.T @ problem.a
    error = local.error(f, g, problem.a * row_sums, problem.b * column_sums)
    steps = state.steps + state.log_steps
    stuck, stalls = _judge(state, error, final)
    spent = steps >= solver.max_steps
    finished = final & ((error <= solver.tol) | spent | (stalls >= _MOST_STALLS))
    budget = solver.max_steps - steps - 1

    def refine():
        scaling = Scaling(local, kernel, f, g)
        start = scaling.complete(jnp.zeros_like(f), column_sums)
        tol = jnp.where(final, _AIM * solver.tol, _LEVEL_TOL)
        iterate, taken = solver.refine(scaling, start, tol=tol, budget=budget)
        usable = jnp.isfinite(iterate.error)
        phi, psi = (jnp.where(usable, move, 0) for move in (iterate.phi, iterate.psi))
        log_steps = jnp.where(usable, 0, jnp.minimum(_LOG_STEPS, budget - taken))
        return f + epsilon * phi, g + epsilon * psi, taken + 1, log_steps

    def stay():
        return f, g, jnp.array(0), jnp.where(spent, 0, jnp.minimum(_LOG_STEPS, budget + 1))

    f, g, taken, log_steps = jax.lax.cond(finished | spent | stuck, stay, refine)
    lower = epsilon / factor
    # Rounding shall not add a level.
    lower = jnp.where(spent | (lower < 1.01 * problem.epsilon), problem.epsilon, lower)
    level = _Level(f, g, epsilon)
    return _State(
        _extrapolate(state.above, level, lower),
        above=level,
        error=error,
        best=jnp.where(final, jnp.minimum(error, state.best), state.best),
        stalls=stalls,
        steps=steps + taken,
        log_steps=log_steps,
        finished=finished,
    )


def _judge(
    state: _State, error: Scalar, final: Bool[Array, ""]
) -> tuple[Bool[Array, ""], Int[Array, ""]]:
    """Whether the steps before this audit got nowhere, and how often log-domain ones did."""
    logged = state.log_steps > 0
    stuck = final & ~(error < jnp.where(logged, _SLOWEST_LOG, _SLOWEST) * state.best)
    return stuck, jnp.where(logged & stuck, state.stalls + 1, 0)


def _extrapolate(above: _Level, level: _Level, lower: Scalar) -> _Level:
    """Follow the potentials, smooth in epsilon, from two levels to the next."""
    fall = above.epsilon - level.epsilon
    known = jnp.isfinite(fall) & (fall > 0) & (lower < level.epsilon)
    share = (level.epsilon - lower) / jnp.where(known, fall, 1)
    f, g = (
        jnp.where(known, new + share * (new - old), new)
        for new, old in zip(level[:2], above[:2], strict=True)
    )
    return _Level(f, g, lower)


def _status(end: _State, problem: Problem, solver: AbstractSolver) -> Status:
    f, g, _ = end.level
    converged = (end.error <= solver.tol) & (_rounding(problem, f, g) <= solver.tol)
    status = Status.where(
        (end.stalls >= _MOST_STALLS) | (end.error <= solver.tol), Status.STALLED, Status.MAX_STEPS
    )
    status = Status.where(converged, Status.CONVERGED, status)
    finite = jnp.isfinite(end.error) & jnp.all(jnp.isfinite(f)) & jnp.all(jnp.isfinite(g))
    return Status.where(finite, status, Status.NON_FINITE)


def _rounding(problem: Problem, f: Float[Array, " n"], g: Float[Array, " m"]) -> Scalar:
    """About how far an audit of costs without rounding may be from ours, of these costs.

    Costs and sums of potentials are off by some units in the last place, and log-densities by
    those over epsilon. Over the points of a row or column such errors partly cancel.
    """
    size = problem.a @ jnp.abs(f) / jnp.sum(problem.a) + problem.b @ jnp.abs(g) / jnp.sum(problem.b)
    entries = jnp.sqrt(jnp.asarray(min(f.size, g.size), f.dtype))
    return 2 * jnp.finfo(f.dtype).eps * size / (problem.epsilon * entries)
