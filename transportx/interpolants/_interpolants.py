"""Paths between two points: where a particle is at time t, and how fast it moves."""

import abc
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from transportx import _checks, _numbers

Time = Float[Array, ""]
Point = Float[Array, "*d"]
Coefficients = tuple[Time, Time, Time]


class AbstractInterpolant(eqx.Module):
    r"""A path $x_t = \alpha(t)\,x_0 + \beta(t)\,x_1 + \gamma(t)\,z$ with its ends pinned.

    A new path is a subclass with one method, `coefficients`, and a flag, `has_noise`.
    Position, rates and velocity follow and are written once, here.

    Example:
        >>> class Quadratic(tx.interpolants.AbstractInterpolant):
        ...     has_noise = False
        ...
        ...     def coefficients(self, t):
        ...         return 1 - t**2, t**2, jnp.zeros_like(t)
        >>> x_t, velocity = Quadratic()(jnp.array(0.5), jnp.zeros(1), jnp.ones(1), jnp.zeros(1))
        >>> float(x_t[0]), float(velocity[0])
        (0.25, 1.0)
    """

    has_noise: eqx.AbstractVar[bool]
    """Whether gamma is not identically zero, so that z must be drawn."""

    @abc.abstractmethod
    def coefficients(self, t: Time) -> Coefficients:
        """(alpha, beta, gamma) at time t: (1, 0, 0) at time 0 and (0, 1, 0) at time 1."""

    @_checks.gate
    def rates(self, t: Time) -> tuple[Coefficients, Coefficients]:
        """The coefficients at time `t` and their time derivatives."""
        wide = _numbers.widened(t)
        both = jax.jvp(self.coefficients, (wide,), (jnp.ones_like(wide),))
        return _numbers.in_dtype(both, t)

    @_checks.gate
    def position(self, t: Time, x0: Point, x1: Point, z: Point) -> Point:
        """Position x_t of the particle at time `t`; halves are computed in float32.

        Args:
            t: Time in [0, 1].
            x0: Source point, of any shape.
            x1: Target point, of the same shape.
            z: Latent noise, of the same shape; it counts only where `has_noise`.
        """
        alpha, beta, gamma = self.coefficients(_numbers.widened(t))
        source, target, noise = _numbers.widened((x0, x1, z))
        position = alpha * source + beta * target + gamma * noise
        return _numbers.as_given(position, x1)

    @_checks.gate
    def __call__(self, t: Time, x0: Point, x1: Point, z: Point) -> tuple[Point, Point]:
        """Position and velocity at time `t`: the pair that a flow-matching loss needs.

        Args:
            t: Time in [0, 1].
            x0: Source point, of any shape.
            x1: Target point, of the same shape.
            z: Latent noise, of the same shape; it counts only where `has_noise`.
        """
        return jax.jvp(lambda s: self.position(s, x0, x1, z), (t,), (jnp.ones_like(t),))


@_checks.gate
class Linear(AbstractInterpolant):
    r"""Linear interpolant: straight lines at constant speed, $\alpha = 1 - (1 - w) t$, beta = t.

    Attributes:
        end_width: w, the weight of the source at t = 1, at least zero. With a Gaussian source each
            target then becomes a Gaussian of that width rather than a point, and no
            field is singular at t = 1; zero pins the end.

    Example:
        >>> path = tx.interpolants.Linear()
        >>> [float(number) for number in path.coefficients(jnp.array(0.25))]
        [0.75, 0.25, 0.0]

    References:
        Liu, Gong and Liu, Flow Straight and Fast, 2022; Lipman et al., Flow Matching for
        Generative Modeling, 2022, equation 20 (w = sigma_min).
    """

    end_width: ScalarLike = 0.0
    has_noise: ClassVar[bool] = False

    def __check_init__(self):
        _checks.not_negative("end_width", self.end_width)
        _checks.finite("end_width", self.end_width)

    @_checks.gate
    def coefficients(self, t: Time) -> Coefficients:
        width = jnp.asarray(self.end_width, t.dtype)
        return 1 - (1 - width) * t, t, jnp.zeros_like(t)


class Trigonometric(AbstractInterpolant):
    """Trigonometric interpolant: alpha = cos(pi t / 2), beta = sin(pi t / 2).

    It keeps the variance of independent ends of unit variance.

    Example:
        >>> alpha, beta, _ = tx.interpolants.Trigonometric().coefficients(jnp.array(0.3))
        >>> round(float(alpha**2 + beta**2), 3)
        1.0

    References:
        Albergo and Vanden-Eijnden, Building Normalizing Flows with Stochastic
        Interpolants, 2022.
    """

    has_noise: ClassVar[bool] = False

    @_checks.gate
    def coefficients(self, t: Time) -> Coefficients:
        angle = jnp.pi / 2 * t
        return jnp.cos(angle), jnp.sin(angle), jnp.zeros_like(t)


@_checks.gate
class VariancePreserving(AbstractInterpolant):
    r"""Variance-preserving diffusion with linear noise rate, its noisy end shifted to pure noise.

    With $s = 1 - t$ and $B(s) = b_0 s + (b_1 - b_0) s^2 / 2$, the unshifted weight of the
    data is $e^{-B(s)/2}$; beta is that weight mapped affinely so that beta(0) = 0, and
    $\alpha^2 + \beta^2 = 1$. The rate of alpha grows like $(1 - t)^{-1/2}$ near t = 1.

    Attributes:
        rate_min: Noise rate b_0 at the data, positive.
        rate_max: Noise rate b_1 at the noise, positive.

    Example:
        >>> path = tx.interpolants.VariancePreserving()
        >>> alpha, beta, _ = path.coefficients(jnp.array(0.5))
        >>> round(float(alpha**2 + beta**2), 3), round(float(beta), 2)
        (1.0, 0.28)

    References:
        Song et al., Score-Based Generative Modeling through Stochastic Differential
        Equations, 2021, appendix C; Lin et al., Common Diffusion Noise Schedules and
        Sample Steps Are Flawed, 2024 (the shift).
    """

    rate_min: ScalarLike = 0.1
    rate_max: ScalarLike = 20.0
    has_noise: ClassVar[bool] = False

    def __check_init__(self):
        _checks.scale("rate_min", self.rate_min)
        _checks.scale("rate_max", self.rate_max)

    @_checks.gate
    def coefficients(self, t: Time) -> Coefficients:
        low, high = (_numbers.positive(rate, t.dtype) for rate in (self.rate_min, self.rate_max))
        s = 1 - t
        lost = -jnp.expm1(-(low * s + (high - low) / 2 * s**2) / 2)
        lost = lost / -jnp.expm1(-(low + high) / 4)
        return root(lost * (2 - lost)), 1 - lost, jnp.zeros_like(t)


@_checks.gate
class BrownianBridge(AbstractInterpolant):
    r"""Brownian bridge of dX = sigma dW between the two points: $\gamma = \sigma\sqrt{t(1-t)}$.

    Its mean is the straight line. Near both ends the velocity grows like $\sigma t^{-1/2} z$;
    its mean stays bounded, its variance over a uniform time does not.

    Attributes:
        sigma: Noise level, positive, in units of the points; may be traced.

    Example:
        >>> path = tx.interpolants.BrownianBridge(2.0)
        >>> [float(number) for number in path.coefficients(jnp.array(0.5))]
        [0.5, 0.5, 1.0]

    References:
        Tong et al., Simulation-free Schrodinger bridges via score and flow matching, 2023.
    """

    sigma: ScalarLike
    has_noise: ClassVar[bool] = True

    def __check_init__(self):
        _checks.scale("sigma", self.sigma)

    @_checks.gate
    def coefficients(self, t: Time) -> Coefficients:
        return 1 - t, t, _numbers.positive(self.sigma, t.dtype) * root(t * (1 - t))


@_checks.gate
class VarianceExploding(AbstractInterpolant):
    r"""Variance-exploding diffusion: $\alpha = \sigma_1 (\sigma_0/\sigma_1)^t$, beta = 1.

    The ends are not pinned: at t = 0 the target is still there, under noise sigma_1 times
    the source; at t = 1 noise sigma_0 is left. A sampler that starts from sigma_1 times
    the source errs by what this leaves visible of the data.

    Attributes:
        sigma_min: Noise sigma_0 left at t = 1, positive, in units of the points.
        sigma_max: Noise sigma_1 at t = 0, above `sigma_min`; well above the spread of the data.

    Example:
        >>> path = tx.interpolants.VarianceExploding(0.1, 10.0)
        >>> [round(float(number), 2) for number in path.coefficients(jnp.array(0.5))]
        [1.0, 1.0, 0.0]

    References:
        Song et al., Score-Based Generative Modeling through Stochastic Differential
        Equations, 2021, appendix C.
    """

    sigma_min: ScalarLike = 0.01
    sigma_max: ScalarLike = 50.0
    has_noise: ClassVar[bool] = False

    def __check_init__(self):
        _checks.scale("sigma_min", self.sigma_min)
        _checks.scale("sigma_max", self.sigma_max)
        _checks.below("sigma_min", self.sigma_min, "sigma_max", self.sigma_max)

    @_checks.gate
    def coefficients(self, t: Time) -> Coefficients:
        low, high = (
            _numbers.positive(sigma, t.dtype) for sigma in (self.sigma_min, self.sigma_max)
        )
        falling = jnp.where(low < high, low / high, jnp.nan)
        return high * falling**t, jnp.ones_like(t), jnp.zeros_like(t)


class EncodingDecoding(AbstractInterpolant):
    r"""Encoding-decoding: the source turns into noise by t = 1/2, and the noise into the target.

    $\alpha = \cos^2 \pi t$ before 1/2 and zero after, beta zero before and $\cos^2\pi t$
    after, $\gamma = \sin^2 \pi t$. Whatever the coupling, the two halves are independent.

    Example:
        >>> path = tx.interpolants.EncodingDecoding()
        >>> [round(float(number), 3) for number in path.coefficients(jnp.array(0.25))]
        [0.5, 0.0, 0.5]

    References:
        Albergo, Boffi and Vanden-Eijnden, Stochastic Interpolants, 2023, table 8.
    """

    has_noise: ClassVar[bool] = True

    @_checks.gate
    def coefficients(self, t: Time) -> Coefficients:
        weight = jnp.cos(jnp.pi * t) ** 2
        first = t < 0.5
        return jnp.where(first, weight, 0), jnp.where(first, 0, weight), jnp.sin(jnp.pi * t) ** 2


def root(square: Time) -> Time:
    """A square root whose rate is finite at zero, and whose square has the right rate.

    One rounding unit is added in quadrature. Exact fields need products such as
    gamma gamma', which this leaves right up to the ends, where gamma' alone is infinite.
    """
    return jnp.sqrt(square + jnp.finfo(square.dtype).eps ** 2)
