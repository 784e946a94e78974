"""`train`: a network that descends its risk in continuous time, recorded."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, ScalarLike

from transportx import _checks, _numbers
from transportx._status import Status, judge, rose
from transportx.evolution import (
    AdaptiveSteps,
    Noise,
    Steps,
    as_steps,
    integrate,
    record_times,
    time_dtype,
)
from transportx.mean_field._dynamics import AbstractDynamics, Langevin, Wasserstein
from transportx.mean_field._network import Network
from transportx.mean_field._risk import Risk


@_checks.gate
class Training(eqx.Module):
    """A recorded training at k times.

    Attributes:
        times: When; the first and the last are those of the training.
        networks: One network whose arrays have a further leading axis, of length k. NaN from
            where the training failed.
        risk: Of each record.
        dissipation: Minus the derivative of `risk` along the flow.
        num_steps: Steps taken, rejected ones included.
        status: How it ended.
    """

    times: Float[Array, " k"]
    networks: Network
    risk: Float[Array, " k"]
    dissipation: Float[Array, " k"]
    num_steps: Int[Array, ""]
    status: Status

    @property
    def completed(self) -> Bool[Array, "..."]:
        """Whether the last time was reached, finite, with a risk that fell where it must."""
        return self.status == Status.COMPLETED

    @_checks.gate
    def network(self, index: int) -> Network:
        """The network of one record."""
        return jax.tree.map(lambda leaf: leaf[index], self.networks)

    @property
    def final(self) -> Network:
        """The network at the last time."""
        return self.network(-1)


@_checks.gate
def train(
    risk: Risk,
    network: Network,
    *,
    t1: ScalarLike,
    dynamics: AbstractDynamics = Wasserstein(),
    steps: Steps = 100,
    times: Float[Array, " k"] | None = None,
    key: PRNGKeyArray | None = None,
) -> Training:
    r"""Let a network descend its risk from time 0 to `t1`.

    By default $\dot\theta_i = -\nabla\frac{\delta R}{\delta\mu}(\theta_i)$, which for n neurons
    of one weight is $-n\nabla_{\theta_i}R$: time does not depend on the width, and networks of
    growing width approach one flow of measures. At equal steps with the default solver this is
    gradient descent with learning rate n t1 / steps.

    Args:
        risk: What falls.
        network: The network at time 0.
        t1: Last time, positive; may be traced.
        dynamics: `Wasserstein`, `Langevin` or `BirthDeath`.
        steps: An int, that many equal Euler steps; `evolution.FixedSteps` for another solver; or
            `evolution.AdaptiveSteps`, of all neurons together. `Relu` has kinks, which take
            many.
        times: Times to record, rising from 0 to `t1`, both included; eleven evenly spaced by
            default. Between steps the solver interpolates.
        key: Randomness, for `Langevin` alone, which takes fixed steps.

    Returns:
        The record. Its `status` tells a step limit, a blow-up and a risk that rose, the sign
        of steps that are too large.

    Raises:
        ValueError: Data, network, count, time or tolerance does not fit, or `key` is missing
            or of no use.

    Differentiation:
        In the network, `t1`, the data and the parameters of `dynamics`, through the steps
        taken: forward and reverse mode with fixed steps, the mode that they name with adaptive
        ones.
    """
    steps = as_steps(steps)
    _check(risk, network, dynamics, steps, key)
    _checks.positive("t1", t1)
    t1 = _numbers.not_negative(t1, time_dtype(network.inner))
    return _train(risk, network, t1, dynamics, steps, record_times(times, t1), key)


@eqx.filter_jit
def _train(risk, network, t1, dynamics, steps, times, key) -> Training:
    def rates(t, state, args):
        risk, dynamics, start = args
        return dynamics.rates(risk, state, start)

    def level(t, args):
        _, dynamics, _ = args
        return jnp.sqrt(2 * jnp.asarray(dynamics.temperature, t.dtype))

    noise = None if key is None else Noise(level, key)
    args = risk, dynamics, network
    start = dynamics.start(network)
    made = integrate(rates, start, args, t1=t1, steps=steps, times=times, noise=noise)
    networks = jax.vmap(dynamics.network, in_axes=(0, None))(made.states, network)
    up, falls = jnp.array(False), dynamics.lowers_risk
    return record(risk, dynamics, times, networks, made.num_steps, made.status, up, falls=falls)


def record(
    risk: Risk,
    dynamics: AbstractDynamics,
    times: Float[Array, " k"],
    networks: Network,
    num_steps: Int[Array, ""],
    status: Status,
    went_up: Bool[Array, ""],
    *,
    falls: bool,
) -> Training:
    """Risks of the very networks that are returned, one at a time, and how it went.

    `status` says how the evolution of the neurons ended, `went_up` whether the risk rose between
    records where it may not, and `falls` whether it
    may never rise from one to the next.
    """

    def describe(network):
        value, dissipation = dynamics.risk_and_dissipation(risk, network)
        leaves = [value, *jax.tree.leaves(network)]
        finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))

        def honest(leaf):
            return jnp.where(finite, leaf, jnp.nan)

        return *jax.tree.map(honest, (network, value, dissipation)), finite

    # A derivative keeps the networks alone, not what their risks are made of.
    describe = jax.checkpoint(describe, prevent_cse=False)
    networks, value, dissipation, finite = jax.lax.map(describe, networks)
    went_up = went_up | rose(value) if falls else went_up
    reached = status == Status.COMPLETED
    status = judge(
        (reached & ~jnp.all(finite), Status.NON_FINITE),
        (reached & went_up, Status.ROSE),
        otherwise=status,
    )
    return Training(times, networks, value, dissipation, num_steps, status)


def check_data(risk: Risk, network: Network) -> None:
    """Refuse a network that does not fit the data of a risk."""
    _checks.same_dimension("risk.x", risk.x, "network.inner", network.inner)
    _checks.same_dimension("risk.y", risk.y, "network.outer", network.outer)


def _check(risk, network, dynamics, steps, key) -> None:
    check_data(risk, network)
    noisy = isinstance(dynamics, Langevin)
    if noisy and isinstance(steps, AdaptiveSteps):
        _checks.reject("steps", "is adaptive with `Langevin`", "give an int or `FixedSteps`")
    if noisy and key is None:
        _checks.reject("key", "is None", "give a key: `Langevin` draws noise")
    if key is not None and not noisy:
        _checks.reject("key", "is given", "leave it out: these dynamics draw no noise")
