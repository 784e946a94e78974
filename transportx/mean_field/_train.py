"""`train`: a network that descends its risk in continuous time, recorded."""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, ScalarLike

from transportx import _checks
from transportx._status import Status, judge, rose
from transportx.mean_field._dynamics import AbstractDynamics, Langevin, Wasserstein
from transportx.mean_field._network import Network
from transportx.mean_field._risk import Risk

_NUM_RECORDS = 11


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
    num_steps: int = 100,
    solver: diffrax.AbstractSolver | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    max_steps: int = 4096,
    times: Float[Array, " k"] | None = None,
    key: PRNGKeyArray | None = None,
) -> Training:
    r"""Let a network descend its risk from time 0 to `t1`.

    By default $\dot\theta_i = -\nabla\frac{\delta R}{\delta\mu}(\theta_i)$, which for n neurons
    of one weight is $-n\nabla_{\theta_i}R$: time does not depend on the width, and networks of
    growing width approach one flow of measures. At equal steps with the default solver this is
    gradient descent with learning rate n t1 / num_steps.

    Args:
        risk: What falls.
        network: The network at time 0.
        t1: Last time, positive; may be traced.
        dynamics: `Wasserstein`, `Langevin` or `BirthDeath`.
        num_steps: Equal steps; not used when tolerances are given.
        solver: Any diffrax solver; by default Euler at equal steps, Tsit5 when adaptive.
        rtol: Relative tolerance of adaptive steps, of all neurons together.
        atol: Absolute tolerance, in units of the neurons.
        max_steps: Adaptive steps at most. `Relu` has kinks, which take many.
        times: Times to record, rising from 0 to `t1`, both included; eleven evenly spaced by
            default. Between steps the solver interpolates.
        key: Randomness, for `Langevin` alone, which takes equal steps.

    Returns:
        The record. Its `status` tells a step limit, a blow-up and a risk that rose, the sign
        of steps that are too large.

    Raises:
        ValueError: Data, network, count, time or tolerance does not fit, or `key` is missing
            or of no use.

    Differentiation:
        Reverse mode, in the network, `t1`, the data and the parameters of `dynamics`, through
        the steps taken, by recursive checkpointing.
    """
    _check(risk, network, dynamics, num_steps, max_steps, rtol, atol, key)
    _checks.positive("t1", t1)
    dtype = network.inner.dtype
    t1 = jnp.asarray(t1, dtype)
    times = record_times(times, t1)
    if solver is None:
        solver = diffrax.Euler() if rtol is None else diffrax.Tsit5()
    if rtol is None or atol is None:
        steps = jnp.linspace(0, 1, num_steps + 1, dtype=dtype)
        controller, max_steps = diffrax.StepTo(ts=t1 * steps), num_steps
    else:
        controller = diffrax.PIDController(rtol=rtol, atol=atol)
    solution = diffrax.diffeqsolve(
        _terms(dynamics, network, t1, num_steps, key),
        solver,
        jnp.zeros_like(t1),
        t1,
        None,
        dynamics.start(network),
        (risk, dynamics, network),
        saveat=diffrax.SaveAt(ts=times),
        stepsize_controller=controller,
        max_steps=max_steps,
        throw=False,
    )
    assert solution.ys is not None
    networks = jax.vmap(dynamics.network, in_axes=(0, None))(solution.ys, network)
    reached = solution.result == diffrax.RESULTS.successful
    taken = jnp.asarray(solution.stats["num_steps"])
    up, falls = jnp.array(False), dynamics.lowers_risk
    return record(risk, dynamics, times, networks, taken, reached, up, falls=falls)


def _terms(dynamics, network, t1, num_steps, key) -> Any:
    def drift(t, state, args):
        risk, dynamics, start = args
        return dynamics.rates(risk, state, start)

    if key is None:
        return diffrax.ODETerm(drift)

    def spread(t, neurons, args):
        _, dynamics, _ = args
        level = jnp.sqrt(2 * jnp.asarray(dynamics.temperature, t.dtype))
        return lx.DiagonalLinearOperator(
            jax.tree.map(lambda part: jnp.full_like(part, level), neurons)
        )

    shape = jax.eval_shape(lambda: network.neurons)
    finest = t1 / (2 * num_steps)
    noise = diffrax.VirtualBrownianTree(jnp.zeros_like(t1), t1, finest, shape, key)
    return diffrax.MultiTerm(diffrax.ODETerm(drift), diffrax.ControlTerm(spread, noise))


def record(
    risk: Risk,
    dynamics: AbstractDynamics,
    times: Float[Array, " k"],
    networks: Network,
    num_steps: Int[Array, ""],
    reached: Bool[Array, ""],
    went_up: Bool[Array, ""],
    *,
    falls: bool,
) -> Training:
    """Risks of the very networks that are returned, one at a time, and how it went.

    `went_up` says whether the risk rose between records where it may not, and `falls` whether it
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
    broken = reached & ~jnp.all(finite)
    went_up = went_up | rose(value) if falls else went_up
    status = judge(
        (broken, Status.NON_FINITE),
        (reached & went_up, Status.ROSE),
        (reached, Status.COMPLETED),
        otherwise=Status.MAX_STEPS,
    )
    return Training(times, networks, value, dissipation, num_steps, status)


def record_times(times: Float[Array, " k"] | None, t1: Float[Array, ""]) -> Float[Array, " k"]:
    """Times of records, checked; evenly spaced by default."""
    if times is None:
        return t1 * jnp.linspace(0, 1, _NUM_RECORDS, dtype=t1.dtype)
    if len(np.shape(times)) != 1 or np.size(times) < 2:
        problem = f"has shape {np.shape(times)}"
        _checks.reject("times", problem, "give at least the first and the last time, shape (k,)")
    if not (isinstance(times, Tracer) or isinstance(t1, Tracer)):
        recorded = np.asarray(times, t1.dtype)
        ends = recorded[0] == 0 and recorded[-1] == t1
        if not (ends and np.all(np.diff(recorded) > 0)):
            cure = f"give times that rise from 0 to {float(t1)}"
            _checks.reject("times", f"is {recorded}", cure)
    return jnp.asarray(times, t1.dtype)


def check_data(risk: Risk, network: Network) -> None:
    """Refuse a network that does not fit the data of a risk."""
    _checks.same_dimension("risk.x", risk.x, "network.inner", network.inner)
    _checks.same_dimension("risk.y", risk.y, "network.outer", network.outer)


def _check(risk, network, dynamics, num_steps, max_steps, rtol, atol, key) -> None:
    check_data(risk, network)
    _checks.count("num_steps", num_steps)
    _checks.count("max_steps", max_steps)
    if (rtol is None) != (atol is None):
        missing = "rtol" if rtol is None else "atol"
        _checks.reject(missing, "is None", "give both tolerances, or neither")
    for name, tolerance in (("rtol", rtol), ("atol", atol)):
        _checks.positive(name, tolerance)
    noisy = isinstance(dynamics, Langevin)
    if noisy and rtol is not None:
        _checks.reject("rtol", "is given to `Langevin`", "give `num_steps` alone: steps are equal")
    if noisy and key is None:
        _checks.reject("key", "is None", "give a key: `Langevin` draws noise")
    if key is not None and not noisy:
        _checks.reject("key", "is given", "leave it out: these dynamics draw no noise")
