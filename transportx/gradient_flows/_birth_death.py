"""Birth and death in rounds: weights react, then particles are drawn by them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray, ScalarLike

from transportx import _checks, _numbers
from transportx._status import Status, judge
from transportx.evolution import Steps, as_steps, time_dtype
from transportx.gradient_flows._flow import ParticleFlow, describe, flow
from transportx.gradient_flows._functional import (
    AbstractFunctional,
    Measure,
    Particles,
    Weights,
    as_measure,
)
from transportx.gradient_flows._reaction import WassersteinFisherRao


@_checks.gate
def resample(x: Particles, weights: Weights, *, key: PRNGKeyArray) -> Measure:
    """Draw particles of one weight, each as often as its weight says.

    Draws are systematic: a particle that has the fraction s of the total weight is drawn n s
    times, rounded up or down, and on average exactly, so that the mean of every integral is that
    of the measure. All particles are NaN where a weight is negative, or all are zero.

    Args:
        x: Particles, shape (n, d), or a pytree of arrays with leading axis n.
        weights: Their masses, shape (n,), not negative.
        key: Randomness.

    Returns:
        n particles, of the same total mass.

    Differentiation:
        In the particles that are drawn; the draw itself has no derivative.

    Example:
        >>> x, weights = jnp.array([[0.0], [1.0]]), jnp.array([1.0, 0.0])
        >>> tx.gradient_flows.resample(x, weights, key=jr.key(0)).x.tolist()
        [[0.0], [0.0]]
    """
    x, given = as_measure(x, weights)
    masses = _numbers.widened(given)
    n, total = masses.size, jnp.sum(masses)
    offset = jr.uniform(key, dtype=masses.dtype)
    levels = (jnp.arange(n, dtype=masses.dtype) + offset) / n * total
    drawn = jnp.searchsorted(jnp.cumsum(masses), levels, side="right")
    # Rounding may put the last level beyond the sum.
    last = n - 1 - jnp.argmax(jnp.flip(masses > 0))
    drawn = jnp.minimum(drawn, last.astype(drawn.dtype))
    valid = total > 0
    x = jax.tree.map(lambda part: jnp.where(valid, part[drawn], jnp.nan), x)
    return Measure(x, jnp.full(n, total / n).astype(given.dtype))


@_checks.gate
def birth_death(
    functional: AbstractFunctional,
    x0: Particles,
    weights: Weights | None = None,
    *,
    t1: ScalarLike,
    dynamics: WassersteinFisherRao = WassersteinFisherRao(),
    num_rounds: int = 10,
    steps: Steps = 10,
    threshold: ScalarLike = 0.5,
    key: PRNGKeyArray,
) -> ParticleFlow:
    r"""Descend by `WassersteinFisherRao` in rounds; draw particles anew where weights are uneven.

    A draw, `resample`, lets particles die whose weight has vanished and doubles those whose
    weight has grown, so that none is carried along in vain. It happens after a round in which
    $(\sum w_i)^2 / \sum w_i^2$, the effective number of particles, falls below a fraction of n.
    Each draw changes integrals by order n^{-1/2} or less. A double follows its twin.

    Args:
        functional: The functional to descend.
        x0: Particles at time 0, shape (n, d), or a pytree of arrays with leading axis n.
        weights: Their masses, shape (n,); uniform of total one by default.
        t1: Last time, positive; may be traced.
        dynamics: The rates of transport and of reaction.
        num_rounds: Rounds, of one length.
        steps: Steps of each round: an int, that many equal Euler steps;
            `evolution.FixedSteps` for another solver; or `evolution.AdaptiveSteps`.
        threshold: Fraction of n below which the effective number leads to a draw, in [0, 1];
            0 never draws. May be traced.
        key: Randomness of the draws.

    Returns:
        The record of the start and of the end of each round, after its draw. A draw may raise
        the energy; that it rises in a round is a failure.

    Raises:
        ValueError: Particles, a count, a time or the threshold does not fit.

    References:
        Rotskoff, Jelassi, Bruna and Vanden-Eijnden, Global convergence of neuron birth-death
        dynamics, 2019.
    """
    start = as_measure(x0, weights, "x0")
    _checks.positive("t1", t1)
    _checks.fraction("threshold", threshold)
    _checks.count("num_rounds", num_rounds)
    t1 = _numbers.not_negative(t1, time_dtype(start.x))
    threshold = jnp.asarray(threshold, t1.dtype)
    t1 = jnp.where((threshold >= 0) & (threshold <= 1), t1, jnp.nan)
    return _rounds(functional, start, t1, dynamics, num_rounds, as_steps(steps), threshold, key)


@eqx.filter_jit
def _rounds(functional, start, t1, dynamics, num: int, steps, threshold, key) -> ParticleFlow:
    ends = jnp.stack([jnp.zeros_like(t1), t1 / num])

    def advance(measure, key):
        made = flow(functional, *measure, t1=ends[1], dynamics=dynamics, steps=steps, times=ends)
        final = jax.tree.map(lambda leaf: leaf[-1], Measure(made.x, made.weights))
        few = _effective_number(final.weights) < threshold * final.weights.size
        drawn = resample(*final, key=key)
        drawn = jax.tree.map(
            lambda new, old, like: jnp.where(few, new, old).astype(like.dtype),
            drawn,
            final,
            measure,
        )
        return drawn, (drawn, made.num_steps, made.status)

    _, (drawn, taken, status) = jax.lax.scan(advance, start, jr.split(key, num))
    records = jax.tree.map(lambda one, more: jnp.concatenate([one[None], more]), start, drawn)
    found = jax.lax.map(
        lambda at: describe(functional, dynamics, dynamics.start(at.x), at.weights), records
    )
    status = judge(
        (~jnp.all(found.finite), Status.NON_FINITE),
        (jnp.any(status == Status.MAX_STEPS), Status.MAX_STEPS),
        (jnp.any(status == Status.ROSE), Status.ROSE),
        otherwise=Status.COMPLETED,
    )
    times = t1 * jnp.linspace(0, 1, num + 1, dtype=t1.dtype)
    x, weights = found.measure
    energies = found.energy, found.dissipation
    return ParticleFlow(times, x, weights, *energies, jnp.sum(taken), status)


def _effective_number(weights: Weights) -> Float[Array, ""]:
    """N where weights are even, 1 where one has all."""
    weights = _numbers.widened(weights)
    return jnp.sum(weights) ** 2 / jnp.sum(weights**2)
