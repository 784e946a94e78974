"""The reference solver: the convex form of steering as a semidefinite program."""

import math
import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from transportx import _checks
from transportx._status import Status, judge
from transportx.control._answer import Solved, Steering, assemble
from transportx.control._problem import Means, SteeringProblem
from transportx.control._solver import AbstractSteeringSolver, soundness


@_checks.gate
class Conic(AbstractSteeringSolver):
    """The convex form of steering as a semidefinite program, by an interior-point method.

    The variables are the covariances S, U = K S and Y of all steps (`DualNewton` has the
    formulas), with one linear matrix inequality per step; penalties are logarithms of
    determinants. Means are a quadratic program. It runs on the host, in float64, in seconds, and
    has no derivatives: a reference, independent of `DualNewton`, for small problems. The
    `residual` of its answer is that of an enforced target alone. It needs `cvxpy` and `clarabel`:
    ``pip install "transportx[control]"``.

    Attributes:
        tol: Bound on the relative gap and on the infeasibility of the program.
        max_steps: Largest number of interior-point steps.

    Example:
        >>> tx.control.Conic(tol=1e-8).max_steps
        200
    """

    tol: float = eqx.field(static=True, default=1e-9)
    max_steps: int = eqx.field(static=True, default=200)

    def __check_init__(self):
        _checks.positive("tol", self.tol)
        if math.isinf(self.tol):
            _checks.reject("tol", "is infinite", "give the gap that the program may have")
        _checks.count("max_steps", self.max_steps)

    def answer(self, problem: SteeringProblem) -> Steering:
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(problem)):
            cure = "call it outside of jit, vmap and grad, or use `DualNewton`"
            _checks.reject("solver", "is `Conic`, which runs on the host", cure)
        cvxpy = _cvxpy()
        sound = soundness(problem)
        if jnp.isnan(sound.scale):
            status = judge(*sound.cases, otherwise=Status.INFEASIBLE)
            means, solved = _nothing(problem)
            return assemble(problem, means, solved, jnp.array(0), status)
        numbers: Any = jax.tree.map(lambda x: np.asarray(x, np.float64), problem)
        options: dict[str, Any] = {
            "max_iter": self.max_steps,
            **dict.fromkeys(("tol_gap_rel", "tol_gap_abs", "tol_feas"), self.tol),
        }
        _check_source(numbers)
        means, word = _means(cvxpy, numbers, options)
        solved, steps, other = _covariances(cvxpy, numbers, options)
        if not math.isfinite(means.cost + solved.cost):
            means, solved = _nothing(problem)
        status = judge(
            *((jnp.array(cvxpy.INFEASIBLE in end), Status.INFEASIBLE) for end in (word, other)),
            (jnp.array(word == other == cvxpy.OPTIMAL), Status.CONVERGED),
            (jnp.array(steps >= self.max_steps), Status.MAX_STEPS),
            otherwise=Status.STALLED,
        )
        means, solved = jax.tree.map(lambda x: x.astype(problem.R.dtype), (means, solved))
        return assemble(problem, means, solved, jnp.array(steps), status)


def _cvxpy() -> Any:
    try:
        import clarabel  # noqa: F401
        import cvxpy
    except ImportError as error:
        cure = 'install them with pip install "transportx[control]"'
        raise ImportError(f"`Conic` needs cvxpy and clarabel; {cure}.") from error
    return cvxpy


def _check_source(problem: Any) -> None:
    least = np.linalg.eigvalsh(problem.source.covariance)[0]
    if problem.loose_a > 0 and least <= 0:
        cure = "enforce it, or use `DualNewton`"
        _checks.reject("source.covariance", "is singular and penalised", cure)


def _nothing(problem: SteeringProblem) -> tuple[Means, Solved]:
    """The answer to a problem that has none."""
    steps, d, m = problem.system.B.shape
    nan = jnp.array(jnp.nan, problem.R.dtype)
    shapes = (steps, m, d), (steps, m, m), (steps + 1, d, d), (), (), ()
    means = Means(jnp.full((steps + 1, d), nan), jnp.full((steps, m), nan), nan)
    return means, Solved(*(jnp.full(shape, nan) for shape in shapes))


def _solve(cvxpy, cost, constraints, options) -> tuple[float, Any, str]:
    """The optimal cost, the solver's own report, and its last word."""
    program = cvxpy.Problem(cvxpy.Minimize(cost), constraints)
    data, chain, inverse = program.get_problem_data(cvxpy.CLARABEL, solver_opts=options)
    report = chain.solve_via_data(program, data, solver_opts=dict(options))
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        try:
            program.unpack_results(report, chain, inverse)
        except cvxpy.SolverError:
            return math.nan, report, cvxpy.SOLVER_ERROR
    found = math.nan if program.value is None else float(program.value)
    return found, report, program.status


def _valued(variable) -> np.ndarray:
    return np.full(variable.shape, np.nan) if variable.value is None else np.asarray(variable.value)


def _means(cvxpy, problem: Any, options) -> tuple[Means, str]:
    system = problem.system
    steps, d, m = system.B.shape
    states, controls = cvxpy.Variable((steps + 1, d)), cvxpy.Variable((steps, m))
    constraints = [
        states[k + 1] == system.A[k] @ states[k] + system.B[k] @ controls[k] for k in range(steps)
    ]
    root = np.linalg.cholesky(problem.R)
    cost = cvxpy.sum_squares(controls @ root)
    for end, law, loose in _ends(problem):
        apart = states[end] - law.mean
        if loose == 0:
            constraints.append(apart == 0)
        else:
            white = np.linalg.inv(np.linalg.cholesky(law.covariance))
            cost += cvxpy.sum_squares(white @ apart) / (2 * loose)
    found, _, word = _solve(cvxpy, cost, constraints, options)
    return Means(*map(jnp.asarray, (_valued(states), _valued(controls), found))), word


def _covariances(cvxpy, problem: Any, options) -> tuple[Solved, int, str]:
    system = problem.system
    steps, d, m = system.B.shape
    states = [cvxpy.Variable((d, d), symmetric=True) for _ in range(steps + 1)]
    joint = [cvxpy.Variable((d + m, d + m), PSD=True) for _ in range(steps)]
    cost, constraints = cvxpy.Constant(0), []
    for k in range(steps):
        both = np.concatenate([system.A[k], system.B[k]], axis=1)
        constraints += [
            joint[k][:d, :d] == states[k],
            states[k + 1] == both @ joint[k] @ both.T + system.noise[k],
        ]
        cost += cvxpy.trace(problem.R @ joint[k][d:, d:])
    for end, law, loose in _ends(problem):
        if loose == 0:
            constraints.append(states[end] == law.covariance)
        else:
            log_det = np.linalg.slogdet(law.covariance)[1]
            trace = cvxpy.trace(np.linalg.inv(law.covariance) @ states[end])
            cost += (trace - d - cvxpy.log_det(states[end]) + log_det) / (2 * loose)
    found, report, word = _solve(cvxpy, cost, constraints, options)
    if not math.isfinite(found):
        return _nothing(problem)[1], report.iterations, word
    return _as_policy(problem, states, joint, found, report), report.iterations, word


def _ends(problem: Any):
    yield 0, problem.source, float(problem.loose_a)
    yield problem.system.num_steps, problem.target, float(problem.loose_b)


def _as_policy(problem: Any, states, joint, found: float, report) -> Solved:
    """K = U S^-1 and the noise Y - U S^-1 U^T, without what rounding makes negative."""
    d = problem.system.A.shape[1]
    gains, noise = [], []
    for variable in joint:
        moments = _valued(variable)
        gain = moments[d:, :d] @ np.linalg.pinv(moments[:d, :d], hermitian=True)
        values, vectors = np.linalg.eigh(moments[d:, d:] - gain @ moments[:d, d:])
        gains.append(gain)
        noise.append((vectors * np.maximum(values, 0)) @ vectors.T)
    made = [_valued(state) for state in states]
    white = np.linalg.inv(np.linalg.cholesky(problem.target.covariance))
    missed = white @ (made[-1] - problem.target.covariance) @ white.T
    residual = np.max(np.abs(missed)) if problem.loose_b == 0 else 0.0
    gap = abs(report.obj_val - report.obj_val_dual)
    stacked = map(np.stack, (gains, noise, made))
    return Solved(*map(jnp.asarray, (*stacked, found, gap, residual)))
