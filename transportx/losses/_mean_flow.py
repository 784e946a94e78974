"""Losses that train a flow map from data alone: MeanFlow and its improved form."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Float, PRNGKeyArray, PyTree, ScalarLike

from transportx import _checks
from transportx.interpolants import AbstractInterpolant
from transportx.losses._eulerian import adapted, eulerian, path_velocity
from transportx.losses._time_pairs import (
    PairWeight,
    TimePairs,
    pair_average,
    unweighted_pair,
    weighed_pair,
)

Batch = Float[Array, "b ..."]


@_checks.gate
def mean_flow(
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
) -> Float[Array, ""]:
    r"""MeanFlow loss: train a flow map by the Eulerian equation, from data alone.

    The mean of $|u(s, t, x_s) - \dot x_s - (t - s)\,\mathrm{sg}[\partial_s u + Du\,\dot x_s]|^2 /
    d$, one pair of times per example, the bracket held constant (stop-gradient) and computed by one
    forward derivative. The bracket is linear in the velocity of the path, so that its mean given
    the point is that of the field: the exact flow map is a stationary point. Where s = t this is
    `flow_matching`.

    Args:
        u: Flow map, `u(s, t, x, args) -> average velocity` of one example.
        path: Interpolant.
        x0: Source examples, shape (b, ...), paired with `x1` row by row by a coupling.
        x1: Target examples, of the same shape.
        args: Conditions, a pytree of arrays with leading axis b, or None.
        key: Randomness of the times and of the path's noise.
        times: `times(num, dtype, key=key) -> (s, t)`, the law of the pairs of times: `TimePairs`,
            of any law and any fraction of equal times, or your own.
        weight: Weight of an error at a pair of times in the mean, `weight(s, t) -> scalar`; 1 by
            default.
        adaptive: Exponent p, zero or positive, of the adaptive weight $(e + 10^{-3})^{-p}$ of an
            example whose mean squared error is e, held constant. 1 is steady against outliers; any
            p above 0 moves the minimiser where velocities differ given the point.
        velocity: `velocity(u, s, x, args, own)`, what to regress on at a point with the velocity
            `own` of the path: `path_velocity`, or `GuidedPathVelocity` for built-in guidance.

    Raises:
        ValueError: The batch is empty, `x0`, `x1` or `args` do not match, `u` takes one time only
            or returns another shape than that of its point, or `times` draws no pairs, or pairs
            that are not 0 <= s <= t <= 1, which give NaN where they are traced.

    Differentiation:
        With respect to the parameters of `u` and of `path`, x0, x1 and args, with the bracket and
        the adaptive weight held constant.

    Example:
        >>> u = tx.fields.MLPFlowMap(2, 8, 1, key=jr.key(0))
        >>> x0, x1 = jr.normal(jr.key(1), (4, 2)), jr.normal(jr.key(2), (4, 2))
        >>> path = tx.interpolants.Linear()
        >>> loss, gradient = eqx.filter_value_and_grad(tx.losses.mean_flow)(
        ...     u, path, x0, x1, key=jr.key(3), times=tx.losses.TimePairs(equal_fraction=0.5)
        ... )
        >>> loss.shape, bool(loss > 0)
        ((), True)

    References:
        Geng et al., Mean flows for one-step generative modeling, 2025, algorithm 1.
    """
    _checks.two_times("u", u)
    _checks.not_negative("adaptive", adaptive)

    def error(s, t, x0, x1, z, args):
        regressed = eulerian(u, path, s, t, x0, x1, z, args, velocity)
        return weighed_pair(weight, s, t, adapted(regressed.error, adaptive))

    return pair_average(error, path, x0, x1, args, key=key, times=times)


@_checks.gate
def improved_mean_flow(
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
) -> Float[Array, ""]:
    r"""Improved MeanFlow loss: the derivative goes along the map's own velocity.

    The mean of $|u(s, t, x_s) - (t - s)\,\mathrm{sg}[\partial_s u + Du\,u(s, s, x_s)] - \dot
    x_s|^2 / d$: a regression of the velocity that the map implies on that of the path. The bracket
    is a function of the point alone, so that the variance of the velocity is not multiplied by the
    derivative of the map as in `mean_flow`. It costs one more evaluation.

    Args:
        u: Flow map, `u(s, t, x, args) -> average velocity` of one example.
        path: Interpolant.
        x0: Source examples, shape (b, ...), paired with `x1` row by row by a coupling.
        x1: Target examples, of the same shape.
        args: Conditions, a pytree of arrays with leading axis b, or None.
        key: Randomness of the times and of the path's noise.
        times: `times(num, dtype, key=key) -> (s, t)`, the law of the pairs of times: `TimePairs` or
            your own.
        weight: Weight of an error at a pair of times in the mean, `weight(s, t) -> scalar`; 1 by
            default.
        adaptive: Exponent p, zero or positive, of the adaptive weight $(e + 10^{-3})^{-p}$ of an
            example whose mean squared error is e, held constant.
        velocity: `velocity(u, s, x, args, own)`, what to regress on at a point with the velocity
            `own` of the path: `path_velocity`, or `GuidedPathVelocity` for built-in guidance.

    Raises:
        ValueError: The batch is empty, `x0`, `x1` or `args` do not match, `u` takes one time only
            or returns another shape than that of its point, or `times` draws no pairs, or pairs
            that are not 0 <= s <= t <= 1, which give NaN where they are traced.

    Differentiation:
        With respect to the parameters of `u` and of `path`, x0, x1 and args, with the bracket and
        the adaptive weight held constant.

    Example:
        >>> def u(s, t, x, args):
        ...     return jnp.ones_like(x)
        >>> x0 = jnp.zeros((4, 2))
        >>> path = tx.interpolants.Linear()
        >>> float(tx.losses.improved_mean_flow(u, path, x0, x0 + 3.0, key=jr.key(0)))
        4.0

    References:
        Geng et al., Improved mean flows: on the challenges of fastforward generative models, 2025.
    """
    _checks.two_times("u", u)
    _checks.not_negative("adaptive", adaptive)

    def error(s, t, x0, x1, z, args):
        regressed = eulerian(u, path, s, t, x0, x1, z, args, velocity, own=True)
        return weighed_pair(weight, s, t, adapted(regressed.error, adaptive))

    return pair_average(error, path, x0, x1, args, key=key, times=times)
