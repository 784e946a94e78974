"""What losses on paths share: draw times and noise, compare a network with a target."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from transportx import _checks
from transportx.interpolants import AbstractInterpolant
from transportx.losses._times import Times

Weight = Callable[[Float[Array, ""]], Float[Array, ""]]


def unweighted(t: Float[Array, ""]) -> Float[Array, ""]:
    """Every time counts alike."""
    return jnp.ones_like(t)


def regression(
    network: Callable[..., Array],
    target: Callable[..., Array],
    path: AbstractInterpolant,
    x0: Float[Array, "b ..."],
    x1: Float[Array, "b ..."],
    args: PyTree[Array],
    *,
    key: PRNGKeyArray,
    times: Times,
    weight: Weight,
) -> Float[Array, ""]:
    """Mean squared error between `network(t, x_t, args)` and `target(t, x0, x1, z)`."""

    def error(t, x0, x1, z, args):
        position = path.position(t, x0, x1, z)
        predicted = network(t, position, args)
        _checks.velocity(predicted, position)
        return weight(t) * jnp.mean((predicted - target(t, x0, x1, z)) ** 2)

    return average(error, path, x0, x1, args, key=key, times=times)


def average(
    error: Callable[..., Array],
    path: AbstractInterpolant,
    x0: Float[Array, "b ..."],
    x1: Float[Array, "b ..."],
    args: PyTree[Array],
    *,
    key: PRNGKeyArray,
    times: Times,
) -> Float[Array, ""]:
    """Mean of `error(t, x0, x1, z, args)` over a batch, one time and one noise an example."""
    _checks.batch("x1", x1)
    _checks.same_shape("x0", x0, "x1", x1)
    for leaf in jax.tree.leaves(args):
        _checks.same_size("args", leaf, "x1", x1)
    time_key, noise_key = jr.split(key)
    t = times(x1.shape[0], x1.dtype, key=time_key)
    z = jr.normal(noise_key, x1.shape, x1.dtype) if path.has_noise else jnp.zeros_like(x1)
    return jnp.mean(jax.vmap(error)(t, x0, x1, z, args))
