r"""Doob's h-transform: guidance towards a tilted target by a field of the target itself.

The tilted target has the density $p_1(x_1)\,e^{-E(x_1)}$.

From a Gaussian source the density at time t is tilted too, by
$h_t(x) = E[e^{-E(x_1)} \mid x_t = x]$. Its score gains $\nabla\log h_t$, and its velocity
$(\beta'\sigma^2/\beta - \sigma\sigma')\,\nabla\log h_t$ in the notation of
`interpolants.Predictions`: exact. Guidances differ in how they find h_t.
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
    r"""Energy guidance: a field pushed down an energy of the target that it predicts.

    With the denoised target $D = E[x_1 | x_t = x]$ it approximates $h_t(x)$ by $e^{-w E(D(t, x))}$,
    so that $\nabla\log h_t = -w\,(\partial D/\partial x)^\top \nabla E(D)$. Exact for an affine
    energy of Gaussian targets; otherwise it errs by the curvature of E over the spread of $x_1$
    given $x_t$, which is large early and vanishes at the end. A call costs one evaluation of
    `field` and one derivative in reverse.

    Attributes:
        field: Velocity field of one example, `field(t, x, args)`.
        path: The interpolant of `field`.
        energy: `energy(x1, args) -> scalar`, in units of a log-density.
        strength: The factor w, any finite number; zero is no guidance. May be traced.
        source_scale: Standard deviation of the Gaussian source, positive.

    Raises:
        ValueError: `strength` is not finite or `source_scale` not positive; when called, `field` or
            `energy` returns another shape.

    Example:
        >>> S = jnp.eye(1)
        >>> field = tx.fields.GaussianField(jnp.zeros(1), S, jnp.zeros(1), S)
        >>> path = tx.interpolants.Linear()
        >>> tilted = tx.fields.EnergyGuided(field, path, lambda x1, args: -jnp.sum(x1))
        >>> x1 = tx.sampling.flow(tilted, jnp.zeros((1, 1)), steps=100)
        >>> round(float(x1[0, 0]), 1)  # exp(x1) N(0, 1) is N(1, 1)
        1.0

    References:
        Chung et al., Diffusion posterior sampling for general noisy inverse problems, 2023, theorem
        1; Pokle et al., Training-free linear image inverses via flows, 2023, lemma 1 (velocities).
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
        """Guided velocity at one point and time.

        Args:
            t: Time, in [0, 1].
            x: One point of any shape.
            args: Condition of this point, handed on to the given functions.
        """
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
    r"""Classifier guidance: a field pushed up a log-likelihood that depends on the time.

    Exact where `log_likelihood` is $\log h_t(x)$ up to a number for each t, as
    $\log p(y \mid x_t = x)$ is for samples given y. Where $\beta = 0$ the point says nothing of
    the target and $h_t$ is flat, and the velocity divides its slope by $\beta$: with a learnt
    log-likelihood that is not flat there, start a sampler a little later.

    Attributes:
        field: Velocity field of one example, `field(t, x, args)`.
        path: The interpolant of `field`.
        log_likelihood: `log_likelihood(t, x, args) -> scalar`.
        strength: Factor of the slope of `log_likelihood`, any finite number; may be traced.
        source_scale: Standard deviation of the Gaussian source, positive.

    Raises:
        ValueError: `strength` is not finite or `source_scale` not positive; when called, `field` or
            `log_likelihood` returns another shape.

    Example:
        >>> S = jnp.eye(1)
        >>> field = tx.fields.GaussianField(jnp.zeros(1), S, jnp.zeros(1), S)
        >>> path = tx.interpolants.Linear()
        >>> def log_likelihood(t, x, args):  # of an exponential tilt, up to a number for each t
        ...     return t * jnp.sum(x) / (t**2 + (1 - t) ** 2)
        >>> tilted = tx.fields.ClassifierGuided(field, path, log_likelihood)
        >>> x1 = tx.sampling.flow(tilted, jnp.zeros((1, 1)), steps=100)
        >>> round(float(x1[0, 0]), 1)
        1.0

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
        """Guided velocity at one point and time.

        Args:
            t: Time, in [0, 1].
            x: One point of any shape.
            args: Condition of this point, handed on to the given functions.
        """
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
    """The velocity of a field, and its gain for a slope of log h in the denoised target."""
    apart = off_the_source(t)
    known = noised_target(path, apart, source_scale).turning != 0

    def predict(x):
        velocity = field(apart, x, args)
        _checks.velocity(velocity, x)
        denoiser = from_velocity(path, apart, x, velocity, source_scale=source_scale).denoiser
        # A target that is not known pulls nowhere; any finite one will do.
        return jnp.where(known, denoiser, x), velocity

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
    """Change of the velocity at `t` that belongs to a change of the score at `apart`, close to `t`.

    The score's change divided by beta has a limit where beta = 0; the rates that multiply it are
    those at `t`.
    """
    now, there = noised_target(path, t, source_scale), noised_target(path, apart, source_scale)
    shows = ~there.all_noise
    return jnp.where(
        shows, now.sigma * now.turning * (score_gain / jnp.where(shows, there.beta, 1)), 0
    )


def off_the_source(t: Time) -> Time:
    """The time, or the earliest at which a slope over beta keeps half of its digits.

    At t = 0 both are zero; the limit there is accurate to half of the digits as well.
    """
    return jnp.maximum(t, jnp.sqrt(jnp.finfo(t.dtype).eps))
