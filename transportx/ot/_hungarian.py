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
    places = jnp.arange(n + 1, dtype=jnp.int32)

    def match(state, row):
        # Of each column its own potential, and its owner with that row's potential.
        columns, rows, owner = state
        owner, rows = jnp.where(places == 0, row + 1, owner), jnp.where(places == 0, 0, rows)
        columns, rows, before, column = _shortest_path(cost, columns, rows, owner, places)
        return (columns, *_augmented(rows, owner, before, column, places)), None

    zeros = jnp.zeros(n + 1, cost.dtype)
    start = alike((zeros, zeros, jnp.zeros(n + 1, jnp.int32)), cost)
    (_, _, owner), _ = jax.lax.scan(match, start, jnp.arange(n, dtype=jnp.int32))
    return jnp.argsort(owner[1:]).astype(jnp.int32)


def _shortest_path(cost, columns, rows, owner, places):
    """Grow a tree from column zero until it meets a column without owner."""
    n = cost.shape[0]

    def grow(state):
        columns, rows, used, least, before, column = state
        used = used | (places == column)
        free = ~used[1:]
        slack = cost[owner[column] - 1] - rows[column] - columns[1:]
        slack = jnp.where(free, slack, jnp.inf)
        before = jnp.where(slack < least, column, before)
        least = jnp.minimum(slack, least)
        reached = jnp.where(free, least, jnp.inf)
        step = jnp.min(reached)
        # All that are free may be infinitely far: then any of them is next.
        near = free & (reached == step)
        column = jnp.argmax(jnp.where(jnp.any(near), near, free)).astype(jnp.int32) + 1
        rows, columns = jnp.where(used, rows + step, rows), jnp.where(used, columns - step, columns)
        return columns, rows, used, jnp.where(free, least - step, least), before, column

    start = (
        columns,
        rows,
        jnp.zeros(n + 1, bool),
        jnp.full(n, jnp.inf, cost.dtype),
        jnp.zeros(n, jnp.int32),
        jnp.array(0, jnp.int32),
    )
    end = jax.lax.while_loop(lambda state: owner[state[-1]] != 0, grow, alike(start, owner))
    return end[0], end[1], end[4], end[5]


def _augmented(rows, owner, before, column, places):
    """Hand each column of the path to the owner of the one before it."""

    def back(state):
        rows, owner, column = state
        previous, here = before[column - 1], places == column
        rows = jnp.where(here, rows[previous], rows)
        return rows, jnp.where(here, owner[previous], owner), previous

    start = alike((rows, owner, column), before)
    return jax.lax.while_loop(lambda state: state[2] != 0, back, start)[:2]
