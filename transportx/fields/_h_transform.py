r"""Guidance towards a tilted target, $p_1(x_1)\,e^{-E(x_1)}$, by a field that knows p_1 alone.

From a Gaussian source the density at time t is tilted too, by
$h_t(x) = E[e^{-E(x_1)} \mid x_t = x]$. Its score gains $\nabla\log h_t$, and its velocity
$(\beta'\sigma^2/\beta - \sigma\sigma')\,\nabla\log h_t$ in the notation of
`interpolants.Predictions`: exact. How h_t is come by is where guidances differ.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree, ScalarLike

from transportx import _checks, _numbers
from transportx.interpolants import (
    AbstractInterpolant,
    from_denoiser,
    from_velocity,
    noised_target,
)

Time = Float[Array, ""]
Point = Float[Array, "..."]


@_checks.gate
class EnergyGuided(eqx.Module):
    r"""A field pushed down an energy of the target that it predicts.

    With $D = E[x_1 | x_t = x]$ it takes $h_t(x) \approx e^{-w E(D(t, x))}$, so that
    $\nabla\log h_t = -w\,(\partial D/\partial x)^\top \nabla E(D)$: the mean of the target for
    the target. Exact for an affine energy of Gaussian targets; otherwise off by what E bends
    over the spread of $x_1$ given $x_t$, which is large early and gone at the end.
    One evaluation of `field` and one derivative in reverse a call.

    Attributes:
        field: Velocity field of one example.
        path: Its interpolant.
        energy: `energy(x1, args)`, a number; its scale is that of a log-density.
        strength: w; zero is no guidance. May be traced.
        source_scale: Standard deviation of the Gaussian source.

    References:
        Chung et al., Diffusion posterior sampling for general noisy inverse problems, 2023,
        theorem 1; Pokle et al., Training-free linear image inverses via flows, 2023,
        lemma 1 (velocities).
    """

    field: Callable[..., Array]
    path: AbstractInterpolant
    energy: Callable[..., Float[Array, ""]]
    strength: ScalarLike = 1.0
    source_scale: ScalarLike = 1.0

    def __check_init__(self):
        _checks.finite("strength", self.strength)
        _checks.scale("source_scale", self.source_scale)

    @_checks.gate
    def __call__(self, t: Time, x: Point, args: PyTree[Array] = None) -> Point:
        """Guided velocity at one point and time."""
        wide, point = _numbers.widened((t, x))

        def energy(denoiser):
            energy = self.energy(denoiser, args)
            _checks.number("energy", energy)
            return energy

        def downhill(denoiser):
            return -jax.grad(energy)(denoiser)

        velocity, gain = pulled_back(
            self.field, self.path, wide, point, args, slope=downhill, source_scale=self.source_scale
        )
        guided = velocity + jnp.asarray(self.strength, gain.dtype) * gain
        return _numbers.as_given(guided, x)


@_checks.gate
class ClassifierGuided(eqx.Module):
    r"""A field pushed up a log-density that knows the time: $\nabla\log h_t$ given outright.

    Exact where `log_likelihood` is $\log h_t(x)$ up to a number for each t, as
    $\log p(y \mid x_t = x)$ is for samples given y. Where $\beta = 0$ the point tells nothing
    of the target and $h_t$ is flat, which the velocity divides by $\beta$: with a learnt
    one, that is not flat there, start a sampler a little later.

    Attributes:
        field: Velocity field of one example.
        path: Its interpolant.
        log_likelihood: `log_likelihood(t, x, args)`, a number.
        strength: Factor of its slope; may be traced.
        source_scale: Standard deviation of the Gaussian source.

    References:
        Dhariwal and Nichol, Diffusion models beat GANs on image synthesis, 2021, section 4.
    """

    field: Callable[..., Array]
    path: AbstractInterpolant
    log_likelihood: Callable[..., Float[Array, ""]]
    strength: ScalarLike = 1.0
    source_scale: ScalarLike = 1.0

    def __check_init__(self):
        _checks.finite("strength", self.strength)
        _checks.scale("source_scale", self.source_scale)

    @_checks.gate
    def __call__(self, t: Time, x: Point, args: PyTree[Array] = None) -> Point:
        """Guided velocity at one point and time."""
        wide, point = _numbers.widened((t, x))
        apart = off_the_source(wide)

        def log_likelihood(x):
            value = self.log_likelihood(apart, x, args)
            _checks.number("log_likelihood", value)
            return value

        gain = velocity_gain(
            self.path, wide, apart, jax.grad(log_likelihood)(point), self.source_scale
        )
        velocity = self.field(wide, point, args)
        _checks.velocity(velocity, point)
        guided = velocity + jnp.asarray(self.strength, gain.dtype) * gain
        return _numbers.as_given(guided, x)


def pulled_back(
    field: Callable[..., Array],
    path: AbstractInterpolant,
    t: Time,
    x: Point,
    args: PyTree[Array],
    *,
    slope: Callable[[Point], Point],
    source_scale: ScalarLike,
) -> tuple[Point, Point]:
    """A field's velocity, and its gain where log h has this slope in the denoised target."""
    apart = off_the_source(t)
    told = noised_target(path, apart, source_scale).turning != 0

    def predict(x):
        velocity = field(apart, x, args)
        _checks.velocity(velocity, x)
        denoiser = from_velocity(path, apart, x, velocity, source_scale=source_scale).denoiser
        # A target that is not known pulls nowhere; any finite one will do.
        return jnp.where(told, denoiser, x), velocity

    denoiser, pull, velocity = jax.vjp(predict, x, has_aux=True)
    (uphill,) = pull(slope(denoiser))
    # The target is known to half of the digits at the source itself; rates there are exact.
    source = jnp.minimum(t, off_the_source(jnp.zeros_like(t)))
    at_source = from_denoiser(path, source, x, denoiser, source_scale=source_scale).velocity
    velocity = jnp.where(apart > t, at_source, velocity)
    return velocity, velocity_gain(path, t, apart, uphill, source_scale)


def velocity_gain(
    path: AbstractInterpolant, t: Time, apart: Time, score_gain: Point, source_scale: ScalarLike
) -> Point:
    """What a velocity gains at `t` where the score gains this at `apart`, close to it.

    The gain over beta has a limit where beta = 0; the rates that multiply it are those of `t`.
    """
    now, there = noised_target(path, t, source_scale), noised_target(path, apart, source_scale)
    shows = ~there.all_noise
    return jnp.where(
        shows, now.sigma * now.turning * (score_gain / jnp.where(shows, there.beta, 1)), 0
    )


def off_the_source(t: Time) -> Time:
    """The time, or the earliest at which a slope over beta keeps half of its digits.

    At t = 0 both are zero; their limit is taken there to half of the digits as well.
    """
    return jnp.maximum(t, jnp.sqrt(jnp.finfo(t.dtype).eps))
