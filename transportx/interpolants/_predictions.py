r"""What a network may predict of x_t, and each from any other, where the source is Gaussian.

For $x_0 \sim N(0, s^2 I)$, independent of $x_1$, a path is a noised target,
$x_t = \beta x_1 + \sigma_t \epsilon$ with $\sigma_t^2 = \alpha^2 s^2 + \gamma^2$. Then velocity,
score, noise and denoiser say the same:
$x = \beta D + \sigma N$, $v = \beta' D + \sigma' N$ and $\nabla\log\rho_t = -N / \sigma$.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from transportx import _checks, _numbers
from transportx.interpolants._interpolants import AbstractInterpolant, Time

Point = Float[Array, "*d"]

_HALVINGS = 60


class Predictions(NamedTuple):
    r"""Four ways to say what is known of x_t = x; those not used cost nothing under `jit`.

    Attributes:
        velocity: $E[\dot x_t | x_t = x]$, the field that carries the source to the target.
        score: $\nabla \log \rho_t(x)$; not finite where $\sigma_t = 0$, as at the pinned end.
        noise: $N = E[\epsilon | x_t = x]$, of unit variance before the mean is taken.
            Without latent noise it is the prediction of $x_0$ over its deviation s.
        denoiser: $D = E[x_1 | x_t = x]$.
    """

    velocity: Point
    score: Point
    noise: Point
    denoiser: Point


class NoisedTarget(NamedTuple):
    """x_t = beta x_1 + sigma epsilon, and the rates of both numbers."""

    beta: Time
    sigma: Time
    beta_rate: Time
    sigma_rate: Time

    @property
    def angle(self) -> Time:
        """From 0, all noise, to a right angle, all target: a ratio that is finite at both ends."""
        return jnp.arctan2(self.beta, self.sigma)

    @property
    def turning(self) -> Float[Array, "..."]:
        """Rate of the angle, times beta^2 + sigma^2: zero where a velocity tells nothing new."""
        return self.sigma * self.beta_rate - self.beta * self.sigma_rate

    @property
    def all_noise(self) -> Array:
        """Whether the target is not to be seen beside the noise, up to two rounding units."""
        return self.beta <= 2 * jnp.finfo(self.beta.dtype).eps * self.sigma

    @property
    def all_target(self) -> Array:
        """Whether the noise is not to be seen beside the target, up to two rounding units."""
        return self.sigma <= 2 * jnp.finfo(self.beta.dtype).eps * self.beta


@_checks.gate
def noised_target(
    path: AbstractInterpolant, t: Time, source_scale: ScalarLike = 1.0
) -> NoisedTarget:
    """How a path from N(0, source_scale^2 I) noises its target at time `t`.

    Args:
        path: Interpolant.
        t: Time; halves are computed in float32.
        source_scale: Standard deviation of the source.
    """
    _checks.scale("source_scale", source_scale)

    def numbers(t):
        alpha, beta, gamma = path.coefficients(t)
        sigma = alpha * _numbers.positive(source_scale, t.dtype)
        if not path.has_noise:
            return beta, sigma
        # A root has no derivative at zero, nor is one needed where there is no noise to add.
        silent = gamma == 0
        square = jnp.where(silent, 1, sigma**2 + gamma**2)
        return beta, jnp.where(silent, sigma, jnp.sqrt(square))

    wide = _numbers.widened(t)
    values, rates = jax.jvp(numbers, (wide,), (jnp.ones_like(wide),))
    return NoisedTarget(*_numbers.in_dtype((*values, *rates), t))


@_checks.gate
def time_of_angle(path: AbstractInterpolant, angle: Time, source_scale: ScalarLike = 1.0) -> Time:
    """When the target stands at this angle to the noise: by bisection, and a step of Newton's.

    The step gives the first derivatives, in the angle and in the path. NaN where the path never
    stands at that angle: noise may be left at its end, and the target may show from the start.

    Args:
        path: Interpolant, along which the angle rises.
        angle: As `NoisedTarget.angle`, in [0, pi / 2].
        source_scale: Standard deviation of the Gaussian source.
    """
    wide = _numbers.widened(angle)

    def angle_at(t):
        return noised_target(path, t, source_scale).angle

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) / 2
        early = angle_at(middle) < wide
        return jnp.where(early, middle, low), jnp.where(early, high, middle)

    first, last = jnp.zeros_like(wide), jnp.ones_like(wide)
    # Paths whose noise is a root keep a rounding unit of it at the ends.
    slack = 4 * jnp.finfo(wide.dtype).eps
    exists = (wide >= angle_at(first) - slack) & (wide <= angle_at(last) + slack)
    low, high = jax.lax.fori_loop(0, _HALVINGS, halve, (first, last))
    found = jax.lax.stop_gradient((low + high) / 2)
    reached, rate = jax.jvp(angle_at, (found,), (jnp.ones_like(found),))
    rate = jax.lax.stop_gradient(jnp.where(rate > 0, rate, jnp.inf))
    t = found + (wide - reached) / rate
    t = t + jax.lax.stop_gradient(jnp.clip(t, first, last) - t)
    return _numbers.in_dtype(jnp.where(exists, t, jnp.nan), angle)


@_checks.gate
def from_velocity(
    path: AbstractInterpolant, t: Time, x: Point, velocity: Point, *, source_scale: ScalarLike = 1.0
) -> Predictions:
    """All predictions from the velocity.

    Where the point is noise alone, its noise is x / sigma; where it is target alone, its
    denoiser is x / beta. What a velocity at one time cannot tell is NaN: the denoiser where the
    target neither shows nor comes, as at t = 0 of `Warped(Linear(), Power(2.))`, and the score
    at a pinned end, whose limit `fields.ScoreOf` takes.

    Args:
        path: Interpolant.
        t: Time.
        x: Position at that time.
        velocity: Velocity there.
        source_scale: Standard deviation of the source.

    References:
        Albergo, Boffi and Vanden-Eijnden, Stochastic Interpolants, 2023, section 2; Gao et
        al., Diffusion meets flow matching, 2024.
    """
    now = noised_target(path, _numbers.widened(t), source_scale)
    beta, sigma, beta_rate, sigma_rate = now
    wide, given = _numbers.widened((x, velocity))
    told = now.turning != 0
    turning = jnp.where(told, now.turning, 1)
    denoiser = jnp.where(told, (sigma * given - sigma_rate * wide) / turning, jnp.nan)
    noise = jnp.where(told, (beta_rate * wide - beta * given) / turning, jnp.nan)
    denoiser = jnp.where(now.all_target, _over(wide, beta, now.all_target), denoiser)
    noise = jnp.where(now.all_noise, _over(wide, sigma, now.all_noise), noise)
    return _predictions(given, -noise / sigma, noise, denoiser, x)


@_checks.gate
def from_noise(
    path: AbstractInterpolant, t: Time, x: Point, noise: Point, *, source_scale: ScalarLike = 1.0
) -> Predictions:
    """All predictions from the noise. Where beta = 0 the noise says nothing of the target.

    There, at t = 0 of most paths, the denoiser is NaN, and so is the velocity if the target
    comes at a speed: this knows the noise at one time only, and their limits are rates of it,
    which `fields.VelocityFrom` takes.

    Args:
        path: Interpolant.
        t: Time.
        x: Position at that time.
        noise: Noise there, of unit variance.
        source_scale: Standard deviation of the source.
    """
    now = noised_target(path, _numbers.widened(t), source_scale)
    beta, sigma, beta_rate, sigma_rate = now
    wide, given = _numbers.widened((x, noise))
    # Noise that is not there is not asked for: its prediction may be infinite.
    left = jnp.where(sigma == 0, wide, wide - sigma * given)
    denoiser = jnp.where(now.all_noise, jnp.nan, _over(left, beta, ~now.all_noise))
    velocity = _times(beta_rate, denoiser) + sigma_rate * given
    return _predictions(velocity, -given / sigma, given, denoiser, x)


@_checks.gate
def from_score(
    path: AbstractInterpolant, t: Time, x: Point, score: Point, *, source_scale: ScalarLike = 1.0
) -> Predictions:
    """All predictions from the score; what is NaN is as in `from_noise`.

    Args:
        path: Interpolant.
        t: Time.
        x: Position at that time.
        score: Score there.
        source_scale: Standard deviation of the source.
    """
    wide = _numbers.widened(t)
    noise = -noised_target(path, wide, source_scale).sigma * _numbers.widened(score)
    found = from_noise(path, wide, _numbers.widened(x), noise, source_scale=source_scale)._replace(
        score=score
    )
    return _predictions(*found, x)


@_checks.gate
def from_denoiser(
    path: AbstractInterpolant, t: Time, x: Point, denoiser: Point, *, source_scale: ScalarLike = 1.0
) -> Predictions:
    """All predictions from the denoiser. Where sigma = 0 it is x, and says nothing else.

    There, at t = 1 of pinned paths, noise and score are NaN, and so is the velocity if the
    noise goes at a speed; `fields.VelocityFrom` takes the velocity's limit.

    Args:
        path: Interpolant.
        t: Time.
        x: Position at that time.
        denoiser: Denoised target there.
        source_scale: Standard deviation of the source.
    """
    now = noised_target(path, _numbers.widened(t), source_scale)
    beta, sigma, beta_rate, sigma_rate = now
    wide, given = _numbers.widened((x, denoiser))
    noise = jnp.where(now.all_target, jnp.nan, _over(wide - beta * given, sigma, ~now.all_target))
    velocity = beta_rate * given + _times(sigma_rate, noise)
    return _predictions(velocity, -noise / sigma, noise, given, x)


def _over(numerator: Point, number: Time, where: Array) -> Point:
    """A quotient where it is wanted; elsewhere finite, and with finite derivatives."""
    return numerator / jnp.where(where, number, 1)


def _times(rate: Time, unknown: Point) -> Point:
    """A product in which a rate of zero leaves nothing of what is not known."""
    return jnp.where(rate == 0, 0, rate * jnp.where(rate == 0, 0, unknown))


def _predictions(velocity: Point, score: Point, noise: Point, denoiser: Point, x: Point):
    found = Predictions(velocity, score, noise, denoiser)
    return _numbers.as_given(found, x)
