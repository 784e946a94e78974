"""The Hungarian algorithm on a device: exact assignments, a shortest path for each row."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from transportx._varying import alike


def hungarian(cost: Float[Array, "n n"]) -> Int[Array, " n"]:
    """The column of each row in a matching of least total cost. O(n^3), one row after another.

    Columns and rows count from one: column zero stands for the row that has none yet.

    References:
        Jonker and Volgenant, A shortest augmenting path algorithm for dense and sparse linear
        assignment problems, 1987.
    """
    n = cost.shape[0]
    potentials, owner = jnp.zeros((2, n + 1), cost.dtype), jnp.zeros(n + 1, jnp.int32)

    def match(state, row):
        rows, columns, owner = state
        owner = owner.at[0].set(row + 1)
        rows, columns, before, column = _shortest_path(cost, rows, columns, owner)
        return (rows, columns, _augmented(owner, before, column)), None

    start = alike((potentials[0], potentials[1], owner), cost)
    (_, _, owner), _ = jax.lax.scan(match, start, jnp.arange(n, dtype=jnp.int32))
    return jnp.zeros(n, jnp.int32).at[owner[1:] - 1].set(jnp.arange(n, dtype=jnp.int32))


def _shortest_path(cost, rows, columns, owner):
    """Grow a tree from column zero until it meets a column without owner."""
    n = cost.shape[0]

    def grow(state):
        rows, columns, used, least, before, column = state
        used = used.at[column].set(True)
        free, row = ~used[1:], owner[column]
        slack = jnp.where(free, cost[row - 1] - rows[row] - columns[1:], jnp.inf)
        before = jnp.where(slack < least, column, before)
        least = jnp.minimum(slack, least)
        reached = jnp.where(free, least, jnp.inf)
        step = jnp.min(reached)
        # Columns that are used may all be infinitely far: then any that is free is next.
        near = free & (reached == step)
        column = jnp.argmax(jnp.where(jnp.any(near), near, free)).astype(jnp.int32) + 1
        rows = rows.at[jnp.where(used, owner, n + 1)].add(step, mode="drop")
        columns = jnp.where(used, columns - step, columns)
        return rows, columns, used, jnp.where(free, least - step, least), before, column

    start = (
        rows,
        columns,
        jnp.zeros(n + 1, bool),
        jnp.full(n, jnp.inf, cost.dtype),
        jnp.zeros(n, jnp.int32),
        jnp.array(0, jnp.int32),
    )
    end = jax.lax.while_loop(lambda state: owner[state[-1]] != 0, grow, alike(start, owner))
    return end[0], end[1], end[4], end[5]


def _augmented(owner, before, column):
    """Hand each column of the path to the owner of the one before it."""

    def back(state):
        owner, column = state
        previous = before[column - 1]
        return owner.at[column].set(owner[previous]), previous

    start = alike((owner, column), before)
    return jax.lax.while_loop(lambda state: state[1] != 0, back, start)[0]
