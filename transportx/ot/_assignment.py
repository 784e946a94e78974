"""Exact one-to-one matching, inside `jit`."""

import os
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from transportx import _checks

# Of the mean size of costs less means of rows and columns, coarse to fine.
_RELATIVE_EPSILONS = (0.1, 0.03, 0.004)
_STEPS_EACH = 15
_NUM_THREADS = os.cpu_count() or 1


@_checks.gate
def assignment(cost: Float[Array, "n n"]) -> Int[Array, " n"]:
    """Match rows to columns one to one at the least total cost.

    It is exact optimal transport between two uniform clouds of one size. On CPU, entropic
    potentials are taken off the costs first, which changes no optimum, and SciPy's shortest
    augmenting paths finish the search through a host callback, one thread a problem where
    `vmap` brings many; elsewhere optax's Hungarian algorithm runs on the device. O(n^3) both
    at worst.

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
    arguments = cost, *_potentials(cost)
    return jax.pure_callback(_scipy_assignments, answer, *arguments, vmap_method="broadcast_all")


def _scipy_assignments(cost: Array, rows: Array, columns: Array) -> np.ndarray:
    """One problem, or many along leading axes: SciPy works outside Python's lock, so in threads."""
    problems = [
        np.asarray(part).reshape(-1, *part.shape[axis:])
        for part, axis in ((cost, -2), (rows, -1), (columns, -1))
    ]
    threads = min(len(problems[0]), _NUM_THREADS)
    if threads == 1:
        found = [*map(_scipy_assignment, *problems)]
    else:
        with ThreadPoolExecutor(threads) as pool:
            found = [*pool.map(_scipy_assignment, *problems)]
    return np.reshape(found, rows.shape)


def _scipy_assignment(cost: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    # Imported here, so that `import transportx` does not wait for scipy.optimize.
    from scipy.optimize import linear_sum_assignment

    # In float64, so that the potentials' rounding cannot change which matching is best.
    reduced = np.subtract(cost, rows[:, None], dtype=np.float64)
    reduced -= columns
    return linear_sum_assignment(reduced)[1].astype(np.int32)


def _potentials(cost: Float[Array, "n n"]) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Potentials of rows and columns that leave the exact search little to do.

    Annealed Sinkhorn, some steps at each epsilon. Any potentials are right: taking them off
    the costs changes every matching's total by one number. Good ones shorten the search.
    """
    mean = jnp.mean(cost)
    rows, columns = jnp.mean(cost, axis=1) - mean / 2, jnp.mean(cost, axis=0) - mean / 2
    scale = jnp.mean(jnp.abs(cost - rows[:, None] - columns[None, :]))

    def anneal(potentials, relative_epsilon):
        rows, columns = potentials
        epsilon = relative_epsilon * scale
        kernel = jnp.exp((rows[:, None] + columns[None, :] - cost) / epsilon)

        def step(_, scalings):
            row_scaling = 1 / (kernel @ scalings[1])
            return row_scaling, 1 / (row_scaling @ kernel)

        ones = jnp.ones_like(rows), jnp.ones_like(columns)
        scalings = jax.lax.fori_loop(0, _STEPS_EACH, step, ones)
        changes = [epsilon * jnp.log(scaling) for scaling in scalings]
        usable = jnp.isfinite(jnp.sum(changes[0]) + jnp.sum(changes[1]))
        rows, columns = (
            potential + jnp.where(usable, change, 0)
            for potential, change in zip(potentials, changes, strict=True)
        )
        return (rows, columns), None

    levels = jnp.array(_RELATIVE_EPSILONS, cost.dtype)
    return jax.lax.scan(anneal, (rows, columns), levels)[0]


def _on_device(cost: Float[Array, "n n"]) -> Int[Array, " n"]:
    # With 64-bit numbers on, optax mixes dtypes, which strict promotion would refuse.
    with jax.numpy_dtype_promotion("standard"):
        rows, columns = optax.assignment.hungarian_algorithm(cost)
    return jnp.zeros(cost.shape[0], jnp.int32).at[rows].set(columns.astype(jnp.int32))
