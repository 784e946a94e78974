"""Whether an entropic problem has an answer: its masses, its numbers and its infinite costs."""

import jax.numpy as jnp
from jaxtyping import Array, Bool

from transportx._varying import where_asked
from transportx.geometry import AbstractCloud
from transportx.geometry.internal import Maximum
from transportx.ot._problem import Problem

# Masses are equal up to this many units of rounding.
_MASS_SLACK = 100


def kinds_of_costs(problem: Problem) -> tuple[Bool[Array, ""], Bool[Array, ""]]:
    """Whether every cost is a number or infinite; and whether any is infinite."""
    kinds = problem.geometry.fold_tiles(Maximum(), _worst_kind, problem.b)
    worst = jnp.max(kinds)
    known = worst < 2
    if isinstance(problem.geometry, AbstractCloud):
        # A point at infinity is a fault, where one so far that its costs overflow is not.
        ends = (problem.geometry.x, problem.a), (problem.geometry.y, problem.b)
        for points, weights in ends:
            known &= jnp.all(jnp.all(jnp.isfinite(points), axis=1) | (weights == 0))
    return known, worst == 1


def _worst_kind(b, costs):
    """Kind of each row: 2 if a cost is NaN or minus infinity, else 1 if one is infinite, else 0."""
    bad = jnp.isnan(costs) | (costs == -jnp.inf)
    kinds = jnp.where(bad, 2, jnp.where(costs == jnp.inf, 1, 0))
    return jnp.max(kinds, axis=1).astype(costs.dtype)


def reached_points(
    problem: Problem, forbidding: Bool[Array, ""]
) -> tuple[Bool[Array, " n"], Bool[Array, " m"]]:
    """Sources, and targets, that have weight on the other side at a finite cost."""
    geometry, a, b = problem.geometry, problem.a, problem.b

    def some():
        return geometry.reach(b) > 0, geometry.T.reach(a) > 0

    every = jnp.ones_like(a, bool), jnp.ones_like(b, bool)
    return where_asked(forbidding, some, every, problem)


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
