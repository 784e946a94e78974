"""Average velocities over a span of time that may be empty."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from transportx.interpolants import AbstractInterpolant

Time = Float[Array, ""]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(4)


def inner_times(s: Time, t: Time) -> Float[Array, " nodes"]:
    """Times between s and t at which `average_rate` wants the rate: Gauss' nodes."""
    return s + (t - s) * jnp.asarray((1 + _NODES) / 2, s.dtype)


def average_rate(change: PyTree[Array], rates: PyTree[Array], s: Time, t: Time) -> PyTree[Array]:
    """The mean of a rate over [s, t], which is the change there divided by t - s.

    Where the span is short the quotient would lose its digits: there the mean is that of Gauss'
    rule. At the length where one follows the other, the eighth root of the precision, the quotient
    keeps seven eighths of the digits, and the rule is as exact where the rate is smooth.

    Args:
        change: What the rate adds up to from `s` until `t`: arrays.
        rates: The rate at `inner_times`, along a leading axis.
        s: First time.
        t: Last time, not before `s`.
    """
    long = t - s > jnp.finfo(s.dtype).eps ** 0.125
    length = jnp.where(long, t - s, 1)

    def mean(change, rates):
        weights = jnp.asarray(_WEIGHTS / 2, rates.dtype)
        return jnp.where(long, change / length, jnp.tensordot(weights, rates, 1))

    return jax.tree.map(mean, change, rates)


def average_weight_rates(path: AbstractInterpolant, s: Time, t: Time) -> tuple[Time, Time]:
    """The mean rates over [s, t] of the weights alpha and beta of source and target."""
    change = jax.tree.map(jnp.subtract, path.coefficients(t)[:2], path.coefficients(s)[:2])
    rates = jax.vmap(lambda t: path.rates(t)[1][:2])(inner_times(s, t))
    return average_rate(change, rates, s, t)
