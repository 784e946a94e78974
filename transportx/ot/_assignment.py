"""Exact one-to-one matching, inside `jit`."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from transportx import _checks

# Of the mean reduced cost, coarse to fine.
_RELATIVE_EPSILONS = (0.03, 0.003)
_STEPS_EACH = 20


def assignment(cost: Float[Array, "n n"]) -> Int[Array, " n"]:
    """Match rows to columns one to one at the least total cost.

    It is exact optimal transport between two uniform clouds of one size. On CPU, entropic
    potentials are taken off the costs first, which changes no optimum, and SciPy's shortest
    augmenting paths finish the search through a host callback; elsewhere optax's Hungarian
    algorithm runs on the device. O(n^3) both at worst.

    Args:
        cost: Square matrix. Entries must be finite.

    Returns:
        The column of each row, a permutation. If any entry is NaN or infinite, every
        index is `n`, out of range: `x.at[index].get(mode="fill")` is then NaN.

    Raises:
        ValueError: `cost` is not a non-empty square matrix of real numbers.

    Differentiation:
        Indices have no derivative. Index the cost or the points with them: that gives
        the derivative of the optimum wherever the matching is unique.

    References:
        Crouse, On implementing 2D rectangular assignment algorithms, 2016.
    """
    if cost.ndim != 2 or cost.shape[0] != cost.shape[1] or cost.size == 0:
        cure = "give a square matrix, or drop points until both clouds have one size"
        _checks.reject("cost", f"has shape {cost.shape}", cure)
    _checks.floating("cost", cost)
    cost = jax.lax.stop_gradient(cost)
    finite = jnp.all(jnp.isfinite(cost))
    solvable = jnp.where(finite, cost, 0)
    columns = jax.lax.platform_dependent(solvable, cpu=_on_host, default=_on_device)
    return jnp.where(finite, columns, cost.shape[0])


def _on_host(cost: Float[Array, "n n"]) -> Int[Array, " n"]:
    answer = jax.ShapeDtypeStruct(cost.shape[:1], jnp.int32)
    rows, columns = _potentials(cost)
    arguments = cost, rows, columns
    return jax.pure_callback(_scipy_assignment, answer, *arguments, vmap_method="sequential")


def _scipy_assignment(cost: Array, rows: Array, columns: Array) -> np.ndarray:
    # Imported here, so that `import transportx` does not wait for scipy.optimize.
    from scipy.optimize import linear_sum_assignment

    # In float64, so that the potentials' rounding cannot change which matching is best.
    reduced = np.asarray(cost, np.float64)
    reduced = reduced - np.asarray(rows, np.float64)[:, None]
    reduced -= np.asarray(columns, np.float64)[None, :]
    return linear_sum_assignment(reduced)[1].astype(np.int32)


def _potentials(cost: Float[Array, "n n"]) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Potentials of rows and columns that leave the exact search little to do.

    Annealed Sinkhorn, some steps at each epsilon. Any potentials are right: taking them off
    the costs changes every matching's total by one number. Good ones shorten the search.
    """
    scale = jnp.mean(_reduce(cost)[0])

    def anneal(potentials, relative_epsilon):
        rows, columns = potentials
        # Every row and column of the kernel holds a one: nothing underflows to zero sums.
        reduced, row_least, column_least = _reduce(cost - rows[:, None] - columns[None, :])
        epsilon = relative_epsilon * scale
        kernel = jnp.exp(-reduced / epsilon)

        def step(_, scalings):
            row_scaling = 1 / (kernel @ scalings[1])
            return row_scaling, 1 / (row_scaling @ kernel)

        ones = jnp.ones_like(rows), jnp.ones_like(columns)
        scalings = jax.lax.fori_loop(0, _STEPS_EACH, step, ones)
        row_change, column_change = (epsilon * jnp.log(scaling) for scaling in scalings)
        usable = jnp.all(jnp.isfinite(row_change)) & jnp.all(jnp.isfinite(column_change))
        rows = rows + row_least + jnp.where(usable, row_change, 0)
        return (rows, columns + column_least + jnp.where(usable, column_change, 0)), None

    start = jnp.zeros_like(cost[:, 0]), jnp.zeros_like(cost[0])
    potentials, _ = jax.lax.scan(anneal, start, jnp.array(_RELATIVE_EPSILONS, cost.dtype))
    return potentials


def _reduce(cost: Float[Array, "n n"]) -> tuple[Array, Array, Array]:
    """Costs less the least of each row, then of each column; and what was taken off."""
    rows = jnp.min(cost, axis=1)
    columns = jnp.min(cost - rows[:, None], axis=0)
    return cost - rows[:, None] - columns[None, :], rows, columns


def _on_device(cost: Float[Array, "n n"]) -> Int[Array, " n"]:
    # With 64-bit numbers on, optax mixes dtypes, which strict promotion would refuse.
    with jax.numpy_dtype_promotion("standard"):
        rows, columns = optax.assignment.hungarian_algorithm(cost)
    return jnp.zeros(cost.shape[0], jnp.int32).at[rows].set(columns.astype(jnp.int32))
