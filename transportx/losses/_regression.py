"""Regression along paths: draw times and noise, compare a network with a target."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from transportx import _checks, _numbers
from transportx._meshes import beside
from transportx.interpolants import AbstractInterpolant
from transportx.losses._times import Times

Weight = Callable[[Float[Array, ""]], Float[Array, ""]]


def unweighted(t: Float[Array, ""]) -> Float[Array, ""]:
    """The weight 1 at every time."""
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
        predicted, wanted = answer(network, t, position, args, target(t, x0, x1, z))
        return weighed(weight, t, jnp.mean((predicted - wanted) ** 2))

    return average(error, path, x0, x1, args, key=key, times=times)


def answer(
    network: Callable[..., Array], t: Array, position: Array, args: PyTree[Array], target: Array
) -> list[Array]:
    """Prediction of the network at a point, and its target, in the wider of their dtypes."""
    predicted = network(t, position, args)
    _checks.velocity(predicted, position)
    return _numbers.matched(predicted, target)


def weighed(weight: Weight, t: Array, error: Array) -> Float[Array, ""]:
    """An error times the weight of its time."""
    factor = weight(t)
    _checks.number("weight", factor)
    return jnp.asarray(factor, error.dtype) * error


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
    """Mean of `error(t, x0, x1, z, args)` over a batch, with one time and one noise per example.

    Times, noise and errors are in float32 at least, and in the wider dtype of both ends.
    """
    source, target, time_key, noise_key = prepared(x0, x1, args, key)
    t = jnp.asarray(times(target.shape[0], target.dtype, key=time_key), target.dtype)
    if jnp.shape(t) != target.shape[:1]:
        cure = f"return one time for each of {target.shape[0]} examples"
        _checks.reject("times", f"returns shape {jnp.shape(t)}", cure)
    z = latent_noise(path, target, noise_key)
    t, source, z, args = beside(target, (t, source, z, args))
    mean = jnp.mean(jax.vmap(error)(t, source, target, z, args))
    return _numbers.as_given(mean, x1)


def prepared(
    x0: Float[Array, "b ..."], x1: Float[Array, "b ..."], args: PyTree[Array], key: PRNGKeyArray
) -> tuple[Array, Array, PRNGKeyArray, PRNGKeyArray]:
    """Both ends in one wide dtype, checked, and keys of the times and of the path's noise."""
    _checks.batch("x1", x1)
    _checks.batch("x0", x0)
    _checks.same_shape("x0", x0, "x1", x1)
    for leaf in jax.tree.leaves(args):
        _checks.same_size("args", leaf, "x1", x1)
    source, target = _numbers.matched(x0, x1)
    time_key, noise_key = jr.split(key)
    return source, target, time_key, noise_key


def latent_noise(path: AbstractInterpolant, target: Array, key: PRNGKeyArray) -> Array:
    """The noise z of a path, one for each example; zero where the path has none."""
    if path.has_noise:
        return jr.normal(key, target.shape, target.dtype)
    return jnp.zeros_like(target)
