"""Fields made of networks that predict something else, or that were trained on another path."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree, ScalarLike

from transportx import _checks
from transportx.interpolants import (
    AbstractInterpolant,
    NoisedTarget,
    Predictions,
    from_denoiser,
    from_velocity,
    noised_target,
    time_of_angle,
)

Time = Float[Array, ""]
Point = Float[Array, "..."]

# A time at which every path shows both noise and target.
_REGULAR = 0.75


@_checks.gate
class VelocityFrom(eqx.Module):
    r"""The velocity field of a network that predicts noise, score or the denoised target.

    Up to both ends: where a conversion is 0 / 0, the velocity is its limit by the rates at
    fixed x of $x = \beta D + \sigma N$. From noise and score at $\beta = 0$ that is
    $-\sigma\,\partial_t N$; from the denoiser at $\sigma = 0$ it is
    $\beta' D - p\,\partial_t(\beta D)$, p = 1/2 where $\sigma^2$ falls linearly and 1 where it
    does so faster. It takes a derivative of the network in time: at that time alone where
    examples share theirs, as at fixed steps; at every evaluation, two to three times the
    cost, where each has its own, as at adaptive steps without `shared_steps`.

    Example:
        ```python
        field = tx.fields.VelocityFrom(network, path, tx.interpolants.from_noise)
        x1 = tx.sampling.flow(field, x0)
        ```

    Attributes:
        network: `network(t, x, args)`, what `convert` takes.
        path: Interpolant that it was trained on.
        convert: `from_noise`, `from_score` or `from_denoiser` of `transportx.interpolants`.
        scale: Standard deviation of the Gaussian source.
    """

    network: Callable[..., Array]
    path: AbstractInterpolant
    convert: Callable[..., Predictions] = eqx.field(static=True)
    scale: ScalarLike = 1.0

    @_checks.gate
    def __call__(self, t: Time, x: Point, args: PyTree[Array] = None) -> Point:
        """Velocity at one point and time."""

        def predictions(t):
            predicted = self.network(t, x, args)
            return self.convert(self.path, t, x, predicted, scale=self.scale)

        def start(t):
            _, rate = _with_rate(lambda t: predictions(t).noise, t)
            return -noised_target(self.path, t, self.scale).sigma * rate

        def end(t):
            beta, sigma, beta_rate, sigma_rate = noised_target(self.path, t, self.scale)
            denoiser, rate = _with_rate(lambda t: predictions(t).denoiser, t)
            power = jnp.where(sigma * sigma_rate == 0, 1.0, 0.5).astype(t.dtype)
            return beta_rate * denoiser - power * (beta_rate * denoiser + beta * rate)

        now = noised_target(self.path, t, self.scale)
        from_target = self.convert is from_denoiser
        shown, hidden = (now.sigma, now.beta) if from_target else (now.beta, now.sigma)
        at_limit = shown <= 2 * jnp.finfo(t.dtype).eps * hidden
        # Under `vmap` both are evaluated; no derivative may be infinite in the one not taken.
        return jax.lax.cond(
            at_limit,
            lambda: (end if from_target else start)(jnp.where(at_limit, t, _REGULAR)),
            lambda: predictions(jnp.where(at_limit, _REGULAR, t)).velocity,
        )


@_checks.gate
class ScoreOf(eqx.Module):
    """The score of the marginals that a velocity field carries a Gaussian source through.

    Attributes:
        field: Velocity field, trained or exact.
        path: Its interpolant.
        scale: Standard deviation of the Gaussian source.
    """

    field: Callable[..., Array]
    path: AbstractInterpolant
    scale: ScalarLike = 1.0

    @_checks.gate
    def __call__(self, t: Time, x: Point, args: PyTree[Array] = None) -> Point:
        """Score at one point and time; infinite where no noise is left."""
        velocity = self.field(t, x, args)
        return from_velocity(self.path, t, x, velocity, scale=self.scale).score


@_checks.gate
class Rescheduled(eqx.Module):
    r"""A velocity field, trained on one path, for sampling along another.

    Both paths noise the target; where their noise stands in the same ratio to it, one is
    the other times a number, $x_t = c\,x^{old}_r$. So
    $v(t, x) = (c'/c)\,x + c r'\,v^{old}(r, x/c)$: exact, with no training. r is found by
    bisection, its rate by the implicit rule.

    Attributes:
        field: Velocity field of `old`.
        old: The interpolant that it was trained on.
        new: The interpolant to sample along, pinned at the source like the old.
        scale: Standard deviation of the Gaussian source.

    References:
        Lipman et al., Flow Matching Guide and Code, 2024, section 4.6.2 (scheduler change).
    """

    field: Callable[..., Array]
    old: AbstractInterpolant
    new: AbstractInterpolant
    scale: ScalarLike = 1.0

    @_checks.gate
    def __call__(self, t: Time, x: Point, args: PyTree[Array] = None) -> Point:
        """Velocity along the new path at one point and time."""
        new = noised_target(self.new, t, self.scale)
        r = time_of_angle(self.old, new.angle, self.scale)
        old = noised_target(self.old, r, self.scale)
        (size, turning, growth), (old_size, old_turning, old_growth) = map(_polar, (new, old))
        rate, stretch = turning / old_turning, size / old_size
        moved = rate * self.field(r, x / stretch, args)
        return (growth - old_growth * rate) * x + stretch * moved


def _with_rate(function: Callable[[Time], Point], t: Time) -> tuple[Point, Point]:
    return jax.jvp(function, (t,), (jnp.ones_like(t),))


def _polar(target: NoisedTarget) -> tuple[Time, Time, Time]:
    """Size of (sigma, beta), the rate of its angle, and the relative rate of its size."""
    beta, sigma, beta_rate, sigma_rate = target
    square = beta**2 + sigma**2
    turning = (beta_rate * sigma - beta * sigma_rate) / square
    return jnp.sqrt(square), turning, (beta * beta_rate + sigma * sigma_rate) / square
