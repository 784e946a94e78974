"""Fields from networks that predict something else, or that were trained on another path."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree, ScalarLike

from transportx import _checks, _numbers
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

    It is defined up to both ends: where a conversion is 0 / 0, the velocity is its limit by the
    rates at fixed x of $x = \beta D + \sigma N$. From noise and score at $\beta = 0$ that is
    $-\sigma\,\partial_t N$; from the denoiser at $\sigma = 0$ it is
    $\beta' D - p\,\partial_t(\beta D)$, p = 1/2 where $\sigma^2$ falls linearly and 1 where it
    falls faster. The limit costs a derivative of the network in time: at that time alone where
    examples share their times, as with fixed steps; at every evaluation, two to three times the
    cost, where each has its own, as with adaptive steps that are not shared.

    Attributes:
        network: `network(t, x, args)` of one example, whose output `convert` takes.
        path: The interpolant that the network was trained on.
        convert: `from_noise`, `from_score` or `from_denoiser` of `transportx.interpolants`.
        source_scale: Standard deviation of the Gaussian source, positive.

    Raises:
        ValueError: `source_scale` is not positive; when called, `network` returns another shape
            than that of its point.

    Example:
        >>> def denoiser(t, x, args):  # all targets are at 1
        ...     return jnp.ones_like(x)
        >>> path, convert = tx.interpolants.Linear(), tx.interpolants.from_denoiser
        >>> field = tx.fields.VelocityFrom(denoiser, path, convert)
        >>> tx.sampling.flow(field, jnp.zeros((1, 2)), steps=4).round(3).tolist()
        [[1.0, 1.0]]

    References:
        Lipman et al., Flow Matching Guide and Code, 2024, section 4.8.
    """

    network: Callable[..., Array]
    path: AbstractInterpolant
    convert: Callable[..., Predictions] = eqx.field(static=True)
    source_scale: ScalarLike = 1.0

    def __check_init__(self):
        _checks.scale("source_scale", self.source_scale)

    @_checks.gate
    def __call__(self, t: Time, x: Point, args: PyTree[Array] = None) -> Point:
        """Velocity at one point and time.

        Args:
            t: Time, in [0, 1].
            x: One point of any shape.
            args: Condition of this point, handed on to the given functions.
        """
        wide, point = _numbers.widened((t, x))

        def predictions(t):
            predicted = self.network(t, point, args)
            _checks.velocity(predicted, point)
            return self.convert(self.path, t, point, predicted, source_scale=self.source_scale)

        def start(t):
            _, rate = _with_rate(lambda t: predictions(t).noise, t)
            return -noised_target(self.path, t, self.source_scale).sigma * rate

        def end(t):
            beta, sigma, beta_rate, sigma_rate = noised_target(self.path, t, self.source_scale)
            denoiser, rate = _with_rate(lambda t: predictions(t).denoiser, t)
            power = jnp.where(sigma * sigma_rate == 0, 1.0, 0.5).astype(t.dtype)
            return beta_rate * denoiser - power * (beta_rate * denoiser + beta * rate)

        now = noised_target(self.path, wide, self.source_scale)
        at_limit = now.all_target if self.convert is from_denoiser else now.all_noise
        limit = end if self.convert is from_denoiser else start
        # Under `vmap` both are evaluated; no derivative may be infinite in the one that is dropped.
        velocity = jax.lax.cond(
            at_limit,
            lambda: limit(jnp.where(at_limit, wide, _REGULAR)),
            lambda: predictions(jnp.where(at_limit, _REGULAR, wide)).velocity,
        )
        return _numbers.as_given(velocity, x)


@_checks.gate
class ScoreOf(eqx.Module):
    """The score of the marginals of a velocity field from a Gaussian source.

    Where the point is noise alone the score is -x / sigma^2, whatever the velocity. Where a
    velocity does not determine it, at rest and where no noise is left, it is evaluated a root of a
    rounding unit away (a fourth root where the noise falls like a square): near its limit where the
    target has a density, and of the size of one over the noise there where it has none.

    Attributes:
        field: Velocity field of one example, trained or exact.
        path: The interpolant of `field`.
        source_scale: Standard deviation of the Gaussian source, positive.

    Raises:
        ValueError: `source_scale` is not positive; when called, `field` returns another shape than
            that of its point.

    Example:
        >>> S = jnp.eye(2)
        >>> field = tx.fields.GaussianField(jnp.zeros(2), S, jnp.zeros(2), S)
        >>> score = tx.fields.ScoreOf(field, tx.interpolants.Linear())
        >>> found = eqx.filter_jit(score)(jnp.array(0.5), jnp.ones(2))
        >>> found.round(3).tolist()  # the law in the middle is N(0, I / 2)
        [-2.0, -2.0]
    """

    field: Callable[..., Array]
    path: AbstractInterpolant
    source_scale: ScalarLike = 1.0

    def __check_init__(self):
        _checks.scale("source_scale", self.source_scale)

    @_checks.gate
    def __call__(self, t: Time, x: Point, args: PyTree[Array] = None) -> Point:
        """Score at one point and time.

        Args:
            t: Time, in [0, 1].
            x: One point of any shape.
            args: Condition of this point, handed on to the given functions.
        """
        wide, point = _numbers.widened((t, x))
        wide = self._determining(wide)
        velocity = self.field(wide, point, args)
        _checks.velocity(velocity, point)
        score = from_velocity(
            self.path, wide, point, velocity, source_scale=self.source_scale
        ).score
        return _numbers.as_given(score, x)

    def _determining(self, t: Time) -> Time:
        """The time, or one close to it at which a velocity determines the score."""
        now = noised_target(self.path, t, self.source_scale)
        eps = jnp.finfo(t.dtype).eps
        # The score is the velocity's excess divided by sigma times `turning`.
        ended = now.all_target & (now.sigma * now.turning <= 2 * eps * now.beta**2)
        resting = (now.turning == 0) & ~now.all_noise
        near, far = (jnp.asarray(eps**power, t.dtype) for power in (0.5, 0.25))
        faint = noised_target(self.path, t - near, self.source_scale).sigma < eps**0.75
        back = jnp.where(ended & faint, far, near)
        forth = jnp.where(t < 0.5, near, -near)
        return t + jnp.where(ended, -back, jnp.where(resting, forth, 0))


@_checks.gate
class Rescheduled(eqx.Module):
    r"""A velocity field trained on one path, for sampling along another: a change of scheduler.

    Both paths add noise to the target; where the ratio of noise to target is the same, one is the
    other times a number, $x_t = c\,x^{old}_r$. So $v(t, x) = (c'/c)\,x + c r'\,v^{old}(r, x/c)$:
    exact, with no training. The time r is found by bisection, its rate by the implicit rule. Where
    `old` starts at rest, or `new` ends at an infinite rate, the limit is accurate to half of the
    digits.

    Attributes:
        field: Velocity field of `old`.
        old: The interpolant that `field` was trained on. Where the new ratio of noise to target is
            one that it never has, as before the largest noise of `VarianceExploding` and after the
            least of `Linear(0.1)`, nothing was learnt and the velocity is NaN.
        new: The interpolant to sample along.
        source_scale: Standard deviation of the Gaussian source, positive.

    Raises:
        ValueError: `source_scale` is not positive; when called, `field` returns another shape than
            that of its point.

    Example:
        >>> old, new = tx.interpolants.Linear(), tx.interpolants.Trigonometric()
        >>> field = tx.fields.EmpiricalField(jnp.ones((1, 2)), old)
        >>> rescheduled = tx.fields.Rescheduled(field, old, new)
        >>> exact = tx.fields.EmpiricalField(jnp.ones((1, 2)), new)
        >>> t, x = jnp.array(0.3), jnp.zeros(2)
        >>> bool(jnp.allclose(eqx.filter_jit(rescheduled)(t, x), exact(t, x), atol=1e-3))
        True

    References:
        Lipman et al., Flow Matching Guide and Code, 2024, section 4.6.2 (scheduler change).
    """

    field: Callable[..., Array]
    old: AbstractInterpolant
    new: AbstractInterpolant
    source_scale: ScalarLike = 1.0

    def __check_init__(self):
        _checks.scale("source_scale", self.source_scale)

    @_checks.gate
    def __call__(self, t: Time, x: Point, args: PyTree[Array] = None) -> Point:
        """Velocity along the new path at one point and time.

        Args:
            t: Time, in [0, 1].
            x: One point of any shape.
            args: Condition of this point, handed on to the given functions.
        """
        wide, point = _numbers.widened((t, x))
        half = jnp.asarray(jnp.finfo(wide.dtype).eps ** 0.5, wide.dtype)
        # Near an infinite rate the old velocity's roundings would be magnified by it.
        _, last, _ = _polar(noised_target(self.new, jnp.ones_like(wide), self.source_scale))
        wide = jnp.where(last * half > 1, jnp.minimum(wide, 1 - half), wide)
        new = noised_target(self.new, wide, self.source_scale)
        # From rest the old velocity is zero, and the rate is evaluated a little later.
        start = noised_target(self.old, jnp.zeros_like(wide), self.source_scale)
        later = jnp.maximum(new.angle, start.angle + half)
        exists = new.angle >= start.angle
        angle = jnp.where(exists & (_polar(start)[1] < half), later, new.angle)
        r = time_of_angle(self.old, angle, self.source_scale)
        old = noised_target(self.old, r, self.source_scale)
        (size, turning, growth), (old_size, old_turning, old_growth) = map(_polar, (new, old))
        rate, stretch = turning / old_turning, size / old_size
        velocity = self.field(r, point / stretch, args)
        _checks.velocity(velocity, point)
        velocity = (growth - old_growth * rate) * point + stretch * (rate * velocity)
        return _numbers.as_given(velocity, x)


def _with_rate(function: Callable[[Time], Point], t: Time) -> tuple[Point, Point]:
    return jax.jvp(function, (t,), (jnp.ones_like(t),))


def _polar(target: NoisedTarget) -> tuple[Time, Time, Time]:
    """Size of (sigma, beta), the rate of its angle, and the relative rate of its size."""
    beta, sigma, beta_rate, sigma_rate = target
    square = beta**2 + sigma**2
    return (
        jnp.sqrt(square),
        target.turning / square,
        (beta * beta_rate + sigma * sigma_rate) / square,
    )
