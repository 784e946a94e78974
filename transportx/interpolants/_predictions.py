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

from transportx import _checks
from transportx.interpolants._interpolants import AbstractInterpolant, Time

Point = Float[Array, "*d"]

_HALVINGS = 60


class Predictions(NamedTuple):
    r"""Four ways to say what is known of x_t = x; those not used cost nothing under `jit`.

    Attributes:
        velocity: $E[\dot x_t | x_t = x]$, the field that carries the source to the target.
        score: $\nabla \log \rho_t(x)$; infinite where $\sigma_t = 0$, as at the pinned end.
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


@_checks.gate
def noised_target(path: AbstractInterpolant, t: Time, scale: ScalarLike = 1.0) -> NoisedTarget:
    """How a path from N(0, scale^2 I) noises its target at time `t`."""

    def numbers(t):
        alpha, beta, gamma = path.coefficients(t)
        sigma = alpha * jnp.asarray(scale, t.dtype)
        return beta, jnp.sqrt(sigma**2 + gamma**2) if path.has_noise else sigma

    values, rates = jax.jvp(numbers, (t,), (jnp.ones_like(t),))
    return NoisedTarget(*values, *rates)


@_checks.gate
def time_of_angle(path: AbstractInterpolant, angle: Time, scale: ScalarLike = 1.0) -> Time:
    """When the target stands at this angle to the noise: by bisection, and a step of Newton's.

    The step gives the first derivatives, in the angle and in the path.
    """

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) / 2
        early = noised_target(path, middle, scale).angle < angle
        return jnp.where(early, middle, low), jnp.where(early, high, middle)

    bounds = jnp.zeros_like(angle), jnp.ones_like(angle)
    low, high = jax.lax.fori_loop(0, _HALVINGS, halve, bounds)
    found = jax.lax.stop_gradient((low + high) / 2)
    reached, rate = jax.jvp(
        lambda t: noised_target(path, t, scale).angle, (found,), (jnp.ones_like(found),)
    )
    return found + (angle - reached) / jax.lax.stop_gradient(rate)


@_checks.gate
def from_velocity(
    path: AbstractInterpolant, t: Time, x: Point, velocity: Point, *, scale: ScalarLike = 1.0
) -> Predictions:
    """All predictions from the velocity: exact at every time, but for the score at the end.

    Args:
        path: Interpolant.
        t: Time.
        x: Position at that time.
        velocity: Velocity there.
        scale: Standard deviation of the source.

    References:
        Albergo, Boffi and Vanden-Eijnden, Stochastic Interpolants, 2023, section 2; Gao et
        al., Diffusion meets flow matching, 2024.
    """
    beta, sigma, beta_rate, sigma_rate = noised_target(path, t, scale)
    determinant = beta * sigma_rate - beta_rate * sigma
    denoiser = (sigma_rate * x - sigma * velocity) / determinant
    noise = (beta * velocity - beta_rate * x) / determinant
    return Predictions(velocity, -noise / sigma, noise, denoiser)


@_checks.gate
def from_noise(
    path: AbstractInterpolant, t: Time, x: Point, noise: Point, *, scale: ScalarLike = 1.0
) -> Predictions:
    """All predictions from the noise. Where beta = 0 the noise says nothing of the target.

    There, at t = 0 of most paths, velocity and denoiser are not finite: this knows the noise
    at one time only, and their limits are rates of it, which `fields.VelocityFrom` takes.
    Arguments as `from_velocity`.
    """
    beta, sigma, beta_rate, sigma_rate = noised_target(path, t, scale)
    denoiser = (x - sigma * noise) / beta
    return Predictions(beta_rate * denoiser + sigma_rate * noise, -noise / sigma, noise, denoiser)


@_checks.gate
def from_score(
    path: AbstractInterpolant, t: Time, x: Point, score: Point, *, scale: ScalarLike = 1.0
) -> Predictions:
    """All predictions from the score; as `from_noise`, and arguments as `from_velocity`."""
    sigma = noised_target(path, t, scale).sigma
    return from_noise(path, t, x, -sigma * score, scale=scale)._replace(score=score)


@_checks.gate
def from_denoiser(
    path: AbstractInterpolant, t: Time, x: Point, denoiser: Point, *, scale: ScalarLike = 1.0
) -> Predictions:
    """All predictions from the denoiser. Where sigma = 0 it is x, and says nothing else.

    There, at t = 1 of pinned paths, the others are not finite; `fields.VelocityFrom` takes the
    velocity's limit. Arguments as `from_velocity`.
    """
    beta, sigma, beta_rate, sigma_rate = noised_target(path, t, scale)
    noise = (x - beta * denoiser) / sigma
    return Predictions(beta_rate * denoiser + sigma_rate * noise, -noise / sigma, noise, denoiser)
