"""Derivatives of every mode against central differences."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.flatten_util import ravel_pytree


def check_derivatives(function, *arguments, order=1, step=1e-4, tol=1e-6, forward=True):
    """Compare jvp and vjp of a function of arrays with a central difference.

    The direction is random. Order 2 checks the derivative of both, forward over forward
    and forward over reverse. Errors of a difference are of order step^2, times a third
    derivative, and 1e-16 / step, times the function: `tol` bounds both. A function of
    reverse mode only says ``forward=False``.
    """
    flat, unravel = ravel_pytree(arguments)
    direction = jr.normal(jr.key(order), flat.shape)

    def value(flat):
        return ravel_pytree(function(*unravel(flat)))[0]

    def along_direction(flat):
        return jax.jvp(value, (flat,), (direction,))[1]

    def reverse(flat):
        values, pull = jax.vjp(value, flat)
        return pull(jnp.cos(jnp.arange(values.size, dtype=values.dtype)))[0]

    @jax.jit
    def compare(flat):
        # A loop, so that the function is compiled once for both ends.
        ends = jax.lax.map(lambda sign: value(flat + sign * step * direction), jnp.array([1.0, -1]))
        difference = (ends[0] - ends[1]) / (2 * step)
        along = along_direction(flat) if forward else difference
        return difference, along, reverse(flat) @ direction

    difference, along, across = compare(flat)
    np.testing.assert_allclose(along, difference, rtol=tol, atol=tol)
    weights = np.cos(np.arange(difference.size))
    np.testing.assert_allclose(across, weights @ difference, rtol=tol, atol=10 * tol)
    if order > 1:
        for first in (along_direction, reverse):
            check_derivatives(first, flat, order=order - 1, step=step, tol=tol)
