"""Reaction: weights that grow and shrink, with or without points that move."""

import numbers
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree, ScalarLike

from transportx import _checks
from transportx.gradient_flows._dynamics import AbstractDynamics
from transportx.gradient_flows._functional import (
    AbstractFunctional,
    Measure,
    Particles,
    Scalar,
    Weights,
    dots,
)


@_checks.gate
class WassersteinFisherRao(AbstractDynamics):
    r"""Points move and weights react: mass leaves where it costs most.

    $\dot x_i = -\lambda\nabla_i$ and $\dot w_i = -\mu w_i (\delta_i - \bar\delta)$, where
    $\delta_i$ is the first variation at x_i and $\bar\delta$ its weighted mean. The total is
    kept exactly, and weights stay positive, those of zero zero. With ``transport=0.0`` it is
    the Fisher-Rao flow. The energy falls at the rate
    $\lambda\sum_i w_i|\nabla_i|^2 + \mu\sum_i w_i(\delta_i - \bar\delta)^2$.

    Attributes:
        transport: lambda, not negative; may be traced. A Python zero holds the points still.
        reaction: mu, not negative, per unit of the energy.

    References:
        Lu, Lu and Nolen, Accelerating Langevin sampling with birth-death, 2019.
    """

    transport: ScalarLike = 1.0
    reaction: ScalarLike = 1.0
    lowers_energy: ClassVar[bool] = True

    def __check_init__(self):
        _checks.not_negative("transport", self.transport)
        _checks.not_negative("reaction", self.reaction)

    @property
    def holds_points(self) -> bool:
        """Whether `transport` is a Python zero."""
        return isinstance(self.transport, numbers.Real) and float(self.transport) == 0

    @_checks.gate
    def start(self, x: Particles) -> PyTree[Array]:
        like = jax.tree.leaves(x)[0]
        return x, jnp.zeros(like.shape[0], like.dtype)

    @_checks.gate
    def measure(self, state: PyTree[Array], weights: Weights) -> Measure:
        x, growth = state
        # The state holds log growth, of which a constant does not count.
        peak = jax.lax.stop_gradient(jnp.max(jnp.where(weights > 0, growth, -jnp.inf)))
        grown = weights * jnp.exp(jnp.where(weights > 0, growth - peak, 0))
        return Measure(x, grown * (jnp.sum(weights) / jnp.sum(grown)))

    @_checks.gate
    def rates(
        self, functional: AbstractFunctional, state: PyTree[Array], weights: Weights
    ) -> PyTree[Array]:
        now = self.measure(state, weights)
        found = functional.derivatives(*now)
        transport, reaction = self._factors(now.weights.dtype)
        moved = jax.tree.map(lambda slope: -transport.astype(slope.dtype) * slope, found.gradient)
        return moved, -reaction * _excess(found.variation, now.weights)

    @_checks.gate
    def energy_and_dissipation(
        self, functional: AbstractFunctional, state: PyTree[Array], weights: Weights
    ) -> tuple[Scalar, Scalar]:
        now = self.measure(state, weights)
        found = functional.derivatives(*now)
        transport, reaction = self._factors(now.weights.dtype)
        moved = jnp.sum(now.weights * dots(found.gradient, found.gradient))
        reacted = jnp.sum(now.weights * _excess(found.variation, now.weights) ** 2)
        return found.value, transport * moved + reaction * reacted

    def _factors(self, dtype) -> tuple[Scalar, Scalar]:
        transport = _checks.not_negative_value("transport", self.transport, dtype)
        return transport, _checks.not_negative_value("reaction", self.reaction, dtype)


def _excess(variation: Weights, weights: Weights) -> Weights:
    """First variations less their weighted mean."""
    return variation - jnp.sum(weights * variation) / jnp.sum(weights)
