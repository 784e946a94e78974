"""`solve`: from costs and weights to an entropic plan."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from transportx import _checks
from transportx._status import Status, judge
from transportx.geometry import AbstractGeometry
from transportx.geometry.internal import DenseKernel
from transportx.ot._anneal import Level, Solved, anneal
from transportx.ot._feasible import is_feasible, is_regular, kinds_of_costs
from transportx.ot._implicit import optimal_potentials
from transportx.ot._newton import Newton
from transportx.ot._plan import EntropicPlan
from transportx.ot._problem import Potentials, Problem
from transportx.ot._sinkhorn import Symmetric
from transportx.ot._solver import AbstractSolver

# Streamed problems are solved first between this many points of each side.
_COARSE_POINTS = 4096
_COARSE_TOL = 0.01
# Annealing starts at this many times the spread of the costs.
_SPREAD = 1.0


@_checks.gate
def solve(
    geometry: AbstractGeometry,
    a: Float[Array, " n"] | None = None,
    b: Float[Array, " m"] | None = None,
    *,
    epsilon: ScalarLike,
    rho_a: ScalarLike = jnp.inf,
    rho_b: ScalarLike = jnp.inf,
    init: Potentials | None = None,
    solver: AbstractSolver = Newton(),
) -> EntropicPlan:
    r"""Solve entropic optimal transport between two weighted sets.

    Minimises $\langle P, C\rangle + \varepsilon\,\mathrm{KL}(P\,\|\,a\otimes b)
    + \rho_a\,\mathrm{KL}(P\mathbf 1\,\|\,a) + \rho_b\,\mathrm{KL}(P^\top\mathbf 1\,\|\,b)$
    with $\mathrm{KL}(p\|q) = \sum p \log(p/q) - p + q$; an infinite penalty enforces that
    marginal.

    Args:
        geometry: The costs, (n, m); an infinite one forbids a pair. Point clouds above
            their tile size are streamed, in O(n + m) memory; these are solved between a few
            thousand of their points first.
        a: Source weights, shape (n,), non-negative; uniform of total one by default. Zero is
            allowed: that row of the plan is zero.
        b: Target weights, shape (m,), non-negative; of the same total mass as `a` if both
            marginals are enforced.
        epsilon: Regularisation, in units of the cost.
        rho_a: Penalty on the source marginal, in units of the cost.
        rho_b: Penalty on the target marginal, in units of the cost.
        init: Potentials to start from, such as ``plan.potentials`` of a similar problem; the
            solve then starts at `epsilon` itself. By default epsilon is annealed: it starts
            at the spread of the costs, which is the mean absolute value of the costs less their
            row and column means, and falls to `epsilon` by factors of at most 8.
        solver: `Newton` or `Sinkhorn`, with tolerance and step limit.

    Returns:
        A plan whose `status` says whether to believe it and whose `gap` says how much.
        Unequal masses (both marginals enforced), negative weights, no mass, or an enforced
        point whose every cost is infinite are INFEASIBLE; NaN input and an epsilon or penalty
        that is not positive are NON_FINITE; both have NaN potentials. STALLED means that
        rounding stops short of `tol`, or that the marginals of exact costs might miss it for
        rounding alone: float32 meets 1e-3 down to an epsilon of about 1e-3 of the mean cost.
        Wherever a solve ends, the potentials are the best that were audited.

    Raises:
        ValueError: Weights do not match the geometry, or `epsilon`, `rho_a` or `rho_b` is
            a Python number that is not positive.

    Differentiation:
        With respect to points, costs and their parameters, weights, `epsilon`, `rho_a` and
        `rho_b`; forward, reverse and second order. `value` by the envelope theorem, with no
        linear solve; potentials and all else of the plan implicitly, by one symmetric solve.
        Residuals are O(n + m) for streamed problems. An answer short of its optimum gives
        derivatives of the equations linearised where it stands: their error is of the
        order of `marginal_error`, for potentials times the condition number of that solve.

    Example:
        >>> x, y = jnp.array([[0.0], [1.0]]), jnp.array([[0.0], [2.0]])
        >>> plan = tx.ot.solve(tx.geometry.PointCloud(x, y), epsilon=0.01)
        >>> bool(plan.converged), np.asarray(plan.matrix()).round(2).tolist()
        (True, [[0.5, 0.0], [0.0, 0.5]])

    References:
        Peyre and Cuturi, Computational Optimal Transport, 2019, section 4; Sejourne,
        Vialard and Peyre, Faster unbalanced optimal transport, 2022 (constant shifts).
    """
    problem = make_problem(geometry, a, b, epsilon, rho_a, rho_b)
    return EntropicPlan(problem, *_solve(problem, solver, init))


@_checks.gate
def solve_symmetric(
    geometry: AbstractGeometry,
    a: Float[Array, " n"] | None = None,
    *,
    epsilon: ScalarLike,
    rho: ScalarLike = jnp.inf,
    init: Float[Array, " n"] | None = None,
    solver: AbstractSolver = Newton(),
) -> EntropicPlan:
    """Solve the entropic transport of a weighted set onto itself, with one potential.

    The averaged Sinkhorn step at least halves the error wherever exp(-C / epsilon) is a
    positive kernel, whatever epsilon. The answer is that of `solve` with b = a and f = g.

    Args:
        geometry: Costs of a set with itself: (n, n) and symmetric, which is not checked
            beyond the shape.
        a: Weights, shape (n,), non-negative; uniform of total one by default.
        epsilon: Regularisation, in units of the cost.
        rho: Penalty on both marginals, in units of the cost; infinity enforces them.
        init: Potential (n,) to start from, such as `plan.f` of a similar problem.
        solver: Its tolerance and step limit are used; the step is the symmetric one.

    Returns:
        A plan with f = g, with its status.

    Raises:
        ValueError: The costs are not square, weights do not match them, or `epsilon` or `rho`
            is a Python number that is not positive.

    Differentiation:
        With respect to points, costs, weights, `epsilon` and `rho`: `value` by the envelope
        theorem, potentials implicitly.

    Example:
        >>> x = jnp.array([[0.0], [1.0], [3.0]])
        >>> plan = tx.ot.solve_symmetric(tx.geometry.PointCloud(x, x), epsilon=1.0)
        >>> bool(plan.converged), bool(jnp.all(plan.f == plan.g))
        (True, True)

    References:
        Feydy, Sejourne, Vialard, Amari, Trouve and Peyre, Interpolating between optimal
        transport and MMD using Sinkhorn divergences, 2019, section 3.1.
    """
    n, m = geometry.shape
    if n != m:
        _checks.reject("geometry", f"has shape {(n, m)}", "give costs of one set with itself")
    problem = make_problem(geometry, a, a, epsilon, rho, rho)
    return EntropicPlan(problem, *_solve_symmetric(problem, solver, init))


# Compiled, and without the problem, which would be copied: the plan takes it from the caller.
@eqx.filter_jit
def _solve(problem: Problem, solver: AbstractSolver, init: Potentials | None) -> Solved:
    fixed = jax.lax.stop_gradient(problem)
    start = cold_start(fixed, solver) if init is None else warm_start(fixed, init)
    return answer(problem, solver, start)


@eqx.filter_jit
def _solve_symmetric(problem: Problem, solver: AbstractSolver, init: Array | None) -> Solved:
    fixed = jax.lax.stop_gradient(problem)
    if init is not None:
        start = warm_start(fixed, (init, init))
    else:
        f, g, level = cold_start(fixed, solver)
        start = Level((f + g) / 2, (f + g) / 2, level)
    return answer(problem, Symmetric(solver.tol, solver.max_steps), start)


def cold_start(problem: Problem, solver: AbstractSolver) -> Level:
    """Start with no potentials known: anneal; streamed problems between some of their points."""
    return _coarse_start(problem, solver) if problem.geometry.streams else _dense_start(problem)


def warm_start(problem: Problem, init: Potentials) -> Level:
    """Potentials of a similar problem, at the epsilon of this one."""
    for name, potential, weights in zip(("f", "g"), init, (problem.a, problem.b), strict=True):
        if potential.shape != weights.shape:
            cure = f"give one number per point, shape {weights.shape}"
            _checks.reject("init", f"has {name} of shape {potential.shape}", cure)
    f, g = (_finite(jax.lax.stop_gradient(p).astype(problem.a.dtype)) for p in init)
    return Level(f, g, problem.epsilon)


def make_problem(
    geometry: AbstractGeometry,
    a: Float[Array, " n"] | None,
    b: Float[Array, " m"] | None,
    epsilon: ScalarLike,
    rho_a: ScalarLike,
    rho_b: ScalarLike,
) -> Problem:
    """Check what can be checked while tracing, and bring all numbers to the costs' dtype."""
    for name, number in (("epsilon", epsilon), ("rho_a", rho_a), ("rho_b", rho_b)):
        _checks.positive(name, number)
    n, m = geometry.shape
    dtype = geometry.working_dtype
    given = a, b
    a, b = _weights("a", a, n, dtype), _weights("b", b, m, dtype)
    if any(w is not None and jnp.finfo(w.dtype).eps > jnp.finfo(dtype).eps for w in given):
        b = _with_mass_of(a, b, given, (rho_a, rho_b))
    geometry = geometry.weighed(a, b)
    epsilon, rho_a, rho_b = (jnp.asarray(number, dtype) for number in (epsilon, rho_a, rho_b))
    return Problem(geometry, a, b, epsilon, 1 / rho_a, 1 / rho_b)


def answer(problem: Problem, solver: AbstractSolver, start: Level) -> Solved:
    """Solve, attach the derivatives of the optimum; NaN throughout where there is no answer."""
    fixed = jax.lax.stop_gradient(problem)
    known, reached_a, reached_b = kinds_of_costs(fixed)
    feasible = is_feasible(fixed, reached_a, reached_b)
    sound = feasible & is_regular(fixed) & known
    # Rows that may send nothing, where that is allowed, are those of the plan without them.
    alone = fixed.between(
        fixed.geometry, jnp.where(reached_a, fixed.a, 0), jnp.where(reached_b, fixed.b, 0)
    )
    epsilon = jnp.where(sound, start.epsilon, jnp.nan)
    solved = anneal(alone, solver, start._replace(epsilon=epsilon))
    known &= jnp.all(jnp.isfinite(fixed.a)) & jnp.all(jnp.isfinite(fixed.b))
    status = judge((known & ~feasible, Status.INFEASIBLE), otherwise=solved.status)
    failed = (status == Status.NON_FINITE) | (status == Status.INFEASIBLE)
    f, g, error = (jnp.where(failed, jnp.nan, part) for part in solved[:3])
    return Solved(*optimal_potentials(problem, f, g), error, solved.num_steps, status)


def _dense_start(problem: Problem) -> Level:
    """Potentials of a large epsilon, and the spread of the costs less them, to anneal from.

    In the limit of large epsilon the potentials are the mean costs of a row and of a column.
    Only the costs less these determine the plan, whatever constant or separable term the
    costs have: their mean absolute value is the scale at which epsilon begins to matter.
    """
    matrix = problem.geometry.working_matrix()
    allowed = matrix < jnp.finfo(matrix.dtype).max / 1e3
    matrix = jnp.where(allowed, matrix, 0)
    a, b, costs = problem.a, problem.b, DenseKernel(matrix)
    mass_a, mass_b = jnp.sum(a), jnp.sum(b)
    f, g = (costs @ b) / mass_b, (costs.T @ a) / mass_a
    mean = (a @ f) / mass_a
    f, g = f - mean / 2, g - mean / 2
    left = DenseKernel(jnp.where(allowed, jnp.abs(f[:, None] + g[None, :] - matrix), 0))
    spread = (a @ (left @ b)) / (mass_a * mass_b)
    level = problem.at(_SPREAD * spread)
    return Level(level.damping_a * f, level.damping_b * g, level.epsilon)


def _coarse_start(problem: Problem, solver: AbstractSolver) -> Level:
    """Potentials of the problem between some of the points, extended to all of them."""
    n, m = problem.geometry.shape
    few_a, few_b = (slice(None, None, -(-size // _COARSE_POINTS)) for size in (n, m))
    a, b = problem.a[few_a], problem.b[few_b]
    a, b = a * (jnp.sum(problem.a) / jnp.sum(a)), b * (jnp.sum(problem.b) / jnp.sum(b))
    few = problem.between(problem.geometry.restrict(few_a, few_b), a, b)
    coarse = Newton(max(solver.tol, _COARSE_TOL), solver.max_steps)
    solved = anneal(few, coarse, _dense_start(few))
    f = problem.between(problem.geometry.restrict(slice(None), few_b), problem.a, b).update_f(
        solved.g
    )
    g = problem.between(problem.geometry.restrict(few_a), a, problem.b).update_g(solved.f)
    return Level(_finite(f), _finite(g), problem.epsilon)


def _finite(potential: Array) -> Array:
    return jnp.where(jnp.isfinite(potential), potential, 0)


def _weights(name, weights, size, dtype):
    if weights is None:
        return jnp.full(size, 1 / size, dtype)
    if weights.shape != (size,):
        cure = f"give one weight per point, shape ({size},)"
        _checks.reject(name, f"has shape {weights.shape}", cure)
    _checks.floating(name, weights)
    return weights.astype(dtype)


def _with_mass_of(a, b, given, penalties):
    """`b` with the mass of `a`, where both are enforced and differ by rounding alone.

    Weights may be coarser than the costs: float32 weights, say, of float64 points.
    """
    rounding = max(float(jnp.finfo(w.dtype).eps) for w in given if w is not None)
    ratio = jax.lax.stop_gradient(jnp.sum(a) / jnp.sum(b))
    close = jnp.abs(ratio - 1) <= 8 * rounding
    enforced = jnp.all(jnp.isinf(jnp.stack([jnp.asarray(rho, a.dtype) for rho in penalties])))
    return jnp.where(close & enforced, ratio, 1) * b
