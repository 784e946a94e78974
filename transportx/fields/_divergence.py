"""Divergence of a field: exact, and as an unbiased estimate."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from transportx import _checks, _numbers


@_checks.gate
def divergence(
    field: Callable[..., Array], t: Float[Array, ""], x: Float[Array, "..."], args=None
) -> Float[Array, ""]:
    """Divergence of a field at one point: the trace of its Jacobian, by d forward derivatives.

    Args:
        field: `field(t, x, args) -> dx/dt`, of the shape of `x`.
        t: Time.
        x: One point of any shape with d coordinates.
        args: Condition of the point, handed on to `field`.

    Raises:
        ValueError: `x` has no coordinate, or `field` returns another shape.

    Example:
        >>> float(tx.fields.divergence(lambda t, x, args: 2 * x, jnp.array(0.0), jnp.ones(3)))
        6.0
    """
    _check_point(x)
    t, point = _numbers.widened((t, x))
    directions = jnp.eye(x.size, dtype=point.dtype).reshape(x.size, *x.shape)
    rates = jax.vmap(lambda direction: _rate(field, t, point, args, direction))(directions)
    return _numbers.as_given(jnp.sum(rates), x)


@_checks.gate
def hutchinson_divergence(
    field: Callable[..., Array],
    t: Float[Array, ""],
    x: Float[Array, "..."],
    args=None,
    *,
    key: PRNGKeyArray,
    num_probes: int = 1,
) -> Float[Array, ""]:
    """Hutchinson's unbiased estimate of the divergence, from random signs.

    It costs `num_probes` forward derivatives, whatever the dimension. Its variance is twice the sum
    of squares of the off-diagonal symmetric part of the Jacobian, divided by `num_probes`.

    Args:
        field: `field(t, x, args) -> dx/dt`, of the shape of `x`.
        t: Time.
        x: One point of any shape.
        args: Condition of the point, handed on to `field`.
        key: Randomness of the signs.
        num_probes: Number of independent probes that are averaged, positive.

    Raises:
        ValueError: `x` has no coordinate, `field` returns another shape, or `num_probes` is not
            positive.

    Example:
        >>> def field(t, x, args):
        ...     return 2 * x
        >>> x = jnp.ones(3)
        >>> float(tx.fields.hutchinson_divergence(field, jnp.array(0.0), x, key=jr.key(0)))
        6.0

    References:
        Hutchinson, 1990; Grathwohl et al., FFJORD, 2019.
    """
    _check_point(x)
    _checks.count("num_probes", num_probes)

    t, point = _numbers.widened((t, x))

    def rate(probe_key):
        return _rate(field, t, point, args, jr.rademacher(probe_key, x.shape, point.dtype))

    return _numbers.as_given(jnp.mean(jax.vmap(rate)(jr.split(key, num_probes))), x)


def _rate(field, t, x, args, direction) -> Float[Array, ""]:
    """How fast the field grows along a direction, in that direction."""
    velocity, tangent = jax.jvp(lambda y: field(t, y, args), (x,), (direction,))
    _checks.velocity(velocity, x)
    return jnp.sum(tangent * direction.astype(tangent.dtype))


def _check_point(x: Array) -> None:
    if x.size == 0:
        _checks.reject("x", f"has shape {x.shape}", "give a point with at least one coordinate")
    _checks.floating("x", x)
