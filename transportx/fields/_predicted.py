"""Fields made of networks that predict something else, or that were trained on another path."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree, ScalarLike

from transportx.interpolants import (
    AbstractInterpolant,
    NoisedTarget,
    Predictions,
    from_velocity,
    noised_target,
    time_of_angle,
)

Time = Float[Array, ""]
Point = Float[Array, "..."]


class VelocityFrom(eqx.Module):
    """The velocity field of a network that predicts noise, score or the denoised target.

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

    def __call__(self, t: Time, x: Point, args: PyTree[Array] = None) -> Point:
        """Velocity at one point and time."""
        predicted = self.network(t, x, args)
        return self.convert(self.path, t, x, predicted, scale=self.scale).velocity


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

    def __call__(self, t: Time, x: Point, args: PyTree[Array] = None) -> Point:
        """Score at one point and time; infinite where no noise is left."""
        velocity = self.field(t, x, args)
        return from_velocity(self.path, t, x, velocity, scale=self.scale).score


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

    def __call__(self, t: Time, x: Point, args: PyTree[Array] = None) -> Point:
        """Velocity along the new path at one point and time."""
        new = noised_target(self.new, t, self.scale)
        r = time_of_angle(self.old, new.angle, self.scale)
        old = noised_target(self.old, r, self.scale)
        (size, turning, growth), (old_size, old_turning, old_growth) = map(_polar, (new, old))
        rate, stretch = turning / old_turning, size / old_size
        moved = rate * self.field(r, x / stretch, args)
        return (growth - old_growth * rate) * x + stretch * moved


def _polar(target: NoisedTarget) -> tuple[Time, Time, Time]:
    """Size of (sigma, beta), the rate of its angle, and the relative rate of its size."""
    beta, sigma, beta_rate, sigma_rate = target
    square = beta**2 + sigma**2
    turning = (beta_rate * sigma - beta * sigma_rate) / square
    return jnp.sqrt(square), turning, (beta * beta_rate + sigma * sigma_rate) / square
