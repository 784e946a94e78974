"""`train`: a network that descends its risk in continuous time, recorded."""

from typing import Any, Generic, TypeVar

import equinox as eqx
import jax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, ScalarLike

from transportx import _checks
from transportx._status import Status
from transportx.evolution import Steps
from transportx.gradient_flows import (
    AbstractDynamics,
    AbstractFunctional,
    ParticleFlow,
    Wasserstein,
    flow,
)
from transportx.mean_field._network import Network
from transportx.mean_field._residual import ResidualNetwork

AnyNetwork = TypeVar("AnyNetwork", Network, ResidualNetwork)


@_checks.gate
class Training(eqx.Module, Generic[AnyNetwork]):
    """A recorded training of a network at k times: a flow of its neurons, read as networks.

    Attributes:
        times: Times of the records; the first and the last are those of the training.
        networks: One network whose arrays have a further leading axis, of length k. NaN from
            where the training failed.
        risk: Risk of each recorded network.
        dissipation: Minus the derivative of `risk` along the flow.
        num_steps: Number of steps, rejected ones included.
        status: How it ended.
    """

    times: Float[Array, " k"]
    networks: AnyNetwork
    risk: Float[Array, " k"]
    dissipation: Float[Array, " k"]
    num_steps: Int[Array, ""]
    status: Status

    @property
    def completed(self) -> Bool[Array, "..."]:
        """Whether the last time was reached, finite, with a risk that fell where it must."""
        return self.status == Status.COMPLETED

    @_checks.gate
    def network(self, index: int) -> AnyNetwork:
        """The network of one record."""
        return jax.tree.map(lambda leaf: leaf[index], self.networks)

    @property
    def final(self) -> AnyNetwork:
        """The network at the last time."""
        return self.network(-1)


@_checks.gate
def as_training(network: Network | ResidualNetwork, flow: ParticleFlow) -> Training[Any]:
    """Read a flow of neurons as networks, with what it recorded.

    Args:
        network: The network at time 0, which says the kind of all others.
        flow: A flow that began at the `measure` of that network.
    """
    networks: Any = jax.vmap(network.with_neurons)(flow.x, flow.weights)
    energies = flow.energy, flow.dissipation
    return Training(flow.times, networks, *energies, flow.num_steps, flow.status)


@_checks.gate
def train(
    risk: AbstractFunctional,
    network: Network | ResidualNetwork,
    *,
    t1: ScalarLike,
    dynamics: AbstractDynamics = Wasserstein(),
    steps: Steps = 100,
    times: Float[Array, " k"] | None = None,
    key: PRNGKeyArray | None = None,
) -> Training[Any]:
    r"""Let a network descend its risk from time 0 to `t1`: `gradient_flows.flow` of its neurons.

    By default $\dot\theta_i = -\nabla\frac{\delta R}{\delta\mu}(\theta_i)$, which for n neurons
    of one weight is $-n\nabla_{\theta_i}R$: time does not depend on the width, and networks of
    growing width approach one flow of measures. At equal steps with the default solver this is
    gradient descent with learning rate n t1 / steps, stochastic with `MiniBatches`.

    Args:
        risk: The functional to descend: a `Risk`, its `MiniBatches`, or a `ResidualRisk` for a
            residual network.
        network: The network at time 0.
        t1: Last time, positive; may be traced.
        dynamics: Dynamics of `gradient_flows`: `Wasserstein`, `Langevin`, with momentum `Kinetic`,
            or birth and death of weight by `WassersteinFisherRao`.
        steps: An int, that many equal Euler steps; `evolution.FixedSteps` for another solver; or
            `evolution.AdaptiveSteps`, of all neurons together. `Relu` has kinks, which take
            many.
        times: Times to record, rising from 0 to `t1`, both included; eleven evenly spaced by
            default. Between steps the solver interpolates.
        key: Randomness, for `Langevin` and `MiniBatches`, both of which take fixed steps.

    Returns:
        The record. Its `status` tells a step limit, a blow-up and a risk that rose, the sign
        of steps that are too large; with mini-batches or noise a rise is no failure.

    Raises:
        ValueError: Data, network, count, time or tolerance does not fit, or `key` is missing
            or of no use.

    Differentiation:
        In the network, `t1`, the data and the parameters of `dynamics`, through the steps
        taken: forward and reverse mode with fixed steps, the mode that they name with adaptive
        ones.

    Example:
        >>> x = jr.normal(jr.key(1), (4, 2))
        >>> risk = tx.mean_field.Risk(x, x[:, :1])
        >>> network = tx.mean_field.random_network(8, dim=2, key=jr.key(0))
        >>> trained = tx.mean_field.train(risk, network, t1=0.1, steps=2)
        >>> bool(trained.completed), bool(trained.risk[-1] < trained.risk[0])
        (True, True)
    """
    options: dict[str, Any] = {"dynamics": dynamics, "steps": steps, "times": times, "key": key}
    return as_training(network, flow(risk, *network.measure, t1=t1, **options))
