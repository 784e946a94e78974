"""Steps that are exact where the denoised target stands still."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree, ScalarLike

from transportx import _checks, _numbers
from transportx.evolution import FixedSteps, Grid, uniform_grid
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
    source_scale: ScalarLike = 1.0,
    t0: float = 0.0,
    t1: float = 1.0,
) -> Float[Array, "b ..."]:
    r"""Integrate a flow from a Gaussian source by its linear part exactly.

    With $x_t = \beta D + \sigma N$ a step from t to t' is
    $x' = (\sigma'/\sigma) x + \sigma' \int_t^{t'} D\, d(\beta/\sigma)$: exact for a constant
    denoised target D, whatever the schedule. Order 1 takes D at the step's start (DDIM);
    order 2 extrapolates it in time from the step before. One evaluation a step. Where the
    target neither shows nor comes at a step's start, as before t = 1/2 of `EncodingDecoding`,
    D is taken at the first of eight times in the step at which it does.

    Args:
        field: Velocity field of one example, `field(t, x, args)`.
        x0: Examples at time `t0`.
        args: Conditions, a pytree of arrays with leading axis b, or None.
        path: The interpolant of the field.
        num_steps: Fixed steps.
        grid: Where they begin and end, as in `flow`; `KarrasGrid` suits.
        order: 1 or 2.
        source_scale: Standard deviation of the source.
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
    _checks.scale("source_scale", source_scale)
    if order not in (1, 2):
        _checks.reject("order", f"is {order}", "give 1 or 2")
    if t1 <= t0:
        _checks.reject("t1", f"is {t1}", f"give a time after t0, which is {t0}")
    start = _numbers.widened(x0)
    span = (jnp.asarray(time, start.dtype) for time in (t0, t1))
    times = FixedSteps(num_steps, grid=grid).nodes(*span)
    plan = _plan(path, times, source_scale, order)

    def denoised(t, x):
        velocity = at_each(field, t, x, args).astype(x.dtype)
        return from_velocity(path, t, x, velocity, source_scale=source_scale).denoiser

    def step(carry, inputs):
        x, before = carry
        ratio, gain, slope, time, stretch, known = inputs
        target = jnp.where(known, denoised(time, stretch * x), 0)
        return (ratio * x + gain * target + slope * (target - before), target), None

    (x1, _), _ = jax.lax.scan(step, (start, jnp.zeros_like(start)), plan)
    return _numbers.in_dtype(x1, x0)


# Of the integral over a step; its nodes keep off the ends, where sigma may be zero.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(8)
# Where in a step its target is looked for.
_PARTS = np.arange(8) / 8


def _plan(path: AbstractInterpolant, times, source_scale, order) -> tuple[Array, ...]:
    """For each step: factors of x, of the target and of its change; when and where to ask."""
    noised = jax.vmap(lambda t: noised_target(path, t, source_scale))(times)
    ended = noised.sigma[:-1] <= 0
    # Noise that is gone stays gone: steps may be left by a grid that rounds onto its end.
    ratios = jnp.where(ended, 0, noised.sigma[1:] / jnp.where(ended, 1, noised.sigma[:-1]))
    gains = noised.beta[1:] - ratios * noised.beta[:-1]
    asked, stretch, known = _asked(path, times, source_scale)
    slopes = jnp.zeros_like(ratios)
    if order == 2:
        late = asked - times[:-1]
        apart = jnp.diff(asked)
        change = _first_moments(path, times, source_scale)[1:] - late[1:] * gains[1:]
        usable = known[1:] & known[:-1] & (apart > 0)
        change = jnp.where(usable, change / jnp.where(usable, apart, 1), 0)
        slopes = slopes.at[1:].set(change)
    return ratios, gains, slopes, asked, stretch, known


def _asked(path: AbstractInterpolant, times, source_scale) -> tuple[Array, Array, Array]:
    """When each step asks for its target, how x is stretched until then, and if it shows at all.

    A step asks at its start, if the velocity there tells the target to half of its digits.
    Until it shows, x is noise alone, and moves with the size of that.
    """
    parts = jnp.asarray(_PARTS, times.dtype)
    seen = times[:-1, None] + jnp.diff(times)[:, None] * parts[None, :]
    noised = jax.vmap(jax.vmap(lambda t: noised_target(path, t, source_scale)))(seen)
    squares = noised.beta**2 + noised.sigma**2
    tells = noised.turning > jnp.finfo(times.dtype).eps ** 0.5 * squares
    first = jnp.argmax(tells, axis=1)[:, None]
    asked, size = (jnp.take_along_axis(a, first, axis=1)[:, 0] for a in (seen, squares))
    return asked, jnp.sqrt(size / squares[:, 0]), jnp.any(tells, axis=1)


def _first_moments(path: AbstractInterpolant, times, source_scale) -> Float[Array, " steps"]:
    r"""$\sigma' \int_t^{t'} (s - t)\, d(\beta/\sigma)$, by parts."""
    nodes, weights = (jnp.asarray(part, times.dtype) / 2 for part in (_NODES + 1, _WEIGHTS))
    lengths, end = (
        jnp.diff(times),
        jax.vmap(lambda t: noised_target(path, t, source_scale))(times[1:]),
    )

    def mean_ratio(t, length):
        inner = jax.vmap(lambda s: noised_target(path, t + length * s, source_scale))(nodes)
        # A node that rounds onto the end of the noise has a ratio of infinity, times sigma = 0.
        noisy = inner.sigma > 0
        return weights @ jnp.where(noisy, inner.beta / jnp.where(noisy, inner.sigma, 1), 0)

    return lengths * (end.beta - end.sigma * jax.vmap(mean_ratio)(times[:-1], lengths))
