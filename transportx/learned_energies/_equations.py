"""Moments of populations and their rates under each term of a free energy."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from transportx.gradient_flows import AbstractFunctional
from transportx.gradient_flows.internal import Cloud, Weights, as_pytree, slopes_and_laplacians
from transportx.learned_energies._snapshots import Snapshots

# Of the noise of all tests: what shields tests that nearly agree on the points.
_SHIELD = 1e-2


class Unknowns(eqx.Module):
    """Terms of a free energy whose coefficients are unknown, and test functions of a point.

    Attributes:
        features: Potentials, `features(x) -> (p,)`.
        terms: Functionals.
        entropy: Whether temperature is unknown; zero if not.
        tests: `tests(x) -> (a,)`.
    """

    features: Callable[[Array], Array] = eqx.field(converter=as_pytree)
    terms: tuple[AbstractFunctional, ...]
    entropy: bool = eqx.field(static=True)
    tests: Callable[[Array], Array] = eqx.field(converter=as_pytree)

    def forces(self, x: Cloud, w: Weights) -> Float[Array, "n u d"]:
        r"""$\nabla F_u$ at the points, of all but the entropy."""
        slopes = [jax.vmap(jax.jacfwd(self.features))(x)]
        slopes += [term.gradient(x, w)[:, None, :] for term in self.terms]
        return jnp.concatenate(slopes, axis=1)

    def rates(
        self, slopes: Float[Array, "n a d"], laplacians: Float[Array, "n a"], x: Cloud, w: Weights
    ) -> Float[Array, "a u"]:
        r"""$-E\,\nabla\psi_a\cdot\nabla F_u$, and $E\,\Delta\psi_a$ for the temperature."""
        rates = -jnp.einsum("n,nad,nud->au", w, slopes, self.forces(x, w), precision="highest")
        if self.entropy:
            rates = jnp.concatenate([rates, (w @ laplacians)[:, None]], axis=1)
        return rates

    def derivatives(self, x: Cloud) -> tuple[Float[Array, "n a d"], Float[Array, "n a"]]:
        """Gradients and Laplacians of the tests."""
        return jax.vmap(eqx.Partial(slopes_and_laplacians, self.tests))(x)


class Noise(eqx.Module):
    """The pooled covariance of the tests within populations, by its root."""

    scale: Float[Array, " a"]
    root: Float[Array, "a a"]

    def whiten(self, moments: Float[Array, "k a c"]) -> Float[Array, "k*a c"]:
        """Moments in units of the deviation of one draw, uncorrelated."""
        k, a, c = moments.shape
        flat = (moments / self.scale[None, :, None]).swapaxes(0, 1).reshape(a, k * c)
        solved = jax.scipy.linalg.solve_triangular(self.root, flat, trans="T")
        return solved.reshape(a, k, c).swapaxes(0, 1).reshape(k * a, c)


def pooled_noise(given: Snapshots, values: Float[Array, "k n a"]) -> Noise:
    """By QR of the centred tests, of all points."""
    moments = jnp.einsum("kn,kna->ka", given.weights, values, precision="highest")
    share = given.weights * (given.counts / jnp.sum(given.counts))[:, None]
    centred = (values - moments[:, None, :]) * jnp.sqrt(share)[:, :, None]
    centred = centred.reshape(-1, values.shape[-1])
    squares = jnp.sum(centred**2, axis=0)
    scale = jnp.sqrt(jnp.where(squares > 0, squares, 1))
    shield = _SHIELD * jnp.eye(scale.size, dtype=scale.dtype)
    return Noise(scale, jnp.linalg.qr(jnp.concatenate([centred / scale[None, :], shield]))[1])
