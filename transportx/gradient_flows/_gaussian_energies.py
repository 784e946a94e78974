"""Energies of Gaussian measures, as functions of mean and covariance."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from transportx import _checks

Mean = Float[Array, " d"]
Covariance = Float[Array, "d d"]
Scalar = Float[Array, ""]


@_checks.gate
class GaussianRelativeEntropy(eqx.Module):
    """KL of N(m, S) to N(mean, covariance): Fokker-Planck's, of Ornstein-Uhlenbeck processes.

    Attributes:
        mean: Mean of the target, shape (d,).
        covariance: Covariance of the target, shape (d, d), positive definite.
    """

    mean: Mean
    covariance: Covariance

    @_checks.gate
    def __call__(self, mean: Mean, covariance: Covariance) -> Scalar:
        """The divergence, zero at the target."""
        root = jnp.linalg.cholesky(self.covariance)
        gap = jax.scipy.linalg.cho_solve((root, True), mean - self.mean)
        ratio = jax.scipy.linalg.cho_solve((root, True), covariance)
        volumes = _log_volume(covariance) - 2 * jnp.sum(jnp.log(jnp.diagonal(root)))
        return (jnp.trace(ratio) - mean.size - volumes + jnp.sum(gap * (mean - self.mean))) / 2


@_checks.gate
class GaussianFisher(eqx.Module):
    r"""Half relative Fisher information, $\frac12\int|\nabla\log(\rho/\pi)|^2 d\rho$.

    Attributes:
        mean: Mean of the target pi, shape (d,).
        covariance: Covariance of the target, shape (d, d), positive definite.
    """

    mean: Mean
    covariance: Covariance

    @_checks.gate
    def __call__(self, mean: Mean, covariance: Covariance) -> Scalar:
        """The information, zero at the target."""
        precision = jnp.linalg.inv(self.covariance)
        gap = precision - jnp.linalg.inv(covariance)
        push = precision @ (mean - self.mean)
        return (jnp.trace(gap @ covariance @ gap) + jnp.sum(push**2)) / 2


@_checks.gate
class GaussianInteraction(eqx.Module):
    r"""$\frac14\iint (x - y)^\top G (x - y)\,d\rho\,d\rho = \frac12\mathrm{tr}(G S)$.

    Attributes:
        matrix: G, symmetric; where negative, points repel.
    """

    matrix: Covariance

    @_checks.gate
    def __call__(self, mean: Mean, covariance: Covariance) -> Scalar:
        """The energy, which does not depend on the mean."""
        return _of_a_law(mean, jnp.sum(self.matrix * covariance.T) / 2)


@_checks.gate
def gaussian_entropy(mean: Mean, covariance: Covariance) -> Scalar:
    r"""$\int\rho\log\rho$ of a Gaussian: its flow is the heat flow, S' = 2 I.

    Example:
        >>> value = tx.gradient_flows.gaussian_entropy(jnp.zeros(1), jnp.eye(1))
        >>> bool(jnp.isfinite(value))
        True
    """
    value = -(_log_volume(covariance) + mean.size * (jnp.log(2 * jnp.pi) + 1)) / 2
    return _of_a_law(mean, value)


def _of_a_law(mean: Mean, value: Scalar) -> Scalar:
    """A value that does not depend on the mean, NaN where the mean is none."""
    return jnp.where(jnp.all(jnp.isfinite(mean)), value, jnp.nan)


def _log_volume(covariance: Covariance) -> Scalar:
    """Log det, NaN where the matrix is not positive definite."""
    return 2 * jnp.sum(jnp.log(jnp.diagonal(jnp.linalg.cholesky(covariance))))
