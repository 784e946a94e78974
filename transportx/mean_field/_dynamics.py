"""Dynamics of neurons: what steepest descent is measured by, and what else acts."""

import abc
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree, ScalarLike

from transportx import _checks
from transportx.mean_field._network import Network, Neurons
from transportx.mean_field._risk import Risk

Scalar = Float[Array, ""]


class AbstractDynamics(eqx.Module):
    """How a risk moves a network: a state, the network it stands for, and its rates.

    `lowers_risk` says whether the recorded risk can only fall. `dissipation` is minus its
    derivative in time along the rates.
    """

    lowers_risk: eqx.AbstractClassVar[bool]

    @abc.abstractmethod
    def start(self, network: Network) -> PyTree[Array]:
        """The state that begins as this network."""

    @abc.abstractmethod
    def network(self, state: PyTree[Array], start: Network) -> Network:
        """The network of a state, of what began as `start`."""

    @abc.abstractmethod
    def rates(self, risk: Risk, state: PyTree[Array], start: Network) -> PyTree[Array]:
        """The derivative of the state in time."""

    @abc.abstractmethod
    def risk_and_dissipation(self, risk: Risk, network: Network) -> tuple[Scalar, Scalar]:
        """The risk of a network, and how fast it falls."""


class AbstractTransport(AbstractDynamics):
    """Neurons move along minus the Wasserstein gradient; weights stay."""

    def start(self, network: Network) -> PyTree[Array]:
        return network.neurons

    def network(self, state: PyTree[Array], start: Network) -> Network:
        return start.with_neurons(state, start.masses)

    def rates(self, risk: Risk, state: PyTree[Array], start: Network) -> PyTree[Array]:
        slopes = risk.gradient(self.network(state, start))
        return jax.tree.map(jnp.negative, slopes)

    def risk_and_dissipation(self, risk: Risk, network: Network) -> tuple[Scalar, Scalar]:
        value, slopes, _ = risk.derivatives(network)
        return value, _squared(slopes, network)


class Wasserstein(AbstractTransport):
    r"""Gradient descent in the limit of small steps: $\dot\theta_i = -\nabla V(\theta_i)$.

    For n neurons of weight 1 / n, $\dot\theta_i = -n\nabla_{\theta_i}R$. The risk falls at the
    rate $\sum_i a_i|\dot\theta_i|^2$.
    """

    lowers_risk: ClassVar[bool] = True


@_checks.gate
class Langevin(AbstractTransport):
    r"""$d\theta_i = -\nabla V(\theta_i)\,dt + \sqrt{2T}\,dW_i$.

    In the limit of many neurons the Wasserstein flow of $R + T\int\rho\log\rho$, which with a
    ridge has one equilibrium and reaches it from everywhere. Recorded are R without the
    entropy, which neurons do not have, and the dissipation of the drift alone.

    Attributes:
        temperature: T, not negative; may be traced.

    References:
        Mei, Montanari and Nguyen, 2018; Hu, Ren, Siska and Szpruch, Mean-field Langevin
        dynamics and energy landscape of neural networks, 2021.
    """

    temperature: ScalarLike
    lowers_risk: ClassVar[bool] = False

    def __check_init__(self):
        _checks.not_negative("temperature", self.temperature)


@_checks.gate
class BirthDeath(AbstractDynamics):
    r"""Neurons move, and their weights react: $\dot a_i = -\alpha a_i (V(\theta_i) - \bar V)$.

    $\bar V$ is the weighted mean, so the total weight is kept exactly; weights stay positive,
    those of zero zero. The risk falls at the rate
    $\sum_i a_i|\nabla V(\theta_i)|^2 + \alpha\sum_i a_i(V(\theta_i) - \bar V)^2$.

    Attributes:
        rate: alpha, not negative, per unit of the risk; may be traced.

    References:
        Rotskoff, Jelassi, Bruna and Vanden-Eijnden, Global convergence of neuron birth-death
        dynamics, 2019.
    """

    rate: ScalarLike
    lowers_risk: ClassVar[bool] = True

    def __check_init__(self):
        _checks.not_negative("rate", self.rate)

    @_checks.gate
    def start(self, network: Network) -> PyTree[Array]:
        return network.neurons, jnp.zeros_like(network.masses)

    @_checks.gate
    def network(self, state: PyTree[Array], start: Network) -> Network:
        neurons, growth = state
        # The state holds log growth, of which a constant does not count.
        masses = start.masses
        peak = jax.lax.stop_gradient(jnp.max(jnp.where(masses > 0, growth, -jnp.inf)))
        grown = masses * jnp.exp(jnp.where(masses > 0, growth - peak, 0))
        return start.with_neurons(neurons, grown * (jnp.sum(masses) / jnp.sum(grown)))

    @_checks.gate
    def rates(self, risk: Risk, state: PyTree[Array], start: Network) -> PyTree[Array]:
        network = self.network(state, start)
        _, slopes, variation = risk.derivatives(network)
        growth = -jnp.asarray(self.rate, variation.dtype) * _excess(variation, network)
        return Neurons(*map(jnp.negative, slopes)), growth

    @_checks.gate
    def risk_and_dissipation(self, risk: Risk, network: Network) -> tuple[Scalar, Scalar]:
        value, slopes, variation = risk.derivatives(network)
        reacted = network.masses @ _excess(variation, network) ** 2
        rate = jnp.asarray(self.rate, value.dtype)
        return value, _squared(slopes, network) + rate * reacted


def _excess(variation: Float[Array, " n"], network: Network) -> Float[Array, " n"]:
    """First variations less their weighted mean."""
    masses = network.masses
    return variation - masses @ variation / jnp.sum(masses)


def _squared(slopes: Neurons, network: Network) -> Scalar:
    """Squared length of a Wasserstein gradient."""
    return network.masses @ sum(jnp.sum(part**2, axis=1) for part in slopes)
