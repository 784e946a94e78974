"""Consistency training: a flow map to the last time alone."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from transportx import _checks
from transportx.interpolants import AbstractInterpolant
from transportx.losses._eulerian import eulerian, path_velocity
from transportx.losses._regression import Weight, average, unweighted, weighed
from transportx.losses._times import Times, uniform_times

Batch = Float[Array, "b ..."]


@_checks.gate
def consistency(
    u: Callable[..., Array],
    path: AbstractInterpolant,
    x0: Batch,
    x1: Batch,
    args: PyTree[Array] = None,
    *,
    key: PRNGKeyArray,
    times: Times = uniform_times,
    weight: Weight = unweighted,
) -> Float[Array, ""]:
    r"""Consistency-training loss in continuous time: train X(s, 1, x) alone, from data.

    That of `mean_flow` with t = 1 in all pairs: $X(s, 1, x_s) = x_s + (1 - s)\,u(s, 1, x_s)$ must
    not depend on s along a trajectory. The mean of $|u(s, 1, x_s) - \dot x_s - (1 - s)\,
    \mathrm{sg}[\partial_s u + Du\,\dot x_s]|^2 / d$. Such a map takes one step from any time to the
    end, and no other.

    Args:
        u: Flow map, `u(s, t, x, args) -> average velocity` of one example, called with t = 1.
        path: Interpolant.
        x0: Source examples, shape (b, ...), paired with `x1` row by row by a coupling.
        x1: Target examples, of the same shape.
        args: Conditions, a pytree of arrays with leading axis b, or None.
        key: Randomness of the times and of the path's noise.
        times: `times(num, dtype, key=key)`, the law of the times s: `uniform_times`,
            `LogitNormalTimes`, `BetaTimes` or your own.
        weight: Weight of an error at time s in the mean, `weight(s) -> scalar`; 1 by default.

    Raises:
        ValueError: The batch is empty, `x0`, `x1` or `args` do not match, or `u` takes one time
            only or returns another shape than that of its point.

    Differentiation:
        With respect to the parameters of `u` and of `path`, x0, x1 and args, with the bracket held
        constant.

    Example:
        >>> def u(s, t, x, args):
        ...     return jnp.ones_like(x)
        >>> x0 = jnp.zeros((4, 2))
        >>> float(tx.losses.consistency(u, tx.interpolants.Linear(), x0, x0 + 3.0, key=jr.key(0)))
        4.0

    References:
        Song et al., Consistency models, 2023, section 5; Lu and Song, Simplifying, stabilizing and
        scaling continuous-time consistency models, 2024.
    """
    _checks.two_times("u", u)

    def error(s, x0, x1, z, args):
        s, t = _checks.ordered_times(s, jnp.ones_like(s))
        regressed = eulerian(u, path, s, t, x0, x1, z, args, path_velocity)
        return weighed(weight, s, jnp.mean(regressed.error**2))

    return average(error, path, x0, x1, args, key=key, times=times)
