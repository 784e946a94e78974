"""Stochastic gradient descent on the clock of the flow."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import PRNGKeyArray, ScalarLike

from transportx import _checks, _numbers
from transportx._status import Status
from transportx.evolution import time_dtype
from transportx.mean_field._dynamics import Wasserstein
from transportx.mean_field._network import Network
from transportx.mean_field._risk import Risk
from transportx.mean_field._train import Training, check_data, record


@_checks.gate
def sgd(
    risk: Risk,
    network: Network,
    *,
    t1: ScalarLike,
    num_steps: int,
    batch_size: int,
    num_records: int = 11,
    key: PRNGKeyArray,
) -> Training:
    r"""Plain stochastic gradient descent, on the clock of `train`.

    A step is $\theta_i \leftarrow \theta_i - h\,\nabla V_B(\theta_i)$ with h = t1 / num_steps
    and V_B the first variation on a batch: for n neurons of one weight, a learning rate of
    n h. As h falls it follows `train`, whose Euler steps are those of full batches.

    Args:
        risk: What falls.
        network: The network at time 0.
        t1: Last time, positive; may be traced.
        num_steps: Steps, a multiple of ``num_records - 1``.
        batch_size: Examples a step, drawn anew for each, without replacement.
        num_records: Evenly spaced records, both ends included.
        key: Randomness of the batches.

    Returns:
        The record, of the risk and its dissipation on all data. That the risk rises is no
        failure here.

    Raises:
        ValueError: Data, network, count or time does not fit.

    Differentiation:
        Reverse mode through all steps, whose neurons are kept: O(n num_steps) memory.

    References:
        Mei, Montanari and Nguyen, A mean field view of the landscape of two-layer neural
        networks, 2018.
    """
    _check(risk, network, t1, num_steps, batch_size, num_records)
    t1 = _numbers.not_negative(t1, time_dtype(network.inner))
    return _sgd(risk, network, t1, num_steps, batch_size, num_records, key)


@eqx.filter_jit
def _sgd(risk, network, t1, num_steps: int, batch_size: int, num_records: int, key) -> Training:
    step = t1 / num_steps

    def descend(neurons, key):
        batch = risk.batch(jr.choice(key, risk.x.shape[0], (batch_size,), replace=False))
        slopes = batch.gradient(network.with_neurons(neurons, network.masses))
        return jax.tree.map(lambda theta, slope: theta - step * slope, neurons, slopes), None

    def until_record(neurons, keys):
        neurons, _ = jax.lax.scan(descend, neurons, keys)
        return neurons, neurons

    keys = jr.split(key, (num_records - 1, num_steps // (num_records - 1)))
    _, moved = jax.lax.scan(until_record, network.neurons, keys)
    neurons = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), network.neurons, moved)
    networks = jax.vmap(lambda theta: network.with_neurons(theta, network.masses))(neurons)
    times = t1 * jnp.linspace(0, 1, num_records, dtype=t1.dtype)
    taken, up, status = jnp.array(num_steps), jnp.array(False), Status.COMPLETED
    return record(risk, Wasserstein(), times, networks, taken, status, up, falls=False)


def _check(risk, network, t1, num_steps, batch_size, num_records) -> None:
    check_data(risk, network)
    _checks.positive("t1", t1)
    _checks.count("num_records", num_records, least=2)
    _checks.count("num_steps", num_steps)
    _checks.count("batch_size", batch_size)
    rows = risk.x.shape[0]
    if batch_size > rows:
        _checks.reject("batch_size", f"is {batch_size}", f"give at most the {rows} examples")
    if num_steps % (num_records - 1):
        cure = f"give a multiple of {num_records - 1}, one less than the records"
        _checks.reject("num_steps", f"is {num_steps}", cure)
