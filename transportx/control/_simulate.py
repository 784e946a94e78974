"""Weighted swarms under a policy."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from transportx import _checks, _precision
from transportx._precision import single_inside
from transportx.control._answer import AffinePolicy
from transportx.control._systems import LinearSystem
from transportx.gaussians import sqrtm


class Swarm(NamedTuple):
    """Weighted particles at every step, as `simulate` moves them.

    Attributes:
        states: Where the particles are, shape (k + 1, n, d).
        controls: What moved them, shape (k, n, m).
        weights: Mass of each particle, shape (n,), which no step changes.
    """

    states: Float[Array, "times n d"]
    controls: Float[Array, "k n m"]
    weights: Float[Array, " n"]


@_checks.gate
@single_inside
def simulate(
    system: LinearSystem,
    policy: AffinePolicy,
    x0: Float[Array, "n d"],
    weights: Float[Array, " n"],
    *,
    key: PRNGKeyArray,
) -> Swarm:
    """Simulate a weighted swarm of a linear system under a policy.

    Every particle has noise of its own, in the system and in the policy.

    Args:
        system: The linear system.
        policy: The policy, as `Steering.policy`.
        x0: States at the start, shape (n, d).
        weights: Mass of each particle, shape (n,); NaN where it is negative. For draws of the
            source reference, ``source.mass / n * steering.source_ratio(x0)`` makes of them the
            swarm that is steered.
        key: Randomness of both noises.

    Returns:
        States, controls and weights.

    Raises:
        ValueError: Shapes disagree.

    Differentiation:
        In all real arguments, at fixed noise; in a covariance of noise, where it has full rank.

    Example:
        >>> system = tx.control.constant_system(
        ...     jnp.eye(1), jnp.eye(1), jnp.zeros((1, 1)), steps=4
        ... )
        >>> start = tx.control.GaussianMeasure(1.0, jnp.zeros(1), jnp.eye(1))
        >>> end = tx.control.GaussianMeasure(1.0, jnp.full(1, 2.0), jnp.eye(1))
        >>> policy = tx.control.steer(system, jnp.eye(1), start, end).policy
        >>> swarm = tx.control.simulate(
        ...     system, policy, jnp.array([[0.0], [1.0]]), jnp.ones(2), key=jr.key(0)
        ... )
        >>> np.asarray(swarm.states[-1]).round(3).tolist()
        [[2.0], [3.0]]
    """
    _checks.shaped("x0", x0, (x0.shape[0], system.A.shape[1]), "states")
    gains = (*system.B.shape[:1], *reversed(system.B.shape[1:]))
    _checks.shaped("policy.gains", policy.gains, gains, "feedback of this system")
    given = system, policy, x0, weights
    dtype = _precision.working(*(leaf.dtype for leaf in jax.tree.leaves(given)))
    system, policy, x0, weights = jax.tree.map(lambda leaf: leaf.astype(dtype), given)
    return _simulate(system, policy, x0, weights, key)


@eqx.filter_jit
def _simulate(system, policy, x0, weights, key) -> Swarm:
    def step(x, given):
        A, B, noise, state, control, gain, own, key = given
        own_key, noise_key = jr.split(key)
        draws = jr.normal(own_key, (x.shape[0], control.size), x.dtype)
        u = control[None] + (x - state[None]) @ gain.T + draws @ sqrtm(own)
        pushes = jr.normal(noise_key, x.shape, x.dtype) @ sqrtm(noise)
        after = x @ A.T + u @ B.T + pushes
        return after, (after, u)

    steps = system.A, system.B, system.noise
    held = policy.states, policy.controls, policy.gains, policy.noise
    keys = jr.split(key, system.num_steps)
    _, (later, controls) = jax.lax.scan(step, x0, (*steps, *held, keys))
    weights = jnp.where((weights >= 0) & (weights < jnp.inf), weights, jnp.nan)
    return Swarm(jnp.concatenate([x0[None], later]), controls, weights)
