"""Interpolants at another pace: the time of any path replaced by a rising function of time."""

import abc
from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from transportx import _checks, _numbers
from transportx.interpolants._interpolants import AbstractInterpolant, Coefficients, Time, root


class AbstractWarp(eqx.Module):
    """A rising function of time from [0, 1] onto [0, 1]; a subclass writes `__call__`.

    Example:
        >>> class Smoothstep(tx.interpolants.AbstractWarp):
        ...     def __call__(self, t):
        ...         return t**2 * (3 - 2 * t)
        >>> float(tx.interpolants.Warped(tx.interpolants.Linear(), Smoothstep()).warp(0.5))
        0.5
    """

    @abc.abstractmethod
    def __call__(self, t: Time) -> Time:
        """The warped time, in [0, 1]."""


@_checks.gate
class Power(AbstractWarp):
    """Power warp t^p: slow at the source for exponents above one.

    Attributes:
        power: Exponent, positive; at least one for a finite speed at the source.

    Example:
        >>> float(tx.interpolants.Power(2.0)(jnp.array(0.5)))
        0.25
    """

    power: ScalarLike

    def __check_init__(self):
        _checks.scale("power", self.power)

    @_checks.gate
    def __call__(self, t: Time) -> Time:
        return t ** _numbers.positive(self.power, t.dtype)


@_checks.gate
class Sigmoid(AbstractWarp):
    """Sigmoid warp: the logistic curve of (t - 1/2), mapped affinely onto [0, 1].

    It is slow at both ends.

    Attributes:
        sharpness: Factor of the argument of the logistic curve, positive; towards zero the warp
            is the identity.

    Example:
        >>> warp = tx.interpolants.Sigmoid()
        >>> [round(float(warp(jnp.array(t))), 2) for t in (0.0, 0.25, 0.5, 1.0)]
        [0.0, 0.15, 0.5, 1.0]
    """

    sharpness: ScalarLike = 6.0

    def __check_init__(self):
        _checks.scale("sharpness", self.sharpness)

    @_checks.gate
    def __call__(self, t: Time) -> Time:
        # The logistic curve less one half is an odd tanh: exact at both ends.
        quarter = _numbers.positive(self.sharpness, t.dtype) / 4
        return (1 + jnp.tanh(quarter * (2 * t - 1)) / jnp.tanh(quarter)) / 2


@_checks.gate
class Bernstein(AbstractWarp):
    """Rising polynomial warp of any degree: a schedule to be learnt.

    Its Bernstein coefficients rise from 0 to 1 by the softmax of `logits`: whatever those
    are, the warp rises and its ends stay. Equal logits are the identity.

    Attributes:
        logits: One number per degree, shape (k,), differentiable.

    Example:
        >>> warp = tx.interpolants.Bernstein(jnp.zeros(3))
        >>> round(float(warp(jnp.array(0.3))), 3)
        0.3
    """

    logits: Float[Array, " k"]

    def __check_init__(self):
        if self.logits.ndim != 1 or self.logits.size == 0:
            problem = f"has shape {self.logits.shape}"
            _checks.reject("logits", problem, "give at least one number, shape (k,)")

    @_checks.gate
    def __call__(self, t: Time) -> Time:
        values = jnp.concatenate([jnp.zeros(1, t.dtype), self._rises(t.dtype)])
        # De Casteljau: each pass lowers the degree by one.
        for _ in range(self.logits.size):
            values = (1 - t) * values[:-1] + t * values[1:]
        return values[0]

    def _rises(self, dtype) -> Float[Array, " k"]:
        rises = jnp.cumsum(jax.nn.softmax(_numbers.widened(self.logits))).astype(dtype)
        return rises / rises[-1]


@_checks.gate
class Warped(AbstractInterpolant):
    """A path at another pace; the curve from each point to its partner stays the same.

    Attributes:
        path: Interpolant.
        warp: Rising function of time, from [0, 1] onto [0, 1]; `AbstractWarp` or any other.

    Example:
        >>> path = tx.interpolants.Warped(tx.interpolants.Linear(), tx.interpolants.Power(2.0))
        >>> [float(number) for number in path.coefficients(jnp.array(0.5))]
        [0.75, 0.25, 0.0]
    """

    path: AbstractInterpolant
    warp: Callable[[Time], Time]
    has_noise: bool = eqx.field(static=True)

    def __init__(self, path: AbstractInterpolant, warp: Callable[[Time], Time]):
        self.path = path
        self.warp = warp
        self.has_noise = path.has_noise

    @_checks.gate
    def coefficients(self, t: Time) -> Coefficients:
        return self.path.coefficients(self.warp(t))


@_checks.gate
class Noised(AbstractInterpolant):
    """A path with latent noise added, independent of any that it already has.

    Attributes:
        path: Interpolant.
        noise: Standard deviation added at time t: `BridgeNoise`, `ConstantNoise`, or any
            function of time.

    Example:
        >>> path = tx.interpolants.Linear()
        >>> noised = tx.interpolants.Noised(path, tx.interpolants.BridgeNoise(2.0))
        >>> [float(number) for number in noised.coefficients(jnp.array(0.5))]
        [0.5, 0.5, 1.0]
    """

    path: AbstractInterpolant
    noise: Callable[[Time], Time]
    has_noise: ClassVar[bool] = True

    @_checks.gate
    def coefficients(self, t: Time) -> Coefficients:
        alpha, beta, gamma = self.path.coefficients(t)
        return (
            alpha,
            beta,
            jnp.hypot(gamma, self.noise(t)) if self.path.has_noise else self.noise(t),
        )


@_checks.gate
class BridgeNoise(eqx.Module):
    """Noise sigma sqrt(t (1 - t)) of a Brownian bridge: none at the ends.

    Attributes:
        sigma: Noise level, positive, in units of the points; may be traced.

    Example:
        >>> float(tx.interpolants.BridgeNoise(2.0)(jnp.array(0.5)))
        1.0
    """

    sigma: ScalarLike

    def __check_init__(self):
        _checks.scale("sigma", self.sigma)

    @_checks.gate
    def __call__(self, t: Time) -> Time:
        return _numbers.positive(self.sigma, t.dtype) * root(t * (1 - t))


@_checks.gate
class ConstantNoise(eqx.Module):
    """The same noise at all times: the ends are blurred, and every velocity is finite.

    Attributes:
        sigma: Standard deviation, positive, in units of the points.

    Example:
        >>> float(tx.interpolants.ConstantNoise(0.5)(jnp.array(0.0)))
        0.5

    References:
        Tong et al., Improving and generalizing flow-based generative models with minibatch
        optimal transport, 2023, equation 14.
    """

    sigma: ScalarLike

    def __check_init__(self):
        _checks.scale("sigma", self.sigma)

    @_checks.gate
    def __call__(self, t: Time) -> Time:
        return jnp.broadcast_to(_numbers.positive(self.sigma, t.dtype), t.shape)
