r"""Predictions at x_t, each computed from any other, where the source is Gaussian.

For $x_0 \sim N(0, s^2 I)$, independent of $x_1$, a path is a noised target,
$x_t = \beta x_1 + \sigma_t \epsilon$ with $\sigma_t^2 = \alpha^2 s^2 + \gamma^2$. Velocity v,
score, noise N and denoiser D then determine each other:
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
    r"""Velocity, score, noise and denoiser at x_t = x; those not used cost nothing under `jit`.

    Attributes:
        velocity: $E[\dot x_t | x_t = x]$, the field that carries the source to the target.
        score: $\nabla \log \rho_t(x)$; not finite where $\sigma_t = 0$, as at the pinned end.
        noise: $N = E[\epsilon | x_t = x]$, with epsilon of unit variance. Without latent noise
            it is the prediction of $x_0$ over its deviation s.
        denoiser: $D = E[x_1 | x_t = x]$.

    Example:
        >>> path, t = tx.interpolants.Linear(), jnp.array(0.5)
        >>> x = jnp.array([1.0])
        >>> predictions = tx.interpolants.from_denoiser(path, t, x, jnp.zeros(1))
        >>> [float(each[0]) for each in predictions]
        [-2.0, -4.0, 2.0, 0.0]
    """

    velocity: Point
    score: Point
    noise: Point
    denoiser: Point


class NoisedTarget(NamedTuple):
    """Noised target x_t = beta x_1 + sigma epsilon at one time, and the rates of both numbers.

    Attributes:
        beta: Weight of the target.
        sigma: Standard deviation of the noise.
        beta_rate: Time derivative of beta.
        sigma_rate: Time derivative of sigma.

    Example:
        >>> now = tx.interpolants.noised_target(tx.interpolants.Linear(), jnp.array(0.25))
        >>> [float(number) for number in now]
        [0.25, 0.75, 1.0, -1.0]
    """

    beta: Time
    sigma: Time
    beta_rate: Time
    sigma_rate: Time

    @property
    def angle(self) -> Time:
        """Angle arctan(beta / sigma): 0 is noise alone, pi / 2 target alone; finite at the ends."""
        return jnp.arctan2(self.beta, self.sigma)

    @property
    def turning(self) -> Float[Array, "..."]:
        """Rate of the angle times beta^2 + sigma^2; at zero a velocity determines no denoiser."""
        return self.sigma * self.beta_rate - self.beta * self.sigma_rate

    @property
    def all_noise(self) -> Array:
        """Whether the target vanishes beside the noise, up to two rounding units."""
        return self.beta <= 2 * jnp.finfo(self.beta.dtype).eps * self.sigma

    @property
    def all_target(self) -> Array:
        """Whether the noise vanishes beside the target, up to two rounding units."""
        return self.sigma <= 2 * jnp.finfo(self.beta.dtype).eps * self.beta


@_checks.gate
def noised_target(
    path: AbstractInterpolant, t: Time, source_scale: ScalarLike = 1.0
) -> NoisedTarget:
    """Weight of the target and deviation of the noise at time `t`, for a Gaussian source.

    Args:
        path: Interpolant.
        t: Time in [0, 1]; halves are computed in float32.
        source_scale: Standard deviation of the source in each coordinate, positive.

    Returns:
        beta, sigma and their time derivatives, as a `NoisedTarget`.

    Example:
        >>> path = tx.interpolants.Linear()
        >>> now = tx.interpolants.noised_target(path, jnp.array(0.5), 3.0)
        >>> float(now.beta), float(now.sigma)
        (0.5, 1.5)
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
    """Time at which arctan(beta / sigma) has a given value: by bisection, and one Newton step.

    The Newton step gives the first derivatives, with respect to the angle and the path. NaN
    where the path has no such time: noise may be left at its end, and the target may show from
    the start.

    Args:
        path: Interpolant, along which the angle rises.
        angle: Angle in [0, pi / 2]: 0 is noise alone, pi / 2 target alone (`NoisedTarget.angle`).
        source_scale: Standard deviation of the Gaussian source in each coordinate, positive.

    Example:
        >>> time = tx.interpolants.time_of_angle(tx.interpolants.Linear(), jnp.array(jnp.pi / 4))
        >>> round(float(time), 3)
        0.5
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
    """Compute all predictions at a point from its velocity.

    Where the point is noise alone, its noise is x / sigma; where it is target alone, its
    denoiser is x / beta. What a velocity at one time cannot tell is NaN: the denoiser where the
    target has neither weight nor rate, as at t = 0 of `Warped(Linear(), Power(2.))`, and the
    score at a pinned end, whose limit `fields.ScoreOf` takes.

    Args:
        path: Interpolant, from a source N(0, source_scale^2 I) that is independent of the target.
        t: Time in [0, 1].
        x: Position at that time, of any shape.
        velocity: Velocity there, of the shape of x.
        source_scale: Standard deviation of the source in each coordinate, positive.

    Returns:
        Velocity, score, noise and denoiser, each of the shape of x.

    Example:
        >>> path, t = tx.interpolants.Linear(), jnp.array(0.5)
        >>> x = jnp.array([1.0])
        >>> predictions = tx.interpolants.from_velocity(path, t, x, jnp.array([2.0]))
        >>> float(predictions.denoiser[0]), float(predictions.noise[0])  # x + v / 2, x - v / 2
        (2.0, 0.0)

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
    """Compute all predictions at a point from its noise.

    Where beta = 0, at t = 0 of most paths, the noise does not determine the denoiser, which is
    NaN; so is the velocity if beta has a rate there. Their limits are time derivatives of the
    noise, which `fields.VelocityFrom` takes.

    Args:
        path: Interpolant, from a source N(0, source_scale^2 I) that is independent of the target.
        t: Time in [0, 1].
        x: Position at that time, of any shape.
        noise: Mean noise E[epsilon | x_t = x] there, with epsilon of unit variance.
        source_scale: Standard deviation of the source in each coordinate, positive.

    Returns:
        Velocity, score, noise and denoiser, each of the shape of x.

    Example:
        >>> path, t = tx.interpolants.Linear(), jnp.array(0.5)
        >>> x = jnp.array([1.0])
        >>> predictions = tx.interpolants.from_noise(path, t, x, jnp.zeros(1))
        >>> float(predictions.denoiser[0]), float(predictions.velocity[0])
        (2.0, 2.0)
    """
    now = noised_target(path, _numbers.widened(t), source_scale)
    beta, sigma, beta_rate, sigma_rate = now
    wide, given = _numbers.widened((x, noise))
    # Where sigma = 0 the noise does not count: its prediction may be infinite.
    left = jnp.where(sigma == 0, wide, wide - sigma * given)
    denoiser = jnp.where(now.all_noise, jnp.nan, _over(left, beta, ~now.all_noise))
    velocity = _times(beta_rate, denoiser) + sigma_rate * given
    return _predictions(velocity, -given / sigma, given, denoiser, x)


@_checks.gate
def from_score(
    path: AbstractInterpolant, t: Time, x: Point, score: Point, *, source_scale: ScalarLike = 1.0
) -> Predictions:
    """Compute all predictions at a point from its score.

    Where beta = 0, at t = 0 of most paths, the denoiser is NaN, and so is the velocity if beta
    has a rate there; `fields.VelocityFrom` takes their limits.

    Args:
        path: Interpolant, from a source N(0, source_scale^2 I) that is independent of the target.
        t: Time in [0, 1].
        x: Position at that time, of any shape.
        score: Score of the law of x_t there, of the shape of x.
        source_scale: Standard deviation of the source in each coordinate, positive.

    Returns:
        Velocity, score, noise and denoiser, each of the shape of x.

    Example:
        >>> path, t = tx.interpolants.Linear(), jnp.array(0.5)
        >>> x = jnp.array([1.0])
        >>> predictions = tx.interpolants.from_score(path, t, x, jnp.array([-2.0]))
        >>> float(predictions.noise[0]), float(predictions.denoiser[0])
        (1.0, 1.0)
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
    """Compute all predictions at a point from its denoiser.

    Where sigma = 0, at t = 1 of pinned paths, the denoiser is x whatever the law: noise and
    score are NaN, and so is the velocity if sigma has a rate there; `fields.VelocityFrom` takes
    the limit of the velocity.

    Args:
        path: Interpolant, from a source N(0, source_scale^2 I) that is independent of the target.
        t: Time in [0, 1].
        x: Position at that time, of any shape.
        denoiser: Mean target E[x1 | x_t = x] there, of the shape of x.
        source_scale: Standard deviation of the source in each coordinate, positive.

    Returns:
        Velocity, score, noise and denoiser, each of the shape of x.

    Example:
        >>> path, t = tx.interpolants.Linear(), jnp.array(0.5)
        >>> x = jnp.array([1.0])
        >>> predictions = tx.interpolants.from_denoiser(path, t, x, jnp.array([1.0]))
        >>> float(predictions.velocity[0]), float(predictions.score[0])
        (0.0, -2.0)
    """
    now = noised_target(path, _numbers.widened(t), source_scale)
    beta, sigma, beta_rate, sigma_rate = now
    wide, given = _numbers.widened((x, denoiser))
    noise = jnp.where(now.all_target, jnp.nan, _over(wide - beta * given, sigma, ~now.all_target))
    velocity = beta_rate * given + _times(sigma_rate, noise)
    return _predictions(velocity, -noise / sigma, noise, given, x)


def _over(numerator: Point, number: Time, where: Array) -> Point:
    """A quotient where `where` holds; elsewhere finite, and with finite derivatives."""
    return numerator / jnp.where(where, number, 1)


def _times(rate: Time, unknown: Point) -> Point:
    """A product that is zero where the rate is, also if the other factor is NaN."""
    return jnp.where(rate == 0, 0, rate * jnp.where(rate == 0, 0, unknown))


def _predictions(velocity: Point, score: Point, noise: Point, denoiser: Point, x: Point):
    found = Predictions(velocity, score, noise, denoiser)
    return _numbers.as_given(found, x)
