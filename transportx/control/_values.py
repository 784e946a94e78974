"""Value-driven transport between finite sets: the linear program whose duals are values."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float

from transportx import _checks, _precision
from transportx._status import Status, judge

Scalar = Float[Array, ""]


@_checks.gate
class ValueTransport(eqx.Module):
    r"""Transport in H steps over finite sets, with the value function of each step.

    Values obey $V_h(x) \le H |x' - x|^2 + V_{h+1}(x')$ for all pairs of one step and the next,
    with equality wherever a plan has mass.

    Attributes:
        values: V_h at the points of set h, one array of shape (n_h,) for each of H + 1 sets.
        plans: Mass that goes from set h to set h + 1, one array (n_h, n_{h+1}) for each of H
            steps.
        value: Least cost, as the values give it: a lower bound.
        gap: What the plans cost more, at most.
        status: CONVERGED, STALLED, NON_FINITE or INFEASIBLE. All numbers are NaN after the last
            two.

    Example:
        >>> line = jnp.array([[0.0], [1.0], [2.0]])
        >>> start, end = jnp.array([1.0, 0.0, 0.0]), jnp.array([0.0, 0.0, 1.0])
        >>> made = tx.control.value_transport((line, line, line), start, end)
        >>> made.plans[0].round(3).tolist()[0]  # by way of the midpoint
        [0.0, 1.0, 0.0]
    """

    values: tuple[Float[Array, " _"], ...]
    plans: tuple[Float[Array, "_ _"], ...]
    value: Scalar
    gap: Scalar
    status: Status

    @property
    def converged(self) -> Bool[Array, ""]:
        """Whether the linear program was solved."""
        return self.status == Status.CONVERGED


@_checks.gate
def value_transport(
    points: Sequence[Float[Array, "_ d"]], a: Float[Array, " n"], b: Float[Array, " m"]
) -> ValueTransport:
    r"""Transport in H steps of cost H |x' - x|^2 over finite sets of points, exactly.

    Minimises $\sum_h \sum_{ij} P_{h,ij}\,H\,|x_{h+1,j} - x_{h,i}|^2$ over plans between
    neighbouring sets, of which the first has the source's weights, the last the target's, and
    each leaves what the one before it brings. The dual maximises $\langle V_0, a\rangle - \langle
    V_H, b\rangle$ under $V_h(x) \le H |x' - x|^2 + V_{h+1}(x')$: its unknowns are value
    functions. The least cost is W2^2 where every point on every straight way is in its set, and
    more elsewhere. The linear program has $\sum_h n_h n_{h+1}$ unknowns and is solved on the
    host, in float64, by HiGHS (`scipy`), outside of `jit`: the truth for small sets.

    Args:
        points: The sets, H + 1 of them and at least two: source, those between, target; arrays of
            shape (n_h, d).
        a: Source weights, shape (n,), non-negative.
        b: Target weights, shape (m,), of the same total.

    Returns:
        Values, plans and the least cost. INFEASIBLE where a weight is negative, all are zero, or
        the totals differ.

    Raises:
        ValueError: There are fewer than two sets, weights do not match them, or an array is
            traced.

    Example:
        >>> line = jnp.array([[0.0], [1.0], [2.0]])
        >>> start, end = jnp.array([1.0, 0.0, 0.0]), jnp.array([0.0, 0.0, 1.0])
        >>> made = tx.control.value_transport((line, line, line), start, end)
        >>> round(float(made.value), 3)  # 2 (1 + 1) = 2^2
        4.0

    References:
        Generative Modeling by Value-Driven Transport, arXiv:2605.22507, 2026.
    """
    if len(points) < 2:
        _checks.reject("points", f"holds {len(points)} sets", "give a source and a target at least")
    _checks.shaped("a", a, points[0].shape[:1], "one weight per source point")
    _checks.shaped("b", b, points[-1].shape[:1], "one weight per target point")
    given = (*points, a, b)
    if any(isinstance(array, Tracer) for array in given):
        _checks.reject("points", "or weights are traced", "call it outside of jit, vmap and grad")
    dtype = _precision.common(*(array.dtype for array in given))
    *sets, source, target = (np.asarray(array, np.float64) for array in given)
    finite = all(np.all(np.isfinite(array)) for array in (*sets, source, target))
    rounding = 8 * float(jnp.finfo(dtype).eps) * np.sum(source)
    signs = np.all(source >= 0) and np.all(target >= 0) and np.sum(source) > 0
    feasible = signs and abs(np.sum(source) - np.sum(target)) <= rounding
    costs = [_costs(x, y, len(sets) - 1) for x, y in zip(sets, sets[1:], strict=False)]
    solved = finite and feasible
    numbers, optimal = _solve(costs, source, target) if solved else (_nothing(costs), False)
    status = judge(
        (jnp.array(not finite), Status.NON_FINITE),
        (jnp.array(not feasible), Status.INFEASIBLE),
        (jnp.array(optimal), Status.CONVERGED),
        otherwise=Status.STALLED,
    )
    values, plans, value, gap = jax.tree.map(lambda x: jnp.asarray(x, dtype), numbers)
    return ValueTransport(values, plans, value, gap, status)


def _costs(x: np.ndarray, y: np.ndarray, steps: int) -> np.ndarray:
    return steps * np.sum((x[:, None] - y[None]) ** 2, axis=-1)


def _nothing(costs: list[np.ndarray]) -> Any:
    values = [np.full(cost.shape[0], np.nan) for cost in costs]
    plans = tuple(np.full(cost.shape, np.nan) for cost in costs)
    return (*values, np.full(costs[-1].shape[1], np.nan)), plans, np.nan, np.nan


def _solve(costs: list[np.ndarray], source: np.ndarray, target: np.ndarray) -> tuple[Any, bool]:
    """(values, plans, cost, gap), and whether HiGHS found the optimum."""
    from scipy.optimize import linprog

    between = np.zeros(sum(cost.shape[0] for cost in costs[1:]))
    # Rounding may be left between the totals: it would make the program infeasible.
    target = target * (np.sum(source) / np.sum(target))
    right = np.concatenate([source, between, -target])
    objective = np.concatenate([cost.ravel() for cost in costs])
    found = linprog(objective, A_eq=_balances(costs), b_eq=right, method="highs")
    if found.x is None:
        return _nothing(costs), False
    ends = np.cumsum([cost.size for cost in costs])[:-1]
    pieces = zip(np.split(found.x, ends), costs, strict=True)
    plans = tuple(np.maximum(piece, 0).reshape(cost.shape) for piece, cost in pieces)
    # Only the last values are the program's: one step back is a minimum, exact in all pairs.
    values = [found.eqlin.marginals[-target.size :]]
    for cost in reversed(costs):
        values.insert(0, np.min(cost + values[0][None], axis=1))
    value = values[0] @ source - values[-1] @ target
    paid = sum(np.sum(plan * cost) for plan, cost in zip(plans, costs, strict=True))
    return (tuple(values), plans, value, abs(paid - value)), found.status == 0


def _balances(costs: list[np.ndarray]) -> Any:
    """What leaves each point less what arrives, of each entry of each plan."""
    from scipy import sparse

    sizes = [*(cost.shape[0] for cost in costs), costs[-1].shape[1]]
    blocks: list[list[Any]] = [[None] * len(costs) for _ in sizes]
    for h, (n, m) in enumerate(zip(sizes, sizes[1:], strict=False)):
        blocks[h][h] = sparse.kron(sparse.eye(n), np.ones((1, m)))
        blocks[h + 1][h] = -sparse.kron(np.ones((1, n)), sparse.eye(m))
    return sparse.block_array(blocks, format="csr")
