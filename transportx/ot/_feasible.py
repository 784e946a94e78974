"""Whether an entropic problem has an answer: its masses, its numbers and its infinite costs."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from transportx._varying import where_asked
from transportx.geometry import AbstractCloud
from transportx.geometry.internal import AnyOf
from transportx.ot._problem import Problem

# Bits that say what costs a row has.
_REACHED, _INFINITE, _BAD = 1, 2, 4
# Masses are equal up to this many units of rounding.
_MASS_SLACK = 100


def kinds_of_costs(
    problem: Problem,
) -> tuple[Bool[Array, ""], Bool[Array, " n"], Bool[Array, " m"]]:
    """Whether every cost is a number or infinite; who has weight at a finite cost.

    One pass over all pairs says it of the sources. Of the targets a second pass says it, which
    runs only where some cost is infinite.

    Returns:
        Whether no cost is NaN or minus infinity, and no point with weight at infinity; which
        sources, and which targets, have weight on the other side at a finite cost.
    """
    kinds = _row_kinds(problem)
    known = jnp.all(kinds & _BAD == 0)
    if isinstance(problem.geometry, AbstractCloud):
        # A point at infinity is a fault, where one so far that its costs overflow is not.
        ends = (problem.geometry.x, problem.a), (problem.geometry.y, problem.b)
        for points, weights in ends:
            known &= jnp.all(jnp.all(jnp.isfinite(points), axis=1) | (weights == 0))
    forbidding = jnp.any(kinds & _INFINITE != 0)
    reached_a = (kinds & _REACHED != 0) | ~forbidding
    every = jnp.ones_like(problem.b, bool)
    reached_b = where_asked(
        forbidding, lambda: _row_kinds(problem.T) & _REACHED != 0, every, problem
    )
    return known, reached_a, reached_b


def _row_kinds(problem: Problem) -> Int[Array, " n"]:
    """Bits of each row: whether a cost is no number, one infinite, one finite with some weight."""
    return problem.geometry.fold_tiles(AnyOf(), _kinds, problem.b)


def _kinds(b, costs):
    bad = jnp.isnan(costs) | (costs == -jnp.inf)
    reached = jnp.where(b[None, :] > 0, _REACHED, 0)
    kinds = jnp.where(bad, _BAD, jnp.where(costs == jnp.inf, _INFINITE, reached))
    return AnyOf.part(kinds.astype(jnp.int32))


def is_regular(problem: Problem) -> Bool[Array, ""]:
    """Whether epsilon is positive and finite, and the penalties positive."""
    finite = jnp.isfinite(problem.epsilon) & (problem.epsilon > 0)
    loose = jnp.stack([problem.loose_a, problem.loose_b])
    return finite & jnp.all(jnp.isfinite(loose)) & jnp.all(loose >= 0)


def is_feasible(
    problem: Problem, reached_a: Bool[Array, " n"], reached_b: Bool[Array, " m"]
) -> Bool[Array, ""]:
    """Whether masses agree, and what is enforced has somewhere to go."""
    a, b = problem.a, problem.b
    masses = jnp.sum(a), jnp.sum(b)
    slack = _MASS_SLACK * jnp.finfo(a.dtype).eps * masses[0]
    same = (jnp.abs(masses[0] - masses[1]) <= slack) | ~problem.balanced
    some = (masses[0] > 0) & (masses[1] > 0)
    placed_a = (problem.loose_a > 0) | jnp.all(reached_a | (a == 0))
    placed_b = (problem.loose_b > 0) | jnp.all(reached_b | (b == 0))
    return jnp.all(a >= 0) & jnp.all(b >= 0) & some & same & placed_a & placed_b
