"""The debiased Sinkhorn divergence: entropic transport that is zero between equal measures."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, ScalarLike

from transportx import _checks
from transportx._meshes import released
from transportx._status import Status, judge
from transportx.geometry import AbstractCost, Layout, SquaredEuclidean, cloud_between
from transportx.ot._anneal import Level, Solved
from transportx.ot._newton import Newton
from transportx.ot._plan import EntropicPlan
from transportx.ot._problem import Potentials, Problem
from transportx.ot._solve import (
    answer,
    cold_start,
    make_problem,
    solve_symmetric,
    warm_start,
)
from transportx.ot._solver import AbstractSolver

Scalar = Float[Array, ""]


@_checks.gate
class SinkhornDivergence(eqx.Module):
    """Sinkhorn divergence, and the three plans from which it is computed.

    Attributes:
        plan: Plan from the source to the target.
        plan_x: Plan from the source to itself.
        plan_y: Plan from the target to itself.

    Example:
        >>> x = jnp.array([[0.0], [1.0]])
        >>> divergence = tx.ot.sinkhorn_divergence(x, x + 3.0, epsilon=0.5)
        >>> isinstance(divergence, tx.ot.SinkhornDivergence), divergence.plan.matrix().shape
        (True, (2, 2))
    """

    plan: EntropicPlan
    plan_x: EntropicPlan
    plan_y: EntropicPlan

    @property
    def value(self) -> Scalar:
        """The divergence; it differentiates as `EntropicPlan.value` does."""
        masses = jnp.sum(self.plan.a), jnp.sum(self.plan.b)
        uneven = masses[0] - masses[1]
        # Rounding of equal masses, times a large epsilon, would count; its derivative does.
        rounding = 100 * jnp.finfo(uneven.dtype).eps * masses[0]
        uneven -= jax.lax.stop_gradient(jnp.where(jnp.abs(uneven) <= rounding, uneven, 0))
        within = (self.plan_x.value + self.plan_y.value) / 2
        return self.plan.value - within + self.plan.epsilon / 2 * uneven**2

    @property
    def gap(self) -> Scalar:
        """Bound on the error of `value`, from the gaps of the three plans."""
        return self.plan.gap + (self.plan_x.gap + self.plan_y.gap) / 2

    @property
    def status(self) -> Status:
        """Status of the first of the three plans that is not converged, or `CONVERGED`."""
        plans = self.plan, self.plan_x, self.plan_y
        failed = [(plan.status != Status.CONVERGED, plan.status) for plan in plans]
        return judge(*failed, otherwise=Status.CONVERGED)

    @property
    def converged(self) -> Bool[Array, ""]:
        """Whether all three plans are converged."""
        return self.plan.converged & self.plan_x.converged & self.plan_y.converged


@_checks.gate
def sinkhorn_divergence(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    a: Float[Array, " n"] | None = None,
    b: Float[Array, " m"] | None = None,
    *,
    epsilon: ScalarLike,
    rho: ScalarLike = jnp.inf,
    cost: AbstractCost | Callable[[Array, Array], Array] = SquaredEuclidean(),
    init: SinkhornDivergence | None = None,
    solver: AbstractSolver = Newton(),
    layout: Layout = Layout(),
) -> SinkhornDivergence:
    r"""Sinkhorn divergence: debiased entropic transport between two weighted clouds.

    $S(a, b) = OT(a, b) - OT(a, a)/2 - OT(b, b)/2 + \varepsilon (|a| - |b|)^2 / 2$, where the
    last term counts only between unequal masses. It is convex in each measure, not negative
    beyond the error of the solves (`gap`), and zero between equal measures, with zero
    gradient: as a loss it has no pull towards the mean, which `solve(...).value` has.

    Args:
        x: Source points, shape (n, d).
        y: Target points, shape (m, d).
        a: Source weights, shape (n,), non-negative; uniform by default.
        b: Target weights, shape (m,), non-negative; uniform by default.
        epsilon: Regularisation, in units of the cost. A small one nears transport, a
            large one the kernel distance of kernel -cost.
        rho: Penalty on both marginals, in units of the cost; infinity enforces them, a finite
            one lets outliers go.
        cost: Symmetric cost with exp(-cost / epsilon) a positive kernel, as squared and
            plain Euclidean distances are.
        init: Divergence of a similar pair, to start from: that of the step before, in
            a loop that moves points a little at a time.
        solver: Solver of all three plans; the two symmetric ones use only its tolerance and
            step limit.
        layout: Mesh of devices that share the costs, with points over its one axis, and the rows
            of costs computed at once. The number of devices divides the sizes of both clouds.

    Returns:
        The plans, with `value`, `gap`, `status` and `converged`.

    Raises:
        ValueError: Shapes, dimensions or weights disagree; `epsilon` or `rho` is a Python
            number that is not positive; or the devices of `layout.mesh` do not
            divide a cloud.

    Differentiation:
        `value` with respect to x, y, a, b, epsilon and rho by the envelope theorem, with no
        linear solve.

    Example:
        >>> x = jnp.array([[0.0], [1.0]])
        >>> divergence = tx.ot.sinkhorn_divergence(x, x + 3.0, epsilon=0.5)
        >>> round(float(divergence.value), 1), bool(divergence.converged)
        (9.0, True)

    References:
        Feydy, Sejourne, Vialard, Amari, Trouve and Peyre, 2019; Sejourne, Feydy, Vialard,
        Trouve and Peyre, Sinkhorn divergences for unbalanced optimal transport, 2019.
    """
    _checks.divided("x", x, layout.mesh)
    x, y, a, b = released(layout.mesh, (x, y, a, b))
    options = {"epsilon": epsilon, "rho": rho, "solver": solver}
    init_x, init_y = (None, None) if init is None else (init.plan_x.f, init.plan_y.f)
    plan_x = solve_symmetric(cloud_between(x, x, cost, layout=layout), a, init=init_x, **options)
    plan_y = solve_symmetric(cloud_between(y, y, cost, layout=layout), b, init=init_y, **options)
    problem = make_problem(cloud_between(x, y, cost, layout=layout), a, b, epsilon, rho, rho)
    begin = None if init is None else init.plan.potentials
    solved = _between(problem, solver, begin, plan_x.f, plan_y.f)
    return SinkhornDivergence(EntropicPlan(problem, *solved), plan_x, plan_y)


@eqx.filter_jit
def _between(
    problem: Problem, solver: AbstractSolver, init: Potentials | None, f: Array, g: Array
) -> Solved:
    """The solve between the two clouds, from the potentials within each if they are equal."""
    fixed = jax.lax.stop_gradient(problem)
    far = cold_start(fixed, solver) if init is None else warm_start(fixed, init)
    return answer(problem, solver, _start(fixed, far, f, g, solver.tol))


def _start(problem: Problem, far: Level, f: Array, g: Array, tol: float) -> Level:
    """Between equal measures the symmetric potentials, with which all terms cancel."""
    f, g = jax.lax.stop_gradient((f, g))
    kernel = problem.kernel(f, g)
    rows, columns = problem.a * (kernel @ problem.b), problem.b * (kernel.T @ problem.a)
    equal = problem.error(f, g, rows, columns) <= tol
    near = Level(f, g, problem.epsilon)
    return jax.tree.map(lambda one, other: jnp.where(equal, one, other), near, far)
