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
    r"""The exact flow-matching field between two Gaussians: $v(t, x) = E[\dot x_t \mid x_t = x]$.

    Between N(m0, S0) and N(m1, S1). For the linear path and independent ends its flow at t = 1 is
    the principal square root of S1 S0^-1, which is the optimal map only if the covariances commute.
    A call costs O(d^3).

    Attributes:
        m0: Mean of the source, shape (d,).
        S0: Covariance of the source, shape (d, d), positive definite.
        m1: Mean of the target, shape (d,).
        S1: Covariance of the target, shape (d, d); where it is singular, so is the field at t = 1.
        path: Interpolant; `Linear()` by default.
        cross: Covariance Cov(x0, x1) of the coupling, shape (d, d); None for independent ends.

    Raises:
        ValueError: Shapes do not match.

    Example:
        >>> m, S = jnp.zeros(2), jnp.eye(2)
        >>> field = tx.fields.GaussianField(m, S, jnp.ones(2), S)
        >>> field(jnp.array(0.0), jnp.zeros(2)).tolist()
        [1.0, 1.0]
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
        """Velocity at one point and time.

        Args:
            t: Time, in [0, 1].
            x: One point, shape (d,).
            args: Ignored; there for the signature of every field.
        """
        _checks.same_shape("x", x, "m0", self.m0)
        wide, t, point = _numbers.widened((self, t, x))
        ends = wide.m0, wide.S0, wide.m1, wide.S1
        velocity = flow_matching_field(*wide.path.rates(t), *ends, wide.cross)(point)
        return _numbers.as_given(velocity, x)


@_checks.gate
class MixtureField(eqx.Module):
    r"""The exact flow-matching field between two Gaussian mixtures.

    $v(t, x) = \sum_{ij} r_{ij}(t, x)\, v_{ij}(t, x)$: the field of each pair of components,
    weighted by the probability $r_{ij}$ that x came from components i and j. A call costs O(k0 k1
    d^3).

    Attributes:
        source: Mixture at t = 0, of k0 components.
        target: Mixture at t = 1, of k1 components.
        path: Interpolant; `Linear()` by default.
        coupling: Joint weights of the components, shape (k0, k1), with the mixtures' weights as
            marginals; None for their product. Within a pair the ends are independent.

    Raises:
        ValueError: Dimensions do not match, or `coupling` has another shape.

    Example:
        >>> source = tx.gaussians.Mixture(jnp.ones(1), jnp.zeros((1, 2)), jnp.eye(2)[None])
        >>> means = jnp.array([[-2.0, 0.0], [2.0, 0.0]])
        >>> target = tx.gaussians.Mixture(jnp.ones(2) / 2, means, jnp.stack([jnp.eye(2)] * 2))
        >>> field = tx.fields.MixtureField(source, target)
        >>> v = eqx.filter_jit(field)(jnp.array(0.5), jnp.zeros(2))
        >>> bool(jnp.allclose(v, 0, atol=1e-5))  # by symmetry
        True
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
            _checks.reject("coupling", problem, f"give one weight per pair of components, {shape}")

    @_checks.gate
    def __call__(self, t: Float[Array, ""], x: Point, args=None) -> Point:
        """Velocity at one point and time.

        Args:
            t: Time, in [0, 1].
            x: One point, shape (d,).
            args: Ignored; there for the signature of every field.
        """
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
        """The law of x_t: a mixture with one component per pair, k0 k1 in all.

        Args:
            t: Time, in [0, 1].
        """
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
        """Means and covariances of both ends, one row per pair of components."""
        k0, k1 = self.source.weights.size, self.target.weights.size
        return (
            jnp.repeat(self.source.means, k1, axis=0),
            jnp.repeat(self.source.covariances, k1, axis=0),
            jnp.tile(self.target.means, (k0, 1)),
            jnp.tile(self.target.covariances, (k0, 1, 1)),
        )


def log_weights(weights: Float[Array, " k"]) -> Float[Array, " k"]:
    """Logarithms of weights; that of zero is minus infinity, and its derivative zero and not NaN.

    The logarithm of a negative weight is NaN, and so is everything weighted with it.
    """
    absent = weights == 0
    return jnp.where(absent, -jnp.inf, jnp.log(jnp.where(absent, 1, weights)))
