"""Dynamics: what steepest descent of a functional is measured by, and what else acts."""

import abc
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree, ScalarLike

from transportx import _checks
from transportx.gradient_flows._functional import (
    AbstractFunctional,
    Measure,
    Particles,
    Scalar,
    Weights,
    dots,
)


class AbstractDynamics(eqx.Module):
    """Dynamics by which a functional moves a measure: a state, and its rates.

    A new one says what its state is, which measure that stands for, and its rates. The
    recorded energy is the functional's, and `dissipation` its rate of fall.

    `lowers_energy` says whether the recorded energy can only fall.
    """

    lowers_energy: eqx.AbstractClassVar[bool]

    @abc.abstractmethod
    def start(self, x: Particles) -> PyTree[Array]:
        """The state that begins at these points."""

    @abc.abstractmethod
    def measure(self, state: PyTree[Array], weights: Weights) -> Measure:
        """The measure of a state, of what were `weights` at the start."""

    @abc.abstractmethod
    def rates(
        self, functional: AbstractFunctional, state: PyTree[Array], weights: Weights
    ) -> PyTree[Array]:
        """The derivative of the state in time."""

    @abc.abstractmethod
    def energy_and_dissipation(
        self, functional: AbstractFunctional, state: PyTree[Array], weights: Weights
    ) -> tuple[Scalar, Scalar]:
        """The energy of a state, and minus its derivative along the flow."""


class AbstractVelocity(AbstractDynamics):
    """Dynamics of points alone, of fixed weights: a subclass writes `velocities`."""

    @abc.abstractmethod
    def velocities(self, slopes: Any, x: Any, weights: Weights) -> Any:
        """Velocities of the points from the Wasserstein gradient at them."""

    @_checks.gate
    def start(self, x: Particles) -> PyTree[Array]:
        return x

    @_checks.gate
    def measure(self, state: PyTree[Array], weights: Weights) -> Measure:
        return Measure(state, weights)

    @_checks.gate
    def rates(
        self, functional: AbstractFunctional, state: PyTree[Array], weights: Weights
    ) -> PyTree[Array]:
        return self.velocities(functional.gradient(state, weights), state, weights)

    @_checks.gate
    def energy_and_dissipation(
        self, functional: AbstractFunctional, state: PyTree[Array], weights: Weights
    ) -> tuple[Scalar, Scalar]:
        energy, slopes = functional.value_and_gradient(state, weights)
        power = dots(slopes, self.velocities(slopes, state, weights))
        return energy, -jnp.sum(weights * power)


class Wasserstein(AbstractVelocity):
    r"""Steepest descent in W2: $\dot x_i = -\nabla\frac{\delta F}{\delta\alpha}(x_i)$.

    The energy falls at the rate $\sum_i w_i |\dot x_i|^2$.

    Example:
        >>> gf = tx.gradient_flows
        >>> bowl = gf.Potential(lambda x: jnp.sum(x**2) / 2)
        >>> path = gf.flow(bowl, jnp.ones((1, 1)), t1=1.0, dynamics=gf.Wasserstein(), steps=10)
        >>> bool(path.completed)
        True
    """

    lowers_energy: ClassVar[bool] = True

    @_checks.gate
    def velocities(self, slopes: Particles, x: Particles, weights: Weights) -> Particles:
        return jax.tree.map(jnp.negative, slopes)


@_checks.gate
class Langevin(AbstractVelocity):
    r"""$dX_i = -\nabla\frac{\delta F}{\delta\alpha}(X_i)\,dt + \sqrt{2T}\,dW_i$.

    In the limit of many particles, the Wasserstein flow of $F + T \int\rho\log\rho$: with
    ``Potential`` of $-\log\pi$ and T = 1 that of $\mathrm{KL}(\rho\,\|\,\pi)$. Recorded are
    F without the entropy, which points do not have, and the dissipation of the drift alone.

    Attributes:
        temperature: T, not negative; may be traced.

    Example:
        >>> gf = tx.gradient_flows
        >>> bowl = gf.Potential(lambda x: jnp.sum(x**2) / 2)
        >>> x0 = jnp.zeros((4, 1))
        >>> path = gf.flow(bowl, x0, t1=1.0, dynamics=gf.Langevin(0.1), steps=10, key=jr.key(0))
        >>> path.x.shape
        (11, 4, 1)
    """

    temperature: ScalarLike = 1.0
    lowers_energy: ClassVar[bool] = False

    def __check_init__(self):
        _checks.not_negative("temperature", self.temperature)

    @_checks.gate
    def velocities(self, slopes: Particles, x: Particles, weights: Weights) -> Particles:
        return jax.tree.map(jnp.negative, slopes)


@_checks.gate
class Kinetic(AbstractDynamics):
    r"""Motion with momentum and friction: $\dot x_i = p_i,\ \dot p_i = -\nabla_i - \gamma p_i$.

    From rest. The recorded energy is $F + \frac12\sum_i w_i |p_i|^2$, which falls at the rate
    $\gamma \sum_i w_i |p_i|^2$.

    Attributes:
        friction: gamma, per time, not negative; may be traced.
    """

    friction: ScalarLike
    lowers_energy: ClassVar[bool] = True

    def __check_init__(self):
        _checks.not_negative("friction", self.friction)

    @_checks.gate
    def start(self, x: Particles) -> PyTree[Array]:
        return x, jax.tree.map(jnp.zeros_like, x)

    @_checks.gate
    def measure(self, state: PyTree[Array], weights: Weights) -> Measure:
        return Measure(state[0], weights)

    @_checks.gate
    def rates(
        self, functional: AbstractFunctional, state: PyTree[Array], weights: Weights
    ) -> PyTree[Array]:
        x, momentum = state

        def force(slope, momentum):
            friction = _checks.not_negative_value("friction", self.friction, slope.dtype)
            return -slope - friction * momentum

        return momentum, jax.tree.map(force, functional.gradient(x, weights), momentum)

    @_checks.gate
    def energy_and_dissipation(
        self, functional: AbstractFunctional, state: PyTree[Array], weights: Weights
    ) -> tuple[Scalar, Scalar]:
        x, momentum = state
        doubled = jnp.sum(weights * dots(momentum, momentum))
        friction = _checks.not_negative_value("friction", self.friction, doubled.dtype)
        return functional.value(x, weights) + doubled / 2, friction * doubled
