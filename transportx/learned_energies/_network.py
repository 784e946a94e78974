"""Potentials of any form, as networks, from the first-order condition of JKO steps."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, Bool, Float, PRNGKeyArray, ScalarLike

from transportx import _checks
from transportx._status import Status, judge
from transportx.learned_energies._displacements import Displacements
from transportx.learned_energies._fit import LearnedEnergy

Scalar = Float[Array, ""]


@_checks.gate
class NetworkFit(eqx.Module):
    """Free energy whose potential is a fitted network.

    Attributes:
        energy: The energy with the potential after the last step.
        losses: Loss of every step's batch, shape (num_steps,).
        status: DETERMINED, NOT_TRANSPORTED or NON_FINITE; a network has no rank.

    Example:
        >>> le = tx.learned_energies
        >>> potential = le.LinearPotential(le.Monomials(1, 2), jnp.array([0.0, 0.5]))
        >>> energy = le.LearnedEnergy(potential, (), jnp.zeros(0), 0.0)
        >>> fit = le.NetworkFit(energy, jnp.zeros(2), tx.Status.DETERMINED)
        >>> bool(fit.determined)
        True
    """

    energy: LearnedEnergy
    losses: Float[Array, " steps"]
    status: Status

    @property
    def determined(self) -> Bool[Array, "..."]:
        """Whether every loss is finite and every plan between populations converged."""
        return self.status == Status.DETERMINED


@_checks.gate
def fit_network(
    potential: Callable[[Array], Array],
    displacements: Displacements,
    *,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    batch: int,
    temperature: ScalarLike = 0.0,
    key: PRNGKeyArray,
) -> NetworkFit:
    r"""Fit a potential of any form, such as a network, to the velocities between populations.

    Minimises $E\,|v + \nabla V(x)|^2 - 2T\,E\,\Delta V(x)$, which is, up to a constant,
    $E\,|v + \nabla V + T\nabla\log\rho|^2$: no density is estimated. The loss may be negative
    where T is not zero.

    Args:
        potential: `potential(x) -> scalar` of one point, an `equinox.Module`; twice
            differentiable, three times where the temperature is not zero.
        displacements: Velocities from `transport_displacements`.
        optimizer: Any optax gradient transformation.
        num_steps: Number of steps of the optimiser, at least 1.
        batch: Number of points in a step's batch, drawn from all times together.
        temperature: T, not negative, known or from `fit_weak_form`; may be traced.
        key: Randomness of the batches.

    Raises:
        ValueError: A count is not positive, or the temperature is negative.

    Example:
        >>> le = tx.learned_energies
        >>> x = jnp.array([[-1.0], [0.5], [2.0], [3.0]])
        >>> times = jnp.array([0.0, 0.1, 0.2, 0.3])
        >>> snapshots = x * jnp.exp(-times)[:, None, None]  # the flow of V(x) = x^2 / 2
        >>> moved = le.transport_displacements(snapshots, times, epsilon=0.01)
        >>> potential = le.LinearPotential(le.Monomials(1, 2), jnp.zeros(2))
        >>> fit = le.fit_network(
        ...     potential, moved, optimizer=optax.sgd(0.02), num_steps=3, batch=4, key=jr.key(0)
        ... )
        >>> fit.losses.shape, bool(fit.determined)
        ((3,), True)

    References:
        Terpin, Lanzetti, Gadea and Dorfler, Learning diffusion at lightspeed, 2024.
    """
    _checks.count("num_steps", num_steps)
    _checks.count("batch", batch)
    _checks.not_negative("temperature", temperature)
    dim = displacements.x.shape[-1]
    x, velocities = displacements.x.reshape(-1, dim), displacements.velocities.reshape(-1, dim)
    chances = displacements.weights.reshape(-1)
    temperature = jnp.asarray(temperature, x.dtype)
    arrays, rest = eqx.partition(potential, eqx.is_inexact_array)

    def loss(arrays, rows):
        slope = jax.grad(eqx.combine(arrays, rest))

        def one(x, v):
            laplacian = jnp.trace(jax.jacfwd(slope)(x))
            return jnp.sum((v + slope(x)) ** 2) - 2 * temperature * laplacian

        return jnp.mean(jax.vmap(one)(x[rows], velocities[rows]))

    def step(state, key) -> Any:
        arrays, memory = state
        rows = jr.choice(key, x.shape[0], (batch,), p=chances / jnp.sum(chances))
        value, slopes = jax.value_and_grad(loss)(arrays, rows)
        updates, memory = optimizer.update(slopes, memory, arrays)
        return (optax.apply_updates(arrays, updates), memory), value

    start = arrays, optimizer.init(arrays)
    (arrays, _), losses = jax.lax.scan(step, start, jr.split(key, num_steps))
    fitted: Any = eqx.combine(arrays, rest)
    energy = LearnedEnergy(fitted, (), jnp.zeros(0, x.dtype), temperature)
    good = jnp.all(displacements.converged)
    status = judge(
        (~jnp.all(jnp.isfinite(losses)), Status.NON_FINITE),
        (good, Status.DETERMINED),
        otherwise=Status.NOT_TRANSPORTED,
    )
    return NetworkFit(energy, losses, status)
