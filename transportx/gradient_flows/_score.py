"""Diffusion without noise: particles that descend their entropy by a score fitted to them."""

from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ScalarLike

from transportx import _checks
from transportx.gradient_flows._dynamics import AbstractVelocity
from transportx.gradient_flows._functional import Cloud, Weights, as_pytree
from transportx.gradient_flows._slopes import slopes_and_laplacians


@_checks.gate
class FittedScore(AbstractVelocity):
    r"""$\dot x_i = -\nabla_i - T\,s(x_i)$, where s is a score fitted to the particles as they are.

    $s = \nabla\langle c, \varphi\rangle$ minimises $\sum_i w_i (|s|^2 / 2 + \nabla\cdot s)(x_i)$:
    implicit score matching, solved for c anew at each evaluation. It is descent of
    $F + T\int\rho\log\rho$ without noise. With the coordinates and their products as features
    it is exact for Gaussians; with the hidden units of a network its last layer is what is
    learnt. O(n (d^2 k + d k^2) + k^3) a call for k features. The recorded energy is F without
    the entropy.

    Attributes:
        features: phi, `features(x) -> (k,)` of one point, twice differentiable.
        temperature: T, not negative; may be traced.
        ridge: Added to the matrix of the fit, over its mean diagonal; positive, so that features
            may agree on the particles.

    References:
        Hyvarinen, Estimation of non-normalized statistical models by score matching, 2005;
        Maoutsa, Reich and Opper, Interacting particle solutions of Fokker-Planck equations
        through gradient-log-density estimation, 2020; Boffi and Vanden-Eijnden, Probability flow
        solution of the Fokker-Planck equation, 2023.
    """

    features: Callable[[Array], Array] = eqx.field(converter=as_pytree)
    temperature: ScalarLike = 1.0
    ridge: ScalarLike = 1e-6
    lowers_energy: ClassVar[bool] = False

    def __check_init__(self):
        _checks.not_negative("temperature", self.temperature)
        _checks.positive("ridge", self.ridge)

    @_checks.gate
    def velocities(self, slopes: Cloud, x: Cloud, weights: Weights) -> Cloud:
        temperature = _checks.not_negative_value("temperature", self.temperature, x.dtype)
        return -slopes - temperature * self.score(x, weights)

    @_checks.gate
    def score(self, x: Cloud, weights: Weights) -> Cloud:
        """The fitted score at the particles it is fitted to."""
        centre = jnp.sum(weights[:, None] * x, axis=0) / jnp.sum(weights)
        jacobians, laplacians = jax.vmap(eqx.Partial(slopes_and_laplacians, self.features))(
            x - centre[None, :]
        )
        share = weights / jnp.sum(weights)
        matrix = jnp.einsum("i,ika,ila->kl", share, jacobians, jacobians, precision="highest")
        ridge = _checks.positive_value("ridge", self.ridge, x.dtype)
        level = ridge * jnp.mean(jnp.diagonal(matrix))
        matrix = matrix + level * jnp.eye(matrix.shape[0], dtype=x.dtype)
        coefficients = -jax.scipy.linalg.solve(matrix, share @ laplacians, assume_a="pos")
        return jnp.einsum("ika,k->ia", jacobians, coefficients, precision="highest")
