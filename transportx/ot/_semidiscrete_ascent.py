"""Ascent of the semi-dual: where it starts, and averaged stochastic steps."""

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from transportx.geometry import PointCloud
from transportx.geometry.internal import centre_between
from transportx.ot._newton import Newton
from transportx.ot._power_cells import Heights, Source, heights, sampled_masses
from transportx.ot._solve import solve

Scalar = Float[Array, ""]
# The start is solved between so many points of the source, all costs held where they are few.
_ENTRIES = 2**24
_MOST_POINTS, _LEAST_POINTS = 16384, 1024
# Levels of epsilon: the first in units of the mean cost, falling by at most the factor to a
# share of the distance between the two best scores.
_LEVELS, _FIRST, _FACTOR, _SHARE = 4, 0.1, 8.0, 0.5
_ROUGH = Newton(tol=1e-2, max_steps=1000)
_MARGIN_POINTS = 1024
# Steps begin at this share of what would fill a cell, and fall to a third of it.
_STEP, _DECAY = 0.5, 10.0


def start_between(
    source: Source,
    y: Float[Array, "m d"],
    b: Float[Array, " m"],
    epsilon: Scalar | None,
    init: Float[Array, " m"] | None,
    *,
    key: PRNGKeyArray,
) -> tuple[Float[Array, " m"], Scalar]:
    """Potentials to start from, and how far a winner's score is above the next one.

    Without `init` they are those of entropic plans between some points and the data, at falling
    epsilon: down to a fraction of that distance, below which a plan fits its sample more than the
    source.
    """
    draw_key, margin_key = jr.split(key)
    if init is not None:
        g = init.astype(y.dtype)
        return g, _margin(source, y, g, b, key=margin_key)
    num = min(_MOST_POINTS, max(_LEAST_POINTS, _ENTRIES // b.size))
    centre = centre_between(y, y, b, b)[None, :]
    x = source(key=draw_key, num=num).astype(y.dtype) - centre
    some = (b > 0)[:, None]
    ends = x.astype(jnp.float32), jnp.where(some, y - centre, 0).astype(jnp.float32)
    cloud = PointCloud(*ends, tile=num)
    weights = b.astype(jnp.float32)
    weights = weights / jnp.sum(weights)
    least = jnp.zeros((), jnp.float32) if epsilon is None else epsilon.astype(jnp.float32)

    def lower(level, _):
        potentials, above = level
        plan = solve(cloud, b=weights, epsilon=above, init=potentials, solver=_ROUGH)
        g = jnp.where(jnp.isfinite(plan.g), plan.g, 0)
        unit = _margin(source, y, g.astype(y.dtype), b, key=margin_key)
        below = jnp.maximum(_SHARE * unit.astype(jnp.float32), above / _FACTOR)
        return ((plan.f, g), jnp.maximum(below, least)), unit

    zeros = jnp.zeros(num, jnp.float32), jnp.zeros_like(weights)
    first = jnp.maximum(_FIRST * cloud.mean_cost(b=weights), least)
    ((_, g), _), units = jax.lax.scan(lower, (zeros, first), length=_LEVELS)
    return g.astype(y.dtype), units[-1]


def _margin(
    source: Source,
    y: Float[Array, "m d"],
    g: Float[Array, " m"],
    b: Float[Array, " m"],
    *,
    key: PRNGKeyArray,
) -> Scalar:
    """How far a winner's score is above the next, on average."""
    data = heights(y, g, b)
    x = source(key=key, num=_MARGIN_POINTS).astype(y.dtype)
    scores, _ = jax.lax.top_k(data.scores(x).T, min(2, b.size))
    gaps = scores[:, 0] - scores[:, -1]
    return jnp.mean(jnp.where(jnp.isfinite(gaps), gaps, 0))


def ascend(
    source: Source,
    data: Heights,
    b: Float[Array, " m"],
    unit: Scalar,
    epsilon: Scalar | None,
    *,
    key: PRNGKeyArray,
    num_steps: int,
    batch: int,
) -> Float[Array, " m"]:
    """Averaged stochastic steps; the change of the potentials that they end at.

    A step raises each potential by what its cell lacks, relative to its weight, in units of the
    distance between the two best scores: by about that much a cell must rise to be full.
    """
    some = b > 0
    unit = unit if epsilon is None else jnp.maximum(unit, epsilon)

    def step(carry, k):
        change, average = carry
        masses = sampled_masses(
            source, data.raised(change), epsilon, key=jr.fold_in(key, k), num=batch
        )
        lacks = jnp.where(some, 1 - masses / jnp.where(some, b, 1), 0)
        k = k.astype(b.dtype)
        change = change + _STEP * unit / jnp.sqrt(1 + k * (_DECAY / num_steps)) * lacks
        # Late steps count more: a mean weighed by the cube of their number.
        average = average + 4 / (k + 4) * (change - average)
        return (change, average), None

    zero = jnp.zeros_like(b)
    steps = jnp.arange(num_steps)
    (_, average), _ = jax.lax.scan(step, (zero, zero), steps)
    return average
