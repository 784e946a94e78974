"""Exact one-to-one matching, inside `jit`."""

import os
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.buffer_callback import buffer_callback
from jaxtyping import Array, Float, Int

from transportx import _checks
from transportx._varying import alike
from transportx.ot._hungarian import hungarian

# Of the mean size of costs less means of rows and columns, coarse to fine.
_RELATIVE_EPSILONS = (0.1, 0.03, 0.004)
_STEPS_EACH = 15
# Costs this many times the usual least cost of a row are marks of pairs to avoid.
_FAR = 2.0**20
# A power of two: multiplying by it rounds nothing, and no sum of so many products overflows.
_SHRINK = 2.0**-24
_NUM_THREADS = os.cpu_count() or 1


@_checks.gate
def assignment(cost: Float[Array, "n n"]) -> Int[Array, " n"]:
    """Optimal assignment: match rows to columns one to one at the least total cost.

    It is exact optimal transport between two uniform clouds of one size. On CPU, entropic
    potentials are subtracted from the costs first, which changes no optimum, and SciPy's
    shortest augmenting paths finish the search through a host callback, one thread per problem
    where `vmap` brings many; elsewhere the Hungarian algorithm runs on the device. O(n^3) both
    at worst.

    Args:
        cost: Square matrix, shape (n, n). An entry of infinity forbids that pair.

    Returns:
        The column of each row, a permutation. Where there is none, because an entry is NaN
        or minus infinity, or because every permutation has a forbidden pair, every index
        is `n`, out of range: `x.at[index].get(mode="fill")` is then NaN.

    Raises:
        ValueError: `cost` is not a non-empty square matrix of real numbers.

    Differentiation:
        Indices have no derivative. Index the cost or the points with them: that gives
        the derivative of the optimum wherever the matching is unique.

    Example:
        >>> tx.ot.assignment(jnp.array([[4.0, 1.0, 3.0], [2.0, 0.0, 5.0], [3.0, 2.0, 2.0]]))
        Array([1, 0, 2], dtype=int32)

    References:
        Crouse, On implementing 2D rectangular assignment algorithms, 2016.
    """
    if cost.ndim != 2 or cost.shape[0] != cost.shape[1] or cost.size == 0:
        cure = "give a square matrix, or drop points until both clouds have one size"
        _checks.reject("cost", f"has shape {cost.shape}", cure)
    _checks.floating("cost", cost)
    cost = jax.lax.stop_gradient(cost)
    if jnp.finfo(cost.dtype).bits < 32:
        cost = cost.astype(jnp.float32)
    return _matched(cost)


@jax.jit
def _matched(cost: Float[Array, "n n"]) -> Int[Array, " n"]:
    """The column of each row, compiled once for each size."""
    numbers = jnp.all(cost > -jnp.inf)
    solvable = _with_near_marks(jnp.where(numbers, cost, 0))
    columns = jax.lax.platform_dependent(solvable, cpu=_on_host, default=_on_device)
    return jnp.where(numbers, columns, cost.shape[0])


def _with_near_marks(cost: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Equal marks of pairs to avoid, brought down to where they still outweigh all other costs.

    Where no matching avoids them, totals and potentials are as large as they are, and would round
    off what the other costs differ by.
    """
    far = (_in_units(cost)[0] >= _FAR) & (cost < jnp.inf)
    usual = (cost < jnp.inf) & ~far
    most = jnp.max(cost, where=usual, initial=-jnp.inf)
    spread = most - jnp.min(cost, where=usual, initial=jnp.inf)
    first = jnp.min(cost, where=far, initial=jnp.inf)
    equal = first == jnp.max(cost, where=far, initial=-jnp.inf)
    # Two matchings with as many marks differ by at most `size` spreads.
    near = most + (cost.shape[0] + 1) * spread
    return jnp.where(far & equal & (spread > 0) & (near < first), near, cost)


def _on_host(cost: Float[Array, "n n"]) -> Int[Array, " n"]:
    answer = jax.ShapeDtypeStruct(cost.shape[:1], jnp.int32)
    # Not `jax.pure_callback`: that gives the callback arrays of JAX, and reading one may wait
    # for a thread of XLA, for ever where the callback occupies the only one.
    search = buffer_callback(_scipy_assignments, answer, vmap_method="broadcast_all")
    return alike(search(cost, *_potentials(cost)), cost)


def _scipy_assignments(_, found, cost, rows, columns, unit) -> None:
    """One problem, or many along leading axes: SciPy works outside Python's lock, so in threads."""
    found = np.asarray(found)
    size = found.shape[-1]
    problems = [
        np.asarray(part).reshape(-1, *shape)
        for part, shape in ((cost, (size, size)), (rows, (size,)), (columns, (size,)), (unit, ()))
    ]
    threads = min(len(problems[0]), _NUM_THREADS)
    if threads == 1:
        matched = [*map(_scipy_assignment, *problems)]
    else:
        with ThreadPoolExecutor(threads) as pool:
            matched = [*pool.map(_scipy_assignment, *problems)]
    found[...] = np.reshape(matched, found.shape)


def _scipy_assignment(
    cost: np.ndarray, rows: np.ndarray, columns: np.ndarray, unit: np.floating
) -> np.ndarray:
    # Imported here, so that `import transportx` does not wait for scipy.optimize.
    from scipy.optimize import linear_sum_assignment

    # In float64, so that the potentials' rounding cannot change which matching is best.
    reduced = np.multiply(cost, _SHRINK, dtype=np.float64)
    reduced -= (rows * np.float64(unit))[:, None]
    reduced -= columns * np.float64(unit)
    try:
        return linear_sum_assignment(reduced)[1].astype(np.int32)
    except ValueError:  # Every permutation has a forbidden pair.
        return np.full(rows.size, rows.size, np.int32)


def _potentials(
    cost: Float[Array, "n n"],
) -> tuple[Float[Array, " n"], Float[Array, " n"], Float[Array, ""]]:
    """Potentials of rows and columns that leave the exact search little to do, and their unit.

    Annealed Sinkhorn, some steps at each epsilon. Any potentials are right: taking them off
    the costs changes every matching's total by one number. Good ones shorten the search.
    Costs far beyond the others, as they mark pairs to avoid, are cut: potentials as large as
    they are would round off what the other costs differ by.
    """
    cost, unit = _in_units(cost)
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
        scalings = jax.lax.fori_loop(0, _STEPS_EACH, step, alike(ones, kernel))
        changes = [epsilon * jnp.log(scaling) for scaling in scalings]
        usable = jnp.isfinite(jnp.sum(changes[0]) + jnp.sum(changes[1]))
        rows, columns = (
            potential + jnp.where(usable, change, 0)
            for potential, change in zip(potentials, changes, strict=True)
        )
        return (rows, columns), None

    levels = jnp.array(_RELATIVE_EPSILONS, cost.dtype)
    rows, columns = jax.lax.scan(anneal, (rows, columns), levels)[0]
    usable = jnp.isfinite(jnp.sum(rows) + jnp.sum(columns))
    return jnp.where(usable, rows, 0), jnp.where(usable, columns, 0), unit


def _in_units(cost: Float[Array, "n n"]) -> tuple[Float[Array, "n n"], Float[Array, ""]]:
    """Costs above the least one, cut at `_FAR`, in units of the least of most rows and columns."""
    # Small enough for no difference to overflow.
    cost = cost * _SHRINK
    least = jnp.concatenate([jnp.min(cost, axis=1), jnp.min(cost, axis=0)])
    above = cost - jnp.min(least)
    usual = jnp.median(least) - jnp.min(least)
    unit = jnp.where(usual > 0, usual, jnp.min(above, where=above > 0, initial=jnp.inf))
    unit = jnp.where(jnp.isfinite(unit), unit, 1)
    return jnp.minimum(above / unit, _FAR), unit


def _on_device(cost: Float[Array, "n n"]) -> Int[Array, " n"]:
    # Smaller by a power of two where sums could overflow.
    most = jnp.max(jnp.abs(cost), where=cost < jnp.inf, initial=0)
    cost = jnp.where(most > _SHRINK * jnp.finfo(cost.dtype).max, _SHRINK * cost, cost)
    size, columns = cost.shape[0], hungarian(cost)
    allowed = jnp.all(cost[jnp.arange(size), columns] < jnp.inf)
    return jnp.where(allowed, columns, size)
