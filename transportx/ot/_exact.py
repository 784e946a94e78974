"""Exact optimal transport between weighted sets: rounds of pricing and of network simplex."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.buffer_callback import buffer_callback
from jaxtyping import Array, Bool, Float, Int

from transportx import _checks
from transportx._status import Status, judge
from transportx._varying import alike
from transportx.geometry import AbstractGeometry
from transportx.geometry.internal import Largest, capped_exp, log_totals
from transportx.ot._basis import Basis, Prices, next_basis
from transportx.ot._exact_plan import ExactPlan, PairMasses, duality_gap
from transportx.ot._feasible import is_feasible, kinds_of_costs
from transportx.ot._problem import Problem
from transportx.ot._solve import make_problem

Scalar = Float[Array, ""]

# Pairs that each point has priced in a round: the best of so many classes of partners.
_CLASSES = 16
# Potentials to start from are those between so many points of each side.
_FEW_POINTS = 1024
_RELATIVE_EPSILONS = (0.3, 0.1, 0.03, 0.01, 0.003)
_STEPS_EACH = 30
# A cost is below its potentials if by more than so many units of rounding.
_ROUNDING = 16
# Mass that finds no way is rounding of the weights up to so many units.
_LOST = 64


@_checks.gate
def exact(
    geometry: AbstractGeometry,
    a: Float[Array, " n"] | None = None,
    b: Float[Array, " m"] | None = None,
    *,
    tol: float = 1e-6,
    max_rounds: int = 100,
) -> ExactPlan:
    r"""Exact optimal transport between two weighted sets, by the network simplex.

    Minimises $\langle P, C\rangle$ over plans with marginals a and b. Entropic potentials choose
    O(n + m) pairs and a spanning tree of them to start from; the network simplex finds the best
    plan over these pairs, on the host in float64; all other pairs are priced against its
    potentials in tiles, and those that are too cheap join. The search ends where rounding hides
    which pairs those are, so the plan is a vertex, with at most n + m pairs, and the potentials
    certify it. Costs are never held whole where the geometry streams.

    Args:
        geometry: The costs, (n, m); an infinite one forbids a pair.
        a: Source weights, shape (n,), non-negative; uniform of total one by default.
        b: Target weights, shape (m,), non-negative, of the total of `a`.
        tol: The duality gap up to which an answer counts as `CONVERGED`, in units of the value
            and of the mass times a typical cost. What is found is as exact as rounding allows.
        max_rounds: Largest number of rounds of pricing.

    Returns:
        A plan with its pairs, potentials, `value`, `gap` and `status`. INFEASIBLE where a weight
        is negative, masses differ or are zero, or infinite costs leave no plan; NON_FINITE where
        a number is NaN. Then all numbers are NaN, and the pairs are out of range.

    Raises:
        ValueError: Weights do not match the geometry, `tol` is not positive, or `max_rounds` is
            no positive integer.

    Differentiation:
        `value` with respect to points, costs and their parameters, and weights, by the envelope
        theorem, wherever the optimum is unique: the plan is the derivative in the costs, the
        potentials those in the weights. Plan and potentials themselves are constants.

    Example:
        >>> x, y = jnp.array([[0.0], [1.0]]), jnp.array([[0.0], [2.0], [3.0]])
        >>> b = jnp.array([0.5, 0.25, 0.25])
        >>> plan = tx.ot.exact(tx.geometry.PointCloud(x, y), b=b)
        >>> bool(plan.converged), plan.matrix().tolist()
        (True, [[0.5, 0.0, 0.0], [0.0, 0.25, 0.25]])

    References:
        Peyre and Cuturi, Computational Optimal Transport, 2019, section 3; Ge, Wang, Xiong and
        Ye, From an interior point to a corner point: smart crossover, 2021.
    """
    _checks.positive("tol", tol)
    _checks.count("max_rounds", max_rounds)
    problem = make_problem(geometry, a, b, 1.0, jnp.inf, jnp.inf)
    return ExactPlan(problem.geometry, problem.a, problem.b, *_exact(problem, tol, max_rounds))


class _State(NamedTuple):
    """State of the search between rounds."""

    basis: Basis
    prices: Prices
    wrong: Bool[Array, ""]
    stage: Int[Array, ""]


@eqx.filter_jit
def _exact(problem: Problem, tol: float, max_rounds: int) -> tuple[Any, ...]:
    fixed = jax.lax.stop_gradient(problem)
    geometry, a, b = fixed.geometry, fixed.a, fixed.b
    known, reached_a, reached_b = kinds_of_costs(fixed)
    known &= jnp.all(jnp.isfinite(a)) & jnp.all(jnp.isfinite(b))
    sound = known & is_feasible(fixed, reached_a, reached_b)
    last, unit = _search(geometry, a, b, sound, max_rounds)
    pairs, f, g = _certified(fixed, last.basis)
    gap, cost = duality_gap(geometry, pairs, f, g)
    size = jnp.abs(cost) + unit * jnp.sum(a)
    lost = last.basis.misplaced > _LOST * jnp.finfo(a.dtype).eps * jnp.sum(a)
    status = judge(
        (~known, Status.NON_FINITE),
        (~sound | (lost & ~last.wrong), Status.INFEASIBLE),
        (~lost & (gap <= tol * size), Status.CONVERGED),
        (last.wrong, Status.MAX_STEPS),
        otherwise=Status.STALLED,
    )
    failed = ~sound | lost
    n, m = geometry.shape
    masses, f, g, gap = (jnp.where(failed, jnp.nan, part) for part in (pairs.masses, f, g, gap))
    sources, targets = jnp.where(failed, n, pairs.sources), jnp.where(failed, m, pairs.targets)
    return PairMasses(sources, targets, masses), f, g, gap, last.stage, status


def _search(
    geometry: AbstractGeometry,
    a: Float[Array, " n"],
    b: Float[Array, " m"],
    sound: Bool[Array, ""],
    max_rounds: int,
) -> tuple[_State, Scalar]:
    """The last basis, and the size of a typical cost."""
    n, m = geometry.shape
    f, g, scale, unit = _start(geometry, a, b)
    zeros, zero = jnp.zeros(n + m, a.dtype), jnp.zeros((), a.dtype)
    none = jnp.full(n + m, -1, jnp.int32)
    basis = Basis(none, zeros, zeros, f, g, zero, zero, jnp.array(True))

    def price(basis):
        # Points without weight are in no pair.
        f, g = jnp.where(a > 0, basis.f, -jnp.inf), jnp.where(b > 0, basis.g, -jnp.inf)
        prices = Prices(*_best(geometry, f, g), *_best(geometry.T, g, f))
        shares = _ROUNDING * jnp.finfo(a.dtype).eps
        cheap = [
            jnp.any(jnp.max(below, axis=1) > shares * (jnp.abs(own) + unit))
            for below, own in ((prices.of_rows, basis.f), (prices.of_columns, basis.g))
        ]
        return prices, cheap[0] | cheap[1]

    def turn(state):
        basis = _on_host(state, a, b, scale)
        prices, cheap = price(basis)
        wrong = (state.stage == 0) | (cheap & basis.moved)
        return _State(basis, prices, wrong, state.stage + 1)

    start = _State(basis, price(basis)[0], sound, jnp.array(0, jnp.int32))
    last = jax.lax.while_loop(
        lambda state: state.wrong & (state.stage <= max_rounds), turn, alike(start, a, b, unit)
    )
    return last, unit


def _best(
    geometry: AbstractGeometry, f: Float[Array, " n"], g: Float[Array, " m"], k: int = _CLASSES
) -> tuple[Float[Array, "n k"], Int[Array, "n k"]]:
    """The largest f_i + g_j - C_ij of each row over each of k classes of targets, and where."""
    m = g.size
    k = min(k, m)
    columns = g, jnp.arange(m, dtype=jnp.int32)
    return geometry.fold_tiles(Largest(m, k), eqx.Partial(_best_of_classes, k, m), columns, f)


def _best_of_classes(k, m, columns, costs, f):
    g, targets = columns
    rest = -costs.shape[1] % k
    below = jnp.pad(
        f[:, None] + g[None, :] - costs, ((0, 0), (0, rest)), constant_values=-jnp.inf
    ).reshape(costs.shape[0], -1, k)
    targets = jnp.pad(targets, (0, rest), constant_values=m)
    place = jnp.argmax(below, axis=1)
    best = jnp.max(below, axis=1)
    return best, targets[place * k + jnp.arange(k)[None, :]]


def _on_host(state: _State, a: Float[Array, " n"], b: Float[Array, " m"], scale: Scalar) -> Basis:
    """The next basis; where nothing is wrong any more, the same one."""
    answer = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state.basis)
    given = (*state, a, b, scale)

    def on_cpu(given):
        # Not `jax.pure_callback`: see `ot.assignment`.
        return buffer_callback(_next_into, answer, vmap_method="broadcast_all")(*given)

    def elsewhere(given):
        return jax.pure_callback(_next, answer, *given, vmap_method="broadcast_all")

    found = jax.lax.platform_dependent(given, cpu=on_cpu, default=elsewhere)
    return alike(found, state, a, b, scale)


def _next_into(_, found, *given) -> None:
    for buffer, numbers in zip(found, _next(*given), strict=True):
        np.asarray(buffer)[...] = numbers


def _next(basis, prices, wrong, stage, a, b, scale) -> Basis:
    """One problem, or many along a leading axis, by plain numpy alone."""
    basis, prices = Basis(*map(np.asarray, basis)), Prices(*map(np.asarray, prices))
    wrong, stage, a, b, scale = map(np.asarray, (wrong, stage, a, b, scale))
    found = Basis(*(np.empty_like(part) for part in basis))
    for at in np.ndindex(wrong.shape):
        now = Basis(*(part[at] for part in basis))
        if wrong[at]:
            priced = Prices(*(part[at] for part in prices))
            now = Basis(*(part.astype(float) if part.dtype.kind == "f" else part for part in now))
            weights = a[at].astype(float), b[at].astype(float)
            now = next_basis(now, priced, *weights, float(scale[at]), int(stage[at]))
        for part, numbers in zip(found, now, strict=True):
            part[at] = numbers
    return found


def _certified(problem: Problem, basis: Basis) -> tuple[PairMasses, Array, Array]:
    """Pairs with their masses, and potentials of which each is the best for the other.

    Points without a pair are in one without mass, at the lowest reduced cost.
    """
    geometry, a, b = problem.geometry, problem.a, problem.b
    n, m = geometry.shape
    zeros = jnp.zeros_like(a), jnp.zeros_like(b)
    most = jnp.finfo(a.dtype).max / 1e6
    below, near = _best(geometry, zeros[0], jnp.where(b > 0, basis.g, -jnp.inf), 1)
    f = jnp.clip(-below[:, 0], -most, most)
    below, near_b = _best(geometry.T, zeros[1], jnp.where(a > 0, f, -jnp.inf), 1)
    g = jnp.clip(-below[:, 0], -most, most)
    top = basis.parents == n + m
    sources = jnp.concatenate([jnp.arange(n, dtype=jnp.int32), basis.parents[n:]])
    sources = jnp.where(top & (sources >= n), jnp.pad(near_b[:, 0], (n, 0)), sources)
    targets = jnp.concatenate([basis.parents[:n] - n, jnp.arange(m, dtype=jnp.int32)])
    targets = jnp.where(top & (targets >= m), jnp.pad(near[:, 0], (0, m)), targets)
    middle = (jnp.sum(b * g) - jnp.sum(a * f)) / (jnp.sum(a) + jnp.sum(b))
    return PairMasses(sources, targets, jnp.where(top, 0, basis.masses)), f + middle, g - middle


def _start(
    geometry: AbstractGeometry, a: Float[Array, " n"], b: Float[Array, " m"]
) -> tuple[Array, Array, Scalar, Scalar]:
    """Entropic potentials to choose pairs by, the scale of costs' differences and that of costs.

    Both scales are medians: costs that mark pairs to avoid, and points far away, do not matter.
    """
    n, m = geometry.shape
    few_a, few_b = (slice(None, None, -(-size // _FEW_POINTS)) for size in (n, m))
    costs = geometry.restrict(few_a, few_b).working_matrix()
    scale, unit = _scales(costs)
    floors = [1e-3 * jnp.sum(w) / w.size for w in (a, b)]
    log_a, log_b = (jnp.log(jnp.maximum(w, w0)) for w, w0 in zip((a, b), floors, strict=True))
    f, g, epsilon = _anneal(costs, log_a[few_a], log_b[few_b], scale)
    if n > log_a[few_a].size or m > log_b[few_b].size:
        rows, columns = geometry.restrict(slice(None), few_b), geometry.restrict(few_a).T
        f, g = (
            epsilon * (log_weights - log_totals(part, jnp.ones_like(potential), potential, epsilon))
            for log_weights, part, potential in ((log_a, rows, g), (log_b, columns, f))
        )
    return _finite(f), _finite(g), scale, unit


def _scales(costs: Float[Array, "n m"]) -> tuple[Scalar, Scalar]:
    """Medians of the differences of differences of costs, and of their sizes."""
    rows, columns = (slice(None, None, -(-size // 256)) for size in costs.shape)
    costs = costs[rows, columns]
    shifted = jnp.roll(costs, 1, axis=0)
    bent = jnp.abs(costs - shifted - jnp.roll(costs - shifted, 1, axis=1))
    unit, scale = (
        jnp.nanmedian(jnp.where(x < jnp.inf, x, jnp.nan)) for x in (jnp.abs(costs), bent)
    )
    unit = jnp.where(unit > 0, unit, jnp.max(jnp.abs(costs), where=costs < jnp.inf, initial=0))
    scale = jnp.where(scale > 0, scale / 2, unit)
    return jnp.where(scale > 0, scale, 1), jnp.where(unit > 0, unit, 0)


def _anneal(
    costs: Float[Array, "k l"], log_a: Float[Array, " k"], log_b: Float[Array, " l"], scale: Scalar
) -> tuple[Array, Array, Scalar]:
    """Potentials of the plan exp((f_i + g_j - C_ij) / epsilon), after some Sinkhorn steps."""
    a, b = jnp.exp(log_a - jnp.max(log_a)), jnp.exp(log_b - jnp.max(log_b))

    def level(potentials, relative):
        f, g = potentials
        epsilon = relative * scale
        kernel = capped_exp((f[:, None] + g[None, :] - costs) / epsilon)

        def step(_, scalings):
            rows = a / (kernel @ scalings[1])
            return rows, b / (rows @ kernel)

        ones = jnp.ones_like(f), jnp.ones_like(g)
        scalings = jax.lax.fori_loop(0, _STEPS_EACH, step, alike(ones, kernel))
        f, g = (p + _finite(epsilon * jnp.log(s)) for p, s in zip((f, g), scalings, strict=True))
        return (f, g), None

    start = jnp.min(costs, axis=1), jnp.zeros_like(log_b)
    relatives = jnp.array(_RELATIVE_EPSILONS, costs.dtype)
    start = alike((_finite(start[0]), start[1]), costs, log_a, log_b)
    (f, g), _ = jax.lax.scan(level, start, relatives)
    return f, g, relatives[-1] * scale


def _finite(numbers: Array) -> Array:
    return jnp.where(jnp.isfinite(numbers), numbers, 0)
