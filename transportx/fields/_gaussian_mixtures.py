"""Exact minimisers of the flow-matching loss between Gaussians and their mixtures."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from transportx import _checks, _numbers
from transportx.gaussians import Mixture, flow_matching_field, log_density
from transportx.interpolants import AbstractInterpolant, Linear

Point = Float[Array, " d"]
Matrix = Float[Array, "d d"]


@_checks.gate
class GaussianField(eqx.Module):
    r"""$v(t, x) = E[\dot x_t \mid x_t = x]$ between N(m0, S0) and N(m1, S1). O(d^3) a call.

    For the linear path and independent ends its flow at t = 1 is the principal square root
    of S1 S0^-1, which is the optimal map only if the covariances commute.

    Attributes:
        m0: Source mean.
        S0: Source covariance, positive definite.
        m1: Target mean.
        S1: Target covariance; may be singular, the field is then singular at t = 1.
        path: Interpolant.
        cross: Cov(x0, x1) of the coupling; independent ends by default.
    """

    m0: Point
    S0: Matrix
    m1: Point
    S1: Matrix
    path: AbstractInterpolant = Linear()
    cross: Matrix | None = None

    def __check_init__(self):
        if self.cross is not None:
            _checks.same_shape("cross", self.cross, "S0", self.S0)

    @_checks.gate
    def __call__(self, t: Float[Array, ""], x: Point, args=None) -> Point:
        """Velocity at one point and time."""
        _checks.same_shape("x", x, "m0", self.m0)
        wide, t, point = _numbers.widened((self, t, x))
        ends = wide.m0, wide.S0, wide.m1, wide.S1
        velocity = flow_matching_field(*wide.path.rates(t), *ends, wide.cross)(point)
        return _numbers.as_given(velocity, x)


@_checks.gate
class MixtureField(eqx.Module):
    r"""Exact field between two Gaussian mixtures: each pair's field, weighted by its share.

    $v(t, x) = \sum_{ij} r_{ij}(t, x)\, v_{ij}(t, x)$, where $r_{ij}$ is the probability that
    x came from components i and j. O(k0 k1 d^3) a call.

    Attributes:
        source: Mixture at t = 0.
        target: Mixture at t = 1.
        path: Interpolant.
        coupling: Joint weights of the components, (k0, k1), with the mixtures' weights as
            marginals; their product by default. Within a pair the ends are independent.
    """

    source: Mixture
    target: Mixture
    path: AbstractInterpolant = Linear()
    coupling: Float[Array, "k0 k1"] | None = None

    def __check_init__(self):
        _checks.same_dimension("target", self.target.means, "source", self.source.means)
        shape = self.source.weights.size, self.target.weights.size
        if self.coupling is not None and self.coupling.shape != shape:
            problem = f"has shape {self.coupling.shape}"
            _checks.reject("coupling", problem, f"give one weight a pair of components, {shape}")

    @_checks.gate
    def __call__(self, t: Float[Array, ""], x: Point, args=None) -> Point:
        """Velocity at one point and time."""
        _checks.point("x", x, "source", self.source.means)
        wide, t, point = _numbers.widened((self, t, x))
        coefficients, rates = wide.path.rates(t)
        law = wide.law(t)
        logs = jax.vmap(log_density, in_axes=(None, 0, 0))(point, law.means, law.covariances)
        shares = jax.nn.softmax(logs + log_weights(law.weights))

        def velocity(*ends):
            return flow_matching_field(coefficients, rates, *ends)(point)

        velocities = jax.vmap(velocity)(*wide._pairs())
        return _numbers.as_given(jnp.sum(shares[:, None] * velocities, axis=0), x)

    @_checks.gate
    def law(self, t: Float[Array, ""]) -> Mixture:
        """The law of x_t: a mixture with one component a pair, k0 k1 in all."""
        alpha, beta, gamma = self.path.coefficients(t)
        m0, S0, m1, S1 = self._pairs()
        noise = gamma**2 * jnp.eye(m0.shape[1], dtype=m0.dtype)
        covariances = alpha**2 * S0 + beta**2 * S1 + noise[None, :, :]
        return Mixture(self._weights(), alpha * m0 + beta * m1, covariances)

    def _weights(self) -> Float[Array, " pairs"]:
        if self.coupling is None:
            return (self.source.weights[:, None] * self.target.weights[None, :]).reshape(-1)
        return self.coupling.reshape(-1)

    def _pairs(self) -> tuple[Array, Array, Array, Array]:
        """Means and covariances of both ends, one row a pair of components."""
        k0, k1 = self.source.weights.size, self.target.weights.size
        return (
            jnp.repeat(self.source.means, k1, axis=0),
            jnp.repeat(self.source.covariances, k1, axis=0),
            jnp.tile(self.target.means, (k0, 1)),
            jnp.tile(self.target.covariances, (k0, 1, 1)),
        )


def log_weights(weights: Float[Array, " k"]) -> Float[Array, " k"]:
    """Logarithms; a zero weight stays zero, and its derivative is zero and not NaN.

    Of a weight below zero it is NaN, and so is all that is weighed with it.
    """
    absent = weights == 0
    return jnp.where(absent, -jnp.inf, jnp.log(jnp.where(absent, 1, weights)))
