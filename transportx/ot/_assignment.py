"""Exact one-to-one matching, inside `jit`."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from transportx import _checks


def assignment(cost: Float[Array, "n n"]) -> Int[Array, " n"]:
    """Match rows to columns one to one at the least total cost.

    It is exact optimal transport between two uniform clouds of one size. On CPU it runs
    SciPy's shortest augmenting paths through a host callback, elsewhere optax's Hungarian
    algorithm on the device: O(n^3) both, the first a few times faster.

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
    return jax.pure_callback(_scipy_assignment, answer, cost, vmap_method="sequential")


def _scipy_assignment(cost: Array) -> np.ndarray:
    # Imported here: scipy.optimize would add a third to the time of `import transportx`.
    from scipy.optimize import linear_sum_assignment

    return linear_sum_assignment(np.asarray(cost))[1].astype(np.int32)


def _on_device(cost: Float[Array, "n n"]) -> Int[Array, " n"]:
    # With 64-bit numbers on, optax mixes dtypes, which strict promotion would refuse.
    with jax.numpy_dtype_promotion("standard"):
        rows, columns = optax.assignment.hungarian_algorithm(cost)
    return jnp.zeros(cost.shape[0], jnp.int32).at[rows].set(columns.astype(jnp.int32))
