"""Exponential integrators: steps that are exact where the denoised target is constant."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PyTree, ScalarLike

from transportx import _checks, _numbers
from transportx.evolution import FixedSteps
from transportx.interpolants import AbstractInterpolant, from_velocity, noised_target
from transportx.sampling._batch import as_own_steps, as_span, at_each, check_batch, check_span
from transportx.sampling._flow import Trajectories, finished


@_checks.gate
def exponential_flow(
    field: Callable[..., Array],
    x0: Float[Array, "b ..."],
    args: PyTree[Array] = None,
    *,
    path: AbstractInterpolant,
    steps: int | FixedSteps = 20,
    order: int = 2,
    source_scale: ScalarLike = 1.0,
    t0: ScalarLike = 0.0,
    t1: ScalarLike = 1.0,
) -> Float[Array, "b ..."]:
    r"""Sample by an exponential integrator: the linear part of the flow is solved exactly.

    For flows from a Gaussian source. With $x_t = \beta D + \sigma N$ a step from t to t' is
    $x' = (\sigma'/\sigma) x + \sigma' \int_t^{t'} D\, d(\beta/\sigma)$: exact for a constant
    denoised target D, whatever the schedule. Order 1 takes D at the step's start (DDIM);
    order 2 extrapolates it in time from the step before. A step costs one evaluation of
    `field`. Where the velocity at a step's start does not determine the target, as before
    t = 1/2 of `EncodingDecoding`, D is taken at the first of eight times in the step at which
    it does.

    Args:
        field: Velocity field, `field(t, x, args) -> dx/dt` of one example.
        x0: Examples at time `t0`, shape (b, ...).
        args: Conditions, a pytree of arrays with leading axis b, or None.
        path: The interpolant that `field` belongs to.
        steps: An int, that many equal steps; or `evolution.FixedSteps(num, grid=...)` with
            another grid: `KarrasGrid` suits. A solver of theirs is refused.
        order: Order of the rule, 1 or 2.
        source_scale: Standard deviation of the Gaussian source, positive.
        t0: First time, in [0, 1).
        t1: Last time, in [0, 1], after `t0`.

    Returns:
        Examples at time `t1`, shaped like `x0`. NaN where an example failed:
        `exponential_trajectories` says why.

    Raises:
        ValueError: The batch is empty, a time is outside [0, 1], `t1` is not after `t0`, steps
            are adaptive or have a solver, `order` is neither 1 nor 2, or `field` returns another
            shape than that of its point.

    Differentiation:
        Forward and reverse mode, in `x0`, `args` and the parameters of `field` and `path`.

    Example:
        >>> target = jnp.array([[1.0, -2.0]])
        >>> field, path = tx.fields.EmpiricalField(target), tx.interpolants.Linear()
        >>> x0 = jr.normal(jr.key(0), (3, 2))
        >>> x1 = tx.sampling.exponential_flow(field, x0, path=path, steps=4)
        >>> bool(jnp.allclose(x1, target, atol=1e-5))  # exact for one data point
        True

    References:
        Song, Meng and Ermon, Denoising diffusion implicit models, 2021; Zhang and Chen,
        Fast sampling of diffusion models with exponential integrator, 2023 (order 2).
    """
    options = {"path": path, "steps": steps, "order": order, "source_scale": source_scale}
    return exponential_trajectories(field, x0, args, **options, t0=t0, t1=t1).x


@_checks.gate
def exponential_trajectories(
    field: Callable[..., Array],
    x0: Float[Array, "b ..."],
    args: PyTree[Array] = None,
    *,
    path: AbstractInterpolant,
    steps: int | FixedSteps = 20,
    order: int = 2,
    source_scale: ScalarLike = 1.0,
    t0: ScalarLike = 0.0,
    t1: ScalarLike = 1.0,
) -> Trajectories:
    """Sample like `exponential_flow`, and say how each example ended.

    Args:
        field: Velocity field, `field(t, x, args) -> dx/dt` of one example.
        x0: Examples at time `t0`, shape (b, ...).
        args: Conditions, a pytree of arrays with leading axis b, or None.
        path: The interpolant that `field` belongs to.
        steps: An int, that many equal steps; or `evolution.FixedSteps(num, grid=...)` with
            another grid. A solver of theirs is refused.
        order: Order of the rule, 1 or 2.
        source_scale: Standard deviation of the Gaussian source, positive.
        t0: First time, in [0, 1).
        t1: Last time, in [0, 1], after `t0`. Traced times in the wrong order give NaN.

    Returns:
        Examples at time `t1`, with the number of steps and the status of each.

    Raises:
        ValueError: The batch is empty, a time is outside [0, 1], `t1` is not after `t0`, steps
            are adaptive or have a solver, `order` is neither 1 nor 2, or `field` returns another
            shape than that of its point.

    Example:
        >>> field, path = tx.fields.EmpiricalField(jnp.ones((1, 1))), tx.interpolants.Linear()
        >>> x0 = jnp.array([[0.0], [jnp.nan]])
        >>> made = tx.sampling.exponential_trajectories(field, x0, path=path, steps=4)
        >>> made.completed.tolist(), made.num_steps.tolist()
        ([True, False], [4, 4])
    """
    check_batch("x0", x0, args)
    check_span(x0, args, t0, t1)
    _checks.scale("source_scale", source_scale)
    if order not in (1, 2):
        _checks.reject("order", f"is {order}", "give 1 or 2")
    if not (isinstance(t0, Tracer) or isinstance(t1, Tracer)) and not np.asarray(t0) < np.asarray(
        t1
    ):
        _checks.reject("t1", f"is {t1}", f"give a time after t0, which is {t0}")
    way, span = as_own_steps(steps), as_span(x0, t0, t1)
    deviation = jnp.asarray(source_scale, span[0].dtype)
    return _exponential(field, x0, args, path, way, order, deviation, span)


@eqx.filter_jit
def _exponential(field, x0, args, path, steps, order, source_scale, span) -> Trajectories:
    start = jnp.where(span[0] < span[1], _numbers.widened(x0), jnp.nan)
    plan = _plan(path, steps.nodes(*span), source_scale, order)

    def denoised(t, x):
        velocity = at_each(field, t, x, args).astype(x.dtype)
        return from_velocity(path, t, x, velocity, source_scale=source_scale).denoiser

    def step(carry, inputs):
        x, before = carry
        ratio, gain, slope, time, stretch, known = inputs
        target = jnp.where(known, denoised(time, stretch * x), 0)
        return (ratio * x + gain * target + slope * (target - before), target), None

    (x1, _), _ = jax.lax.scan(step, (start, jnp.zeros_like(start)), plan)
    return finished(x0, _numbers.in_dtype(x1, x0), steps.num)


# Gauss-Legendre nodes of a step; none is an end, where sigma may be zero.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(8)
# Fractions of a step at which its target is looked for.
_FRACTIONS = np.arange(8) / 8


def _plan(path: AbstractInterpolant, times, source_scale, order) -> tuple[Array, ...]:
    """For each step: factors of x, of the target and of its change; when the target is evaluated.

    The last three are the time of that evaluation, the factor of x there, and whether the velocity
    determines the target at all.
    """
    noised = jax.vmap(lambda t: noised_target(path, t, source_scale))(times)
    ended = noised.sigma[:-1] <= 0
    # Noise that is gone stays gone: steps may be left by a grid that rounds onto its end.
    ratios = jnp.where(ended, 0, noised.sigma[1:] / jnp.where(ended, 1, noised.sigma[:-1]))
    gains = noised.beta[1:] - ratios * noised.beta[:-1]
    when, stretch, known = _evaluations(path, times, source_scale)
    slopes = jnp.zeros_like(ratios)
    if order == 2:
        late = when - times[:-1]
        apart = jnp.diff(when)
        change = _first_moments(path, times, source_scale)[1:] - late[1:] * gains[1:]
        usable = known[1:] & known[:-1] & (apart > 0)
        change = jnp.where(usable, change / jnp.where(usable, apart, 1), 0)
        slopes = slopes.at[1:].set(change)
    return ratios, gains, slopes, when, stretch, known


def _evaluations(path: AbstractInterpolant, times, source_scale) -> tuple[Array, Array, Array]:
    """When each step evaluates its target, the factor of x until then, and whether it exists.

    A step evaluates its target at its start, if the velocity there determines the target to half
    of its digits. Before that x is noise alone, and grows as the noise does.
    """
    fractions = jnp.asarray(_FRACTIONS, times.dtype)
    seen = times[:-1, None] + jnp.diff(times)[:, None] * fractions[None, :]
    noised = jax.vmap(jax.vmap(lambda t: noised_target(path, t, source_scale)))(seen)
    squares = noised.beta**2 + noised.sigma**2
    tells = noised.turning > jnp.finfo(times.dtype).eps ** 0.5 * squares
    first = jnp.argmax(tells, axis=1)[:, None]
    when, size = (jnp.take_along_axis(a, first, axis=1)[:, 0] for a in (seen, squares))
    return when, jnp.sqrt(size / squares[:, 0]), jnp.any(tells, axis=1)


def _first_moments(path: AbstractInterpolant, times, source_scale) -> Float[Array, " steps"]:
    r"""$\sigma' \int_t^{t'} (s - t)\, d(\beta/\sigma)$, by parts."""
    nodes, weights = (jnp.asarray(a, times.dtype) / 2 for a in (_NODES + 1, _WEIGHTS))
    lengths = jnp.diff(times)
    end = jax.vmap(lambda t: noised_target(path, t, source_scale))(times[1:])

    def mean_ratio(t, length):
        inner = jax.vmap(lambda s: noised_target(path, t + length * s, source_scale))(nodes)
        # A node that rounds onto the end of the noise has a ratio of infinity, times sigma = 0.
        noisy = inner.sigma > 0
        return weights @ jnp.where(noisy, inner.beta / jnp.where(noisy, inner.sigma, 1), 0)

    return lengths * (end.beta - end.sigma * jax.vmap(mean_ratio)(times[:-1], lengths))
