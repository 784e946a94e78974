"""The flow-matching loss: regress the field on the velocities of the paths."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from transportx import _checks
from transportx.interpolants import AbstractInterpolant

Times = Callable[..., Float[Array, " b"]]


def uniform_times(num: int, dtype: Any, *, key: PRNGKeyArray) -> Float[Array, " b"]:
    """`num` independent uniform times, in the open interval (0, 1).

    The ends are left out because the velocity of noisy paths is infinite there.
    """
    return jr.uniform(key, (num,), dtype, minval=jnp.finfo(dtype).eps, maxval=1)


def flow_matching(
    field: Callable[..., Array],
    path: AbstractInterpolant,
    x0: Float[Array, "b ..."],
    x1: Float[Array, "b ..."],
    args: PyTree[Array] = None,
    *,
    key: PRNGKeyArray,
    times: Times = uniform_times,
) -> Float[Array, ""]:
    r"""Mean squared error between a field and the velocity of the path, over a batch.

    $\frac1b\sum_i |v(t_i, x_{t_i}, \mathrm{args}_i) - \dot x_{t_i}|^2 / d$, one time an
    example. Its minimiser is $E[\dot x_t \mid x_t = x, \mathrm{args}]$, the field that
    carries the source onto the target; the least value is not zero, but the mean
    variance of the velocities given the point.

    Args:
        field: `field(t, x, args) -> dx/dt` of one example.
        path: Interpolant.
        x0: Source examples, paired with `x1` row by row by a coupling.
        x1: Target examples, of the same shape.
        args: Conditions, a pytree of arrays with leading axis b, or None.
        key: Randomness of the times and of the path's noise.
        times: `times(num, dtype, key=key)`, the law of the times.

    Raises:
        ValueError: The batch is empty, `x0`, `x1` or `args` do not match, or `field` returns
            another shape than its point's.

    Differentiation:
        In the parameters of `field` and of `path`, in x0, x1 and args.

    References:
        Lipman et al., Flow Matching for Generative Modeling, 2022, equation 9; Tong et
        al., 2023, equation 10.
    """
    _checks.batch("x1", x1)
    _checks.same_shape("x0", x0, "x1", x1)
    for leaf in jax.tree.leaves(args):
        _checks.same_size("args", leaf, "x1", x1)
    time_key, noise_key = jr.split(key)
    t = times(x1.shape[0], x1.dtype, key=time_key)
    z = jr.normal(noise_key, x1.shape, x1.dtype) if path.has_noise else jnp.zeros_like(x1)

    def error(t, x0, x1, z, args):
        position, velocity = path(t, x0, x1, z)
        predicted = field(t, position, args)
        _checks.velocity(predicted, position)
        return jnp.mean((predicted - velocity) ** 2)

    return jnp.mean(jax.vmap(error)(t, x0, x1, z, args))
