"""Laws of pairs of times s <= t, and averages of errors over them."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, ScalarLike

from transportx import _checks, _numbers
from transportx._meshes import beside
from transportx.interpolants import AbstractInterpolant
from transportx.losses._regression import latent_noise, prepared
from transportx.losses._times import Times, uniform_times

Time = Float[Array, ""]
PairWeight = Callable[[Time, Time], Time]


@_checks.gate
class TimePairs(eqx.Module):
    """Pairs of times s <= t for the losses of flow maps: two draws of one law, in order.

    In a random fraction of the pairs both times are equal to one draw: there a flow map is its
    field, and these losses are `flow_matching`.

    Attributes:
        times: `times(num, dtype, key=key)`, the law of each time: `uniform_times`,
            `LogitNormalTimes`, `BetaTimes` or your own.
        equal_fraction: Probability that both times of a pair are equal, in [0, 1].

    Raises:
        ValueError: `equal_fraction` is outside [0, 1].

    Example:
        >>> s, t = tx.losses.TimePairs(equal_fraction=0.5)(1000, jnp.float32, key=jr.key(0))
        >>> bool(jnp.all(s <= t)), round(float(jnp.mean(s == t)), 1)
        (True, 0.5)

    References:
        Geng et al., Mean flows for one-step generative modeling, 2025, section 4.3.
    """

    times: Times = uniform_times
    equal_fraction: ScalarLike = 0.75

    def __check_init__(self):
        _checks.fraction("equal_fraction", self.equal_fraction)

    @_checks.gate
    def __call__(
        self, num: int, dtype: Any, *, key: PRNGKeyArray
    ) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
        """Draw `num` independent pairs of times.

        Args:
            num: Number of pairs.
            dtype: Floating-point dtype.
            key: Randomness.

        Returns:
            First and last times, each of shape (num,).
        """
        _checks.count("num", num)
        first_key, second_key, equal_key = jr.split(key, 3)
        first, second = (self.times(num, dtype, key=k) for k in (first_key, second_key))
        fraction = jnp.asarray(self.equal_fraction, jnp.float32)
        equal = jr.uniform(equal_key, (num,), jnp.float32) < fraction
        second = jnp.where(equal, first, second)
        known = (fraction >= 0) & (fraction <= 1)
        s, t = jnp.minimum(first, second), jnp.maximum(first, second)
        return jnp.where(known, s, jnp.nan), jnp.where(known, t, jnp.nan)


def unweighted_pair(s: Time, t: Time) -> Time:
    """The weight 1 at every pair of times."""
    return jnp.ones_like(s)


def weighed_pair(weight: PairWeight, s: Time, t: Time, error: Time) -> Time:
    """An error times the weight of its pair of times."""
    factor = weight(s, t)
    _checks.number("weight", factor)
    return jnp.asarray(factor, error.dtype) * error


def over_pairs(
    error: Callable[..., PyTree[Array]],
    path: AbstractInterpolant,
    x0: Float[Array, "b ..."],
    x1: Float[Array, "b ..."],
    args: PyTree[Array],
    *,
    key: PRNGKeyArray,
    times: Callable[..., Any],
) -> PyTree[Array]:
    """`error(s, t, x0, x1, z, args)` at every example, with one pair of times and one noise each.

    Times, noise and errors are in float32 at least, and in the wider dtype of both ends.
    """
    source, target, time_key, noise_key = prepared(x0, x1, args, key)
    s, t = _drawn(times, target, time_key)
    z = latent_noise(path, target, noise_key)
    s, t = _checks.ordered_times(s, t)
    s, t, source, z, args = beside(target, (s, t, source, z, args))
    return jax.vmap(error)(s, t, source, target, z, args)


def pair_average(
    error: Callable[..., Array],
    path: AbstractInterpolant,
    x0: Float[Array, "b ..."],
    x1: Float[Array, "b ..."],
    args: PyTree[Array],
    *,
    key: PRNGKeyArray,
    times: Callable[..., Any],
) -> Float[Array, ""]:
    """Mean over a batch of `error(s, t, x0, x1, z, args)`; in a half where the targets are."""
    errors = over_pairs(error, path, x0, x1, args, key=key, times=times)
    return _numbers.as_given(jnp.mean(errors), x1)


def _drawn(times, target, key) -> tuple[Array, Array]:
    """The pairs of a law, refused if it is one of single times."""
    num, dtype = target.shape[0], target.dtype
    pair = times(num, dtype, key=key)
    if not (isinstance(pair, tuple) and len(pair) == 2):
        cure = "give a law of pairs (s, t), as `tx.losses.TimePairs(uniform_times)`"
        shape = getattr(pair, "shape", f"a {type(pair).__name__}")
        _checks.reject("times", f"returns shape {shape}", cure)
    for time in pair:
        if jnp.shape(time) != (num,):
            problem = f"returns times of shape {jnp.shape(time)}"
            _checks.reject("times", problem, f"return one pair for each of {num} examples")
    s, t = pair
    return jnp.asarray(s, dtype), jnp.asarray(t, dtype)
