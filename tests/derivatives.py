"""Derivatives held against finite differences."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr


def assert_derivatives(function, *inputs, step=1e-5, rtol=1e-6, forward=True):
    """Reverse mode, and forward mode if asked, equal a central difference in a random direction.

    Inputs are pytrees of float64; other leaves are held fixed. A central difference errs
    by step^2 / 6 of the third derivative and by rounding over step: 1e-10 each, times the
    size of the numbers.
    """
    arrays, static = eqx.partition(inputs, eqx.is_inexact_array)
    leaves, tree = jax.tree.flatten(arrays)
    keys = jr.split(jr.key(11), len(leaves))
    direction = tree.unflatten(
        [jr.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)]
    )

    def value(moved):
        return _random_sum(function(*eqx.combine(moved, static)))

    @jax.jit
    def scalar(size):
        return value(jax.tree.map(lambda x, d: x + size * d, arrays, direction))

    @jax.jit
    def reverse():
        products = jax.tree.map(lambda g, d: jnp.sum(g * d), jax.grad(value)(arrays), direction)
        return sum(jax.tree.leaves(products))

    zero = jnp.zeros(())
    difference = (scalar(zero + step) - scalar(zero - step)) / (2 * step)
    assert jnp.isfinite(difference)
    scale = 1 + abs(difference)
    assert abs(reverse() - difference) < rtol * scale
    if forward:
        _, tangent = jax.jvp(scalar, (zero,), (jnp.ones(()),))
        assert abs(tangent - difference) < rtol * scale


def _random_sum(outputs):
    """A fixed random functional, so that no derivative can hide in a cancelling sum."""
    leaves = jax.tree.leaves(outputs)
    keys = jr.split(jr.key(12), len(leaves))
    return sum(
        jnp.sum(leaf * jr.normal(k, leaf.shape, leaf.dtype))
        for k, leaf in zip(keys, leaves, strict=True)
    )
