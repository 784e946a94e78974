"""Steps that are exact where the denoised target stands still."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree, ScalarLike

from transportx import _checks
from transportx.evolution import Grid, uniform_grid
from transportx.interpolants import AbstractInterpolant, from_velocity, noised_target
from transportx.sampling._integrate import at_each, check_span


@_checks.gate
def exponential_flow(
    field: Callable[..., Array],
    x0: Float[Array, "b ..."],
    args: PyTree[Array] = None,
    *,
    path: AbstractInterpolant,
    num_steps: int = 20,
    grid: Grid = uniform_grid,
    order: int = 2,
    scale: ScalarLike = 1.0,
    t0: float = 0.0,
    t1: float = 1.0,
) -> Float[Array, "b ..."]:
    r"""Integrate a flow from a Gaussian source by its linear part exactly.

    With $x_t = \beta D + \sigma N$ a step from t to t' is
    $x' = (\sigma'/\sigma) x + \sigma' \int_t^{t'} D\, d(\beta/\sigma)$: exact for a constant
    denoised target D, whatever the schedule. Order 1 takes D at the step's start (DDIM);
    order 2 extrapolates it in time from the step before. One evaluation a step.

    Args:
        field: Velocity field of one example, `field(t, x, args)`.
        x0: Examples at time `t0`.
        args: Conditions, a pytree of arrays with leading axis b, or None.
        path: The interpolant of the field.
        num_steps: Fixed steps.
        grid: Where they begin and end, as in `flow`; `KarrasGrid` suits.
        order: 1 or 2.
        scale: Standard deviation of the source.
        t0: First time, in [0, 1).
        t1: Last time, in [0, 1], after `t0`.

    Returns:
        Examples at time `t1`, shaped like `x0`.

    Raises:
        ValueError: As `flow`; `t1` is not after `t0`; or `order` is neither 1 nor 2.

    References:
        Song, Meng and Ermon, Denoising diffusion implicit models, 2021; Zhang and Chen,
        Fast sampling of diffusion models with exponential integrator, 2023 (order 2).
    """
    _checks.batch("x0", x0)
    _checks.count("num_steps", num_steps)
    check_span(x0, args, t0, t1)
    if order not in (1, 2):
        _checks.reject("order", f"is {order}", "give 1 or 2")
    if t1 <= t0:
        _checks.reject("t1", f"is {t1}", f"give a time after t0, which is {t0}")
    times = t0 + (t1 - t0) * grid(num_steps, x0.dtype)
    noised = jax.vmap(lambda t: noised_target(path, t, scale))(times)
    ratios = noised.sigma[1:] / noised.sigma[:-1]
    gains = noised.beta[1:] - ratios * noised.beta[:-1]
    slopes = _slope_gains(path, times, scale) if order == 2 else jnp.zeros_like(ratios)

    def denoised(t, x):
        velocity = at_each(field, t, x, args)
        return from_velocity(path, t, x, velocity, scale=scale).denoiser

    def step(carry, inputs):
        x, before = carry
        t, ratio, gain, slope = inputs
        target = denoised(t, x)
        return (ratio * x + gain * target + slope * (target - before), target), None

    inputs = times[:-1], ratios, gains, slopes
    (x1, _), _ = jax.lax.scan(step, (x0, jnp.zeros_like(x0)), inputs)
    return x1


# Of the integral over a step; its nodes keep off the ends, where sigma may be zero.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(8)


def _slope_gains(path: AbstractInterpolant, times, scale) -> Float[Array, " steps"]:
    r"""What the change of the target since the step before adds, were it to go on in time.

    $\sigma' \int_t^{t'} (s - t)\, d(\beta/\sigma)$, by parts, over the length of the step before.
    The first step knows of none.
    """
    nodes, weights = (jnp.asarray(part, times.dtype) / 2 for part in (_NODES + 1, _WEIGHTS))
    lengths, end = jnp.diff(times), jax.vmap(lambda t: noised_target(path, t, scale))(times[1:])

    def mean_ratio(t, length):
        inner = jax.vmap(lambda s: noised_target(path, t + length * s, scale))(nodes)
        return weights @ (inner.beta / inner.sigma)

    gains = lengths * (end.beta - end.sigma * jax.vmap(mean_ratio)(times[:-1], lengths))
    return jnp.concatenate([jnp.zeros(1, times.dtype), gains[1:] / lengths[:-1]])
