"""The parts of the MeanFlow loss, to tell a bug from a hard problem."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, ScalarLike

from transportx import _checks, _numbers
from transportx.interpolants import AbstractInterpolant
from transportx.losses._eulerian import adapted, eulerian, path_velocity
from transportx.losses._time_pairs import (
    PairWeight,
    TimePairs,
    over_pairs,
    unweighted_pair,
    weighed_pair,
)

Batch = Float[Array, "b ..."]


@_checks.gate
class MeanFlowParts(eqx.Module):
    r"""The loss of `mean_flow` in its two kinds of pairs, and the size of its derivative.

    A sum of squares over pairs of one kind is divided by the number of examples b, so that
    `equal + apart` is `loss`.

    Attributes:
        loss: The loss of `mean_flow`.
        equal: What pairs with s = t contribute to it: the flow-matching loss.
        apart: What pairs with s < t contribute to it.
        equal_fraction: Fraction of pairs with s = t, in [0, 1].
        derivative_fraction: Mean square of the derivative term $(t - s)(\partial_s u + Du\,\dot
            x_s)$ over pairs with s < t, divided by the sum of it and the mean square of the
            velocities there, in [0, 1]; zero where there are no such pairs.
        derivative_size: Root mean square of the derivative term over pairs with s < t.
        largest_derivative: Largest such root mean square of one example: what spikes where training
            is about to fail.
    """

    loss: Float[Array, ""]
    equal: Float[Array, ""]
    apart: Float[Array, ""]
    equal_fraction: Float[Array, ""]
    derivative_fraction: Float[Array, ""]
    derivative_size: Float[Array, ""]
    largest_derivative: Float[Array, ""]


@_checks.gate
def mean_flow_parts(
    u: Callable[..., Array],
    path: AbstractInterpolant,
    x0: Batch,
    x1: Batch,
    args: PyTree[Array] = None,
    *,
    key: PRNGKeyArray,
    times: Callable[..., Any] = TimePairs(),
    weight: PairWeight = unweighted_pair,
    adaptive: ScalarLike = 0.0,
    velocity: Callable[..., Array] = path_velocity,
) -> MeanFlowParts:
    """Split the loss of `mean_flow` into its parts: is it a bug, or a hard problem?

    A loss that does not fall while `equal` does is one of the derivative; a `largest_derivative`
    far above `derivative_size` foretells a spike. The same draws as those of `mean_flow` with this
    key.

    Args:
        u: Flow map, `u(s, t, x, args) -> average velocity` of one example.
        path: Interpolant.
        x0: Source examples, shape (b, ...), paired with `x1` row by row by a coupling.
        x1: Target examples, of the same shape.
        args: Conditions, a pytree of arrays with leading axis b, or None.
        key: Randomness of the times and of the path's noise.
        times: `times(num, dtype, key=key) -> (s, t)`, the law of the pairs of times.
        weight: Weight of an error at a pair of times in the mean, `weight(s, t) -> scalar`.
        adaptive: Exponent of the adaptive weight, zero or positive.
        velocity: `velocity(u, s, x, args, own)`, what to regress on at a point.

    Raises:
        ValueError: The batch is empty, `x0`, `x1` or `args` do not match, `u` takes one time only
            or returns another shape than that of its point, or `times` draws no pairs, or pairs
            that are not 0 <= s <= t <= 1, which give NaN where they are traced.

    Example:
        >>> def u(s, t, x, args):
        ...     return jnp.ones_like(x)
        >>> x0 = jnp.zeros((4, 2))
        >>> path, times = tx.interpolants.Linear(), tx.losses.TimePairs(equal_fraction=0.0)
        >>> parts = tx.losses.mean_flow_parts(u, path, x0, x0 + 3.0, key=jr.key(0), times=times)
        >>> float(parts.loss), float(parts.apart), float(parts.derivative_size)
        (4.0, 4.0, 0.0)
    """
    _checks.two_times("u", u)
    _checks.not_negative("adaptive", adaptive)

    def example(s, t, x0, x1, z, args):
        regressed = eulerian(u, path, s, t, x0, x1, z, args, velocity)
        loss = weighed_pair(weight, s, t, adapted(regressed.error, adaptive))
        squares = (jnp.mean(array**2) for array in (regressed.derivative, regressed.velocity))
        # Of times that are NaN neither is so.
        return loss, jnp.where(s == t, 1, jnp.where(s < t, 0, jnp.nan)), *squares

    found = over_pairs(example, path, x0, x1, args, key=key, times=times)
    losses, equal, derivatives, velocities = _numbers.matched(*found)
    apart = 1 - equal
    squares = apart * derivatives
    mean_square = jnp.sum(squares) / jnp.maximum(jnp.sum(apart), 1)
    total = jnp.sum(squares + apart * velocities)
    parts = MeanFlowParts(
        loss=jnp.mean(losses),
        equal=jnp.mean(equal * losses),
        apart=jnp.mean(apart * losses),
        equal_fraction=jnp.mean(equal),
        derivative_fraction=jnp.sum(squares) / jnp.where(total == 0, 1, total),
        derivative_size=_root(mean_square),
        largest_derivative=_root(jnp.max(squares)),
    )
    return _numbers.as_given(parts, x1)


def _root(square: Array) -> Array:
    """A square root whose derivative at zero is zero."""
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), square)
