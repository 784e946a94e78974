"""The loop around every entropic solver: absorb, audit, refine, lower epsilon."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from transportx._status import Status, judge
from transportx._varying import alike, where_asked
from transportx.ot._problem import Potentials, Problem
from transportx.ot._scaling import Scaling, largest_scaling
from transportx.ot._solver import AbstractSolver

Scalar = Float[Array, ""]

# Epsilon falls by at most this factor, evenly; each level is solved to this error, and the
# potentials of a level solved to this much at least say where those of the next lie.
_FACTOR = 8.0
_LEVEL_TOL = 0.01
_KNOWN_TOL = 0.1
# One level above the problem's own epsilon may use one in so many of the steps left.
_LEVEL_DIVISOR = 4
# Scalings aim at this fraction of the tolerance, for the audit to find it met.
_AIM = 0.6
# Log-scalings larger than this fraction of the range of numbers are fitted in the log domain.
_SAFE_FRACTION = 0.7
# A solver that leaves more than this fraction of the error, and the dual objective where it
# was, does not progress. Steps in the log domain, which replace it, are slow: they are stuck
# only if they leave this fraction.
_SLOWEST, _SLOWEST_LOG = 0.7, 0.998
_LOG_STEPS = 30
# Audits of steps in the log domain without progress that end a solve.
_MOST_STALLS = 2
# The L1 error of potentials one of which is the best for the other is at most this.
_FAR = 2.0


class Solved(NamedTuple):
    """Potentials with the audit of these very arrays: the fields of a plan but its problem."""

    f: Float[Array, " n"]
    g: Float[Array, " m"]
    marginal_error: Scalar
    num_steps: Int[Array, ""]
    status: Status


class Level(NamedTuple):
    """Level of annealing: potentials, and the regularisation that they belong to."""

    f: Float[Array, " n"]
    g: Float[Array, " m"]
    epsilon: Scalar


class _Audit(NamedTuple):
    """Potentials of the problem's own epsilon, the error of their marginals, their dual value."""

    f: Float[Array, " n"]
    g: Float[Array, " m"]
    error: Scalar
    dual: Scalar


class _State(NamedTuple):
    """State of annealing between rounds.

    `log_steps` are due before the next audit; `best` is the best audit at the problem's own
    epsilon, `above` the level before, with an infinite epsilon where it says nothing.
    """

    level: Level
    above: Level
    best: _Audit
    stalls: Int[Array, ""]
    steps: Int[Array, ""]
    log_steps: Int[Array, ""]
    finished: Bool[Array, ""]


def anneal(problem: Problem, solver: AbstractSolver, start: Level) -> Solved:
    """Solve from a level, at falling regularisation down to that of the problem.

    Each round absorbs the potentials into a fresh kernel and audits its marginals; if they
    do not fit at the problem's own epsilon, the solver refines its scalings. So the error
    returned is that of the arrays returned, which are the best that were audited. Where the
    solver fails, or scalings would leave the range of numbers, steps in the log domain take
    its place; after one of them no entry of the plan exceeds its marginals.
    """
    problem, (f, g, epsilon) = alike((problem, start))
    infinite = jnp.full_like(problem.epsilon, jnp.inf)
    epsilon = jnp.maximum(epsilon, problem.epsilon)
    ratio = epsilon / problem.epsilon
    factor = ratio ** (1 / jnp.maximum(jnp.ceil(jnp.log(ratio) / jnp.log(_FACTOR)), 1))
    level = Level(f, g, epsilon)
    state = _State(
        level,
        above=level._replace(epsilon=infinite),
        best=_Audit(f, g, infinite, -infinite),
        stalls=jnp.array(0),
        steps=jnp.array(0),
        log_steps=jnp.array(0),
        # Comparisons with a bad epsilon would never end.
        finished=~(jnp.isfinite(epsilon) & (problem.epsilon > 0)),
    )
    end = jax.lax.while_loop(
        lambda state: ~state.finished,
        lambda state: alike(_round(problem, solver, state, factor), problem),
        alike(state, problem),
    )
    f, g = _without_weight(problem, end.best.f, end.best.g)
    return Solved(f, g, end.best.error, end.steps, _status(end, problem, solver))


def _round(problem: Problem, solver: AbstractSolver, state: _State, factor: Scalar) -> _State:
    """Absorb and audit; unless that ends the solve, refine and go to the next level."""
    epsilon = state.level.epsilon
    local, final = problem.at(epsilon), epsilon == problem.epsilon
    steps = state.steps + state.log_steps
    # Above the problem's own epsilon a step is kept, for potentials that fit it.
    kept = jnp.where(final, 0, 1)
    spent = steps + kept >= solver.max_steps
    seen = _look(local, solver, state, final, spent)
    stuck, stalls = _judge(state, seen.audit, final)
    better = final & (seen.audit.error < state.best.error) & seen.trusted
    best = jax.tree.map(lambda one, other: jnp.where(better, one, other), seen.audit, state.best)
    finished = final & ((best.error <= solver.tol) | spent | (stalls >= _MOST_STALLS))
    finished &= ~seen.unsafe | (steps >= solver.max_steps)
    budget = solver.max_steps - steps - 1 - kept
    hold = finished | spent | stuck | seen.unsafe
    f, g, taken, log_steps, known = where_asked(
        ~hold,
        lambda: alike(_refine(seen, solver, final, budget), problem),
        alike(_stay(seen, state, budget), problem),
        problem,
    )
    lower = epsilon / factor
    # Rounding shall not add a level.
    lower = jnp.where(spent | (lower < 1.01 * problem.epsilon), problem.epsilon, lower)
    lower = jnp.where(seen.unsafe & ~spent, epsilon, lower)
    level = Level(f, g, epsilon)
    return _State(
        _extrapolate(state.above, level, lower, known),
        above=level._replace(epsilon=jnp.where(known, epsilon, jnp.inf)),
        best=best,
        stalls=stalls,
        steps=steps + taken,
        log_steps=log_steps,
        finished=finished,
    )


class _Seen(NamedTuple):
    """What a round sees of its level before it moves.

    `trusted` says that no entry of the plan escapes the audit; where it is `unsafe` to fit
    scalings, steps in the log domain come next.
    """

    scaling: Scaling
    column_sums: Float[Array, " m"]
    audit: _Audit
    unsafe: Bool[Array, ""]
    trusted: Bool[Array, ""]


def _look(
    local: Problem, solver: AbstractSolver, state: _State, final: Bool[Array, ""], spent: Array
) -> _Seen:
    """Take the steps in the log domain that are due, absorb the potentials, and audit them."""
    f, g = jax.lax.fori_loop(
        alike(jnp.array(0), local),
        state.log_steps,
        lambda _, potentials: solver.log_step(local, *potentials),
        local.centre(*state.level[:2]),
    )
    kernel = local.kernel(f, g)
    row_sums, column_sums = kernel @ local.b, kernel.T @ local.a
    error = local.error(f, g, local.a * row_sums, local.b * column_sums)
    scaling = Scaling(local, kernel, f, g)
    fit = jnp.maximum(
        jnp.max(jnp.abs(scaling.fit_rows(row_sums))),
        jnp.max(jnp.abs(scaling.fit_columns(column_sums))),
    )
    unsafe = ~(fit < _SAFE_FRACTION * largest_scaling(f.dtype))
    unsafe |= final & spent & ~(error <= _FAR)
    # That costs a pass over all pairs: only before an answer is believed.
    believed = final & (error <= solver.tol)
    hides = where_asked(believed, lambda: local.hides(f, g), jnp.array(False), local)
    logged, long = state.log_steps > 0, state.log_steps >= _LOG_STEPS
    # After a step in the log domain the audit is right, however far rows are off.
    trusted = ~(hides & ~long) & (~unsafe | logged)
    audit = _Audit(f, g, error, local.dual(f, g, local.a @ row_sums))
    return _Seen(scaling, column_sums, audit, (unsafe | hides) & ~long, trusted)


def _refine(
    seen: _Seen, solver: AbstractSolver, final: Bool[Array, ""], budget: Int[Array, ""]
) -> tuple[Array, Array, Array, Array, Array]:
    """Potentials after the solver's steps, their number, log-domain steps due, and if they fit."""
    f, g, epsilon = seen.audit.f, seen.audit.g, seen.scaling.problem.epsilon
    start = seen.scaling.complete(jnp.zeros_like(f), seen.column_sums)
    tol = jnp.where(final, _AIM * solver.tol, _LEVEL_TOL)
    allowed = jnp.where(final, budget, budget // _LEVEL_DIVISOR)
    iterate, taken = solver.refine(seen.scaling, start, tol=tol, budget=allowed)
    usable = jnp.isfinite(iterate.error)
    phi, psi = (jnp.where(usable, move, 0) for move in (iterate.phi, iterate.psi))
    log_steps = jnp.where(usable, 0, jnp.minimum(_LOG_STEPS, budget - taken))
    return f + epsilon * phi, g + epsilon * psi, taken + 1, log_steps, iterate.error <= _KNOWN_TOL


def _stay(
    seen: _Seen, state: _State, budget: Int[Array, ""]
) -> tuple[Array, Array, Array, Array, Array]:
    """The same potentials, and steps in the log domain that are due: four times the last ones."""
    more = jnp.where(seen.unsafe, jnp.maximum(4 * state.log_steps, 1), _LOG_STEPS)
    more = jnp.clip(jnp.minimum(more, _LOG_STEPS), 1, jnp.maximum(budget, 1))
    return seen.audit.f, seen.audit.g, jnp.array(0), more, jnp.array(False)


def _without_weight(problem: Problem, f: Array, g: Array) -> Potentials:
    """Potentials of points without weight, which no step moves: those that fit the others."""
    idle_a, idle_b = problem.a == 0, problem.b == 0

    def fitted():
        return jnp.where(idle_a, problem.update_f(g), f), jnp.where(idle_b, problem.update_g(f), g)

    return where_asked(jnp.any(idle_a) | jnp.any(idle_b), fitted, (f, g), problem)


def _judge(
    state: _State, audit: _Audit, final: Bool[Array, ""]
) -> tuple[Bool[Array, ""], Int[Array, ""]]:
    """Whether the steps before this audit got nowhere, and how often log-domain ones did."""
    logged, best = state.log_steps > 0, state.best
    falls = audit.error < jnp.where(logged, _SLOWEST_LOG, _SLOWEST) * best.error
    noise = 20 * jnp.finfo(audit.dual.dtype).eps * jnp.abs(audit.dual)
    stuck = final & ~(falls | (audit.dual > best.dual + noise))
    return stuck, jnp.where(logged & stuck, state.stalls + 1, 0)


def _extrapolate(above: Level, level: Level, lower: Scalar, known: Bool[Array, ""]) -> Level:
    """Follow the potentials, smooth in epsilon, from two levels to the next."""
    fall = above.epsilon - level.epsilon
    known = known & jnp.isfinite(fall) & (fall > 0) & (lower < level.epsilon)
    fraction = (level.epsilon - lower) / jnp.where(known, fall, 1)
    f, g = (
        jnp.where(known, new + fraction * (new - old), new)
        for new, old in zip(level[:2], above[:2], strict=True)
    )
    return Level(f, g, lower)


def _status(end: _State, problem: Problem, solver: AbstractSolver) -> Status:
    f, g, error, _ = end.best
    met = error <= solver.tol
    finite = jnp.isfinite(error) & jnp.all(jnp.isfinite(f)) & jnp.all(jnp.isfinite(g))
    return judge(
        (~finite, Status.NON_FINITE),
        (met & (_rounding(problem, f, g) <= solver.tol), Status.CONVERGED),
        (met | (end.stalls >= _MOST_STALLS), Status.STALLED),
        otherwise=Status.MAX_STEPS,
    )


def _rounding(problem: Problem, f: Float[Array, " n"], g: Float[Array, " m"]) -> Scalar:
    """About how far an audit of costs without rounding may be from ours, of these costs.

    Costs and sums of potentials are off by some units in the last place, and log-densities by
    those over epsilon. Over the points of a row or column such errors partly cancel, the more
    the more points carry the mass: 1 / sum_i a_i^2 of them for weights a of total one. Of points
    of tiny weight that are far away, what is left of a log-density may be noise: its exponential
    is not of first order.
    """
    unit = 2 * jnp.finfo(f.dtype).eps / problem.epsilon
    a, b = problem.a / jnp.sum(problem.a), problem.b / jnp.sum(problem.b)
    noise_a, noise_b = unit * jnp.abs(f), unit * jnp.abs(g)
    concentration = jnp.sqrt(jnp.maximum(a @ a, b @ b))
    far = _beyond_first_order(a, noise_a) + _beyond_first_order(b, noise_b)
    return concentration * (a @ noise_a + b @ noise_b) + far


def _beyond_first_order(weights: Array, noise: Array) -> Scalar:
    """A bound on the sum of weights times e^noise - 1 - noise."""
    bound = weights * noise * jnp.expm1(noise) / 2
    return jnp.sum(jnp.where(weights > 0, bound, 0))
