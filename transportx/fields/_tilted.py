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

from transportx import _checks
from transportx.interpolants import AbstractInterpolant, from_score, from_velocity

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
        path: Its interpolant, whose target shows at a finite speed from t = 0, as for
            `interpolants.from_velocity`.
        energy: `energy(x1, args)`, a number; its scale is that of a log-density.
        scale: w; zero is no guidance. May be traced.
        source_scale: Standard deviation of the Gaussian source.

    References:
        Chung et al., Diffusion posterior sampling for general noisy inverse problems, 2023,
        theorem 1; Pokle et al., Training-free linear image inverses via flows, 2023,
        lemma 1 (velocities).
    """

    field: Callable[..., Array]
    path: AbstractInterpolant
    energy: Callable[..., Float[Array, ""]]
    scale: ScalarLike = 1.0
    source_scale: ScalarLike = 1.0

    @_checks.gate
    def __call__(self, t: Time, x: Point, args: PyTree[Array] = None) -> Point:
        """Guided velocity at one point and time."""

        def downhill(denoiser):
            return -jax.grad(self.energy)(denoiser, args)

        velocity, gain = pulled_back(
            self.field, self.path, t, x, args, slope=downhill, scale=self.source_scale
        )
        return velocity + jnp.asarray(self.scale, x.dtype) * gain


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
        scale: Factor of its slope; may be traced.
        source_scale: Standard deviation of the Gaussian source.

    References:
        Dhariwal and Nichol, Diffusion models beat GANs on image synthesis, 2021, section 4.
    """

    field: Callable[..., Array]
    path: AbstractInterpolant
    log_likelihood: Callable[..., Float[Array, ""]]
    scale: ScalarLike = 1.0
    source_scale: ScalarLike = 1.0

    @_checks.gate
    def __call__(self, t: Time, x: Point, args: PyTree[Array] = None) -> Point:
        """Guided velocity at one point and time."""
        t = off_the_source(t)
        slope = jax.grad(self.log_likelihood, argnums=1)(t, x, args)
        gain = velocity_gain(self.path, t, slope, self.source_scale)
        return self.field(t, x, args) + jnp.asarray(self.scale, x.dtype) * gain


def pulled_back(
    field: Callable[..., Array],
    path: AbstractInterpolant,
    t: Time,
    x: Point,
    args: PyTree[Array],
    *,
    slope: Callable[[Point], Point],
    scale: ScalarLike,
) -> tuple[Point, Point]:
    """A field's velocity, and its gain where log h has this slope in the denoised target."""
    t = off_the_source(t)

    def predict(x):
        velocity = field(t, x, args)
        return from_velocity(path, t, x, velocity, scale=scale).denoiser, velocity

    denoiser, pull, velocity = jax.vjp(predict, x, has_aux=True)
    (uphill,) = pull(slope(denoiser))
    return velocity, velocity_gain(path, t, uphill, scale)


def velocity_gain(
    path: AbstractInterpolant, t: Time, score_gain: Point, scale: ScalarLike
) -> Point:
    """What a velocity gains where the score gains this: their relation is affine."""
    return from_score(path, t, jnp.zeros_like(score_gain), score_gain, scale=scale).velocity


def off_the_source(t: Time) -> Time:
    """The time, or the earliest at which a slope over beta keeps half of its digits.

    At t = 0 both are zero; their limit is taken there to half of the digits as well.
    """
    return jnp.maximum(t, jnp.sqrt(jnp.finfo(t.dtype).eps))
