"""Losses of flow maps by halves of a step, and by the flow of a teacher."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from transportx import _checks, _numbers
from transportx.interpolants import AbstractInterpolant
from transportx.losses._eulerian import derivative_along
from transportx.losses._time_pairs import (
    PairWeight,
    TimePairs,
    pair_average,
    unweighted_pair,
    weighed_pair,
)

Batch = Float[Array, "b ..."]


@_checks.gate
def shortcut(
    u: Callable[..., Array],
    path: AbstractInterpolant,
    x0: Batch,
    x1: Batch,
    args: PyTree[Array] = None,
    *,
    key: PRNGKeyArray,
    times: Callable[..., Any] = TimePairs(),
    weight: PairWeight = unweighted_pair,
) -> Float[Array, ""]:
    r"""Shortcut loss: a step of a flow map must equal its two halves; short ones learn from data.

    With r = (s + t) / 2 the mean of $|u(s, t, x_s) - \mathrm{sg}[u(s, r, x_s) + u(r, t, X(s, r,
    x_s))] / 2|^2 / d$ over pairs with s < t, and of the `flow_matching` error $|u(s, s, x_s) - \dot
    x_s|^2 / d$ over those with s = t. No derivative of the map is needed; the bracket is held
    constant (stop-gradient).

    Args:
        u: Flow map, `u(s, t, x, args) -> average velocity` of one example.
        path: Interpolant.
        x0: Source examples, shape (b, ...), paired with `x1` row by row by a coupling.
        x1: Target examples, of the same shape.
        args: Conditions, a pytree of arrays with leading axis b, or None.
        key: Randomness of the times and of the path's noise.
        times: `times(num, dtype, key=key) -> (s, t)`, the law of the pairs of times: `TimePairs` or
            your own. Without equal times nothing is learnt from data.
        weight: Weight of an error at a pair of times in the mean, `weight(s, t) -> scalar`; 1 by
            default.

    Raises:
        ValueError: The batch is empty, `x0`, `x1` or `args` do not match, `u` takes one time only
            or returns another shape than that of its point, or `times` draws no pairs, or pairs
            that are not 0 <= s <= t <= 1, which give NaN where they are traced.

    Differentiation:
        With respect to the parameters of `u` and of `path`, x0, x1 and args, with the bracket held
        constant.

    Example:
        >>> def u(s, t, x, args):
        ...     return jnp.ones_like(x)
        >>> x0, times = jnp.zeros((4, 2)), tx.losses.TimePairs(equal_fraction=1.0)
        >>> path = tx.interpolants.Linear()
        >>> float(tx.losses.shortcut(u, path, x0, x0 + 3.0, key=jr.key(0), times=times))
        4.0

    References:
        Frans et al., One step diffusion via shortcut models, 2024, equation 5.
    """
    _checks.two_times("u", u)

    def error(s, t, x0, x1, z, args):
        x, velocity = path(s, x0, x1, z)
        wanted = by_halves(u, s, t, x, args, velocity)
        return weighed_pair(weight, s, t, squared(_called(u, s, t, x, args), wanted))

    return pair_average(error, path, x0, x1, args, key=key, times=times)


@_checks.gate
def flow_map_distillation(
    u: Callable[..., Array],
    path: AbstractInterpolant,
    x0: Batch,
    x1: Batch,
    args: PyTree[Array] = None,
    *,
    key: PRNGKeyArray,
    teacher: Callable[..., Array],
    form: Literal["eulerian", "lagrangian", "semigroup"] = "lagrangian",
    times: Callable[..., Any] = TimePairs(),
    weight: PairWeight = unweighted_pair,
) -> Float[Array, ""]:
    r"""Flow-map distillation loss: train a flow map to follow a teacher's velocity field.

    The mean of $|u(s, t, x_s) - \mathrm{sg}[w]|^2 / d$ where w is what an equation of flow maps
    says that u is, with v the teacher and X = x + (t - s) u:

    - "eulerian": $v(s, x) + (t - s) (\partial_s u + Du\,v(s, x))$, a derivative in time and point;
    - "lagrangian": $v(t, X) - (t - s)\,\partial_t u$, a derivative in time alone;
    - "semigroup": the mean of u over both halves of [s, t], and v(s, x) where s = t; no derivative.

    All are zero at the exact flow map of the teacher alone, and have no noise there. Reflow, a
    second training on pairs that the flow of a field couples, is `flow_matching` of sources and
    their `sampling.flow`.

    Args:
        u: Flow map, `u(s, t, x, args) -> average velocity` of one example.
        path: Interpolant, whose points x_s are those at which u is trained.
        x0: Source examples, shape (b, ...), paired with `x1` row by row by a coupling.
        x1: Target examples, of the same shape.
        args: Conditions of map and teacher, a pytree of arrays with leading axis b, or None.
        key: Randomness of the times and of the path's noise.
        teacher: Velocity field, `teacher(t, x, args) -> dx/dt` of one example.
        form: "eulerian", "lagrangian" or "semigroup".
        times: `times(num, dtype, key=key) -> (s, t)`, the law of the pairs of times: `TimePairs` or
            your own.
        weight: Weight of an error at a pair of times in the mean, `weight(s, t) -> scalar`; 1 by
            default.

    Raises:
        ValueError: The batch is empty, `x0`, `x1` or `args` do not match, `u` takes one time only,
            `u` or `teacher` returns another shape than that of its point, or `times` draws no
            pairs, or pairs that are not 0 <= s <= t <= 1, which give NaN where they are traced.

    Differentiation:
        With respect to the parameters of `u` and of `path`, x0, x1 and args, with w held constant.

    Example:
        >>> S = jnp.eye(2)
        >>> u = tx.fields.GaussianFlowMap(jnp.zeros(2), S, jnp.ones(2), 4 * S)
        >>> teacher = tx.fields.GaussianField(jnp.zeros(2), S, jnp.ones(2), 4 * S)
        >>> x0, x1 = jr.normal(jr.key(1), (4, 2)), jr.normal(jr.key(2), (4, 2))
        >>> loss = tx.losses.flow_map_distillation(
        ...     u, tx.interpolants.Linear(), x0, x1, key=jr.key(3), teacher=teacher
        ... )
        >>> bool(loss < 1e-6)
        True

    References:
        Boffi, Albergo and Vanden-Eijnden, Flow map matching, 2024, and How to build a consistency
        model, 2025.
    """
    _checks.two_times("u", u)

    def field(t, x, args):
        velocity = teacher(t, x, args)
        _checks.velocity(velocity, x, "teacher")
        return velocity

    def error(s, t, x0, x1, z, args):
        x = path.position(s, x0, x1, z)
        value, wanted = _FORMS[form](u, field, s, t, x, args)
        return weighed_pair(weight, s, t, squared(value, jax.lax.stop_gradient(wanted)))

    return pair_average(error, path, x0, x1, args, key=key, times=times)


def by_eulerian_equation(u, field, s, t, x, args) -> tuple[Array, Array]:
    """u(s, t, x), and what the derivative along the field at s says that it is."""
    velocity = field(s, x, args)
    value, derivative = derivative_along(u, s, t, x, args, velocity)
    velocity, derivative = _numbers.matched(velocity, derivative)
    return value, velocity + derivative


def by_lagrangian_equation(u, field, s, t, x, args) -> tuple[Array, Array]:
    """u(s, t, x), and what the velocity of the particle where it arrives says that it is."""
    value, rate = jax.jvp(lambda t: _called(u, s, t, x, args), (t,), (jnp.ones_like(t),))
    arrived = x + (t - s).astype(x.dtype) * value.astype(x.dtype)
    velocity, change = _numbers.matched(field(t, arrived, args), (t - s).astype(rate.dtype) * rate)
    return value, velocity - change


def by_semigroup(u, field, s, t, x, args) -> tuple[Array, Array]:
    """u(s, t, x), and what two halves of the step say that it is."""
    return _called(u, s, t, x, args), by_halves(u, s, t, x, args, field(s, x, args))


_FORMS = {
    "eulerian": by_eulerian_equation,
    "lagrangian": by_lagrangian_equation,
    "semigroup": by_semigroup,
}


def by_halves(u, s, t, x, args, velocity) -> Array:
    """The mean of u over both halves of [s, t], held constant; the velocity where s = t."""
    middle = (s + t) / 2
    first = _called(u, s, middle, x, args)
    second = _called(u, middle, t, x + (middle - s).astype(x.dtype) * first.astype(x.dtype), args)
    halves, velocity = _numbers.matched(jax.lax.stop_gradient((first + second) / 2), velocity)
    return jnp.where(s == t, velocity, halves)


def squared(value: Array, wanted: Array) -> Float[Array, ""]:
    """Mean squared difference, in the wider dtype of both."""
    value, wanted = _numbers.matched(value, wanted)
    return jnp.mean((value - wanted) ** 2)


def _called(u, s, t, x, args) -> Array:
    value = u(s, t, x, args)
    _checks.velocity(value, x, "u")
    return value
