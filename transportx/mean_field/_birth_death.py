"""Birth and death in rounds: weights react, then neurons are drawn by them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray, ScalarLike

from transportx import _checks, _numbers
from transportx._precision import single_inside
from transportx._status import Status, judge
from transportx.evolution import Steps, as_steps, time_dtype
from transportx.mean_field._dynamics import BirthDeath
from transportx.mean_field._network import Network
from transportx.mean_field._risk import Risk
from transportx.mean_field._train import Training, check_data, record, train


@_checks.gate
@single_inside
def resample(network: Network, *, key: PRNGKeyArray) -> Network:
    """Neurons of one weight, each drawn as often as its weight says.

    Draws are systematic: a neuron of share s of the total weight is drawn n s times, rounded
    up or down, and on average exactly, so that the mean output is that of `network`. All
    neurons are NaN where a weight is negative, or all are zero.

    Differentiation:
        In the neurons that are drawn; the draw itself has no derivative.
    """
    n = network.inner.shape[0]
    masses = network.masses
    total = jnp.sum(masses)
    offset = jr.uniform(key, dtype=masses.dtype)
    levels = (jnp.arange(n, dtype=masses.dtype) + offset) / n * total
    drawn = jnp.searchsorted(jnp.cumsum(masses), levels, side="right")
    # Rounding may put the last level beyond the sum.
    last = n - 1 - jnp.argmax(jnp.flip(masses > 0))
    drawn = jnp.minimum(drawn, last.astype(drawn.dtype))
    valid = total > 0
    neurons = jax.tree.map(lambda part: jnp.where(valid, part[drawn], jnp.nan), network.neurons)
    return network.with_neurons(neurons, jnp.full(n, total / n))


@_checks.gate
def birth_death(
    risk: Risk,
    network: Network,
    *,
    t1: ScalarLike,
    rate: ScalarLike = 1.0,
    num_rounds: int = 10,
    steps: Steps = 10,
    threshold: ScalarLike = 0.5,
    key: PRNGKeyArray,
) -> Training:
    r"""Train by `BirthDeath` in rounds; neurons are drawn anew where weights are too uneven.

    A draw, `resample`, lets neurons die whose weight has vanished and doubles those whose
    weight has grown, so that none is carried along in vain. It happens after a round in which
    $(\sum a_i)^2 / \sum a_i^2$, the number of neurons that count, falls below a share of n:
    each draw is felt in the outputs, to order n^{-1/2} or less. A double follows its twin.

    Args:
        risk: What falls.
        network: The network at time 0.
        t1: Last time, positive; may be traced.
        rate: alpha of `BirthDeath`; may be traced.
        num_rounds: Rounds, of one length.
        steps: Of each round: an int, that many equal Euler steps; `evolution.FixedSteps` for
            another solver; or `evolution.AdaptiveSteps`.
        threshold: Share of neurons that must count, in [0, 1]; 0 never draws. May be traced.
        key: Randomness of the draws.

    Returns:
        The record of the start and of the end of each round, after its draw, with the
        dissipation of `BirthDeath`. A draw may raise the risk; that it rises in a round is a
        failure.

    Raises:
        ValueError: Data, network, count, time or threshold does not fit.

    References:
        Rotskoff, Jelassi, Bruna and Vanden-Eijnden, Global convergence of neuron birth-death
        dynamics, 2019.
    """
    check_data(risk, network)
    _checks.positive("t1", t1)
    _checks.fraction("threshold", threshold)
    _checks.count("num_rounds", num_rounds)
    dtype = time_dtype(network.inner)
    t1, rate = (_numbers.not_negative(number, dtype) for number in (t1, rate))
    threshold = jnp.asarray(threshold, dtype)
    rate = jnp.where((threshold >= 0) & (threshold <= 1), rate, jnp.nan)
    return _rounds(risk, network, t1, rate, threshold, num_rounds, as_steps(steps), key)


@eqx.filter_jit
def _rounds(risk, network, t1, rate, threshold, num_rounds: int, steps, key) -> Training:
    dynamics = BirthDeath(rate)
    start = network.with_neurons(network.neurons, network.masses)
    ends = jnp.stack([jnp.zeros_like(t1), t1 / num_rounds])

    def advance(network, key):
        moved = train(risk, network, t1=ends[1], dynamics=dynamics, steps=steps, times=ends)
        final = moved.final
        few = _counting(final) < threshold * network.inner.shape[0]
        drawn = resample(final, key=key)
        drawn = jax.tree.map(lambda new, old: jnp.where(few, new, old), drawn, final)
        went_up, short = moved.status == Status.ROSE, moved.status == Status.MAX_STEPS
        return drawn, (drawn, moved.num_steps, went_up, short)

    _, (drawn, taken, up, short) = jax.lax.scan(advance, start, jr.split(key, num_rounds))
    networks = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), start, drawn)
    times = t1 * jnp.linspace(0, 1, num_rounds + 1, dtype=t1.dtype)
    status = judge((jnp.any(short), Status.MAX_STEPS), otherwise=Status.COMPLETED)
    taken, up = jnp.sum(taken), jnp.any(up)
    return record(risk, dynamics, times, networks, taken, status, up, falls=False)


def _counting(network: Network) -> Float[Array, ""]:
    """Effective number of neurons: n where weights are even, 1 where one has all."""
    masses = network.masses
    return jnp.sum(masses) ** 2 / jnp.sum(masses**2)
