"""JKO steps of particles: implicit, with an energy that never rises."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import ScalarLike

from transportx import _checks
from transportx.gradient_flows._dynamics import Wasserstein
from transportx.gradient_flows._flow import ParticleFlow
from transportx.gradient_flows._functional import AbstractFunctional, Cloud, Weights, as_weights
from transportx.gradient_flows._implicit import settled, step_and_tolerance
from transportx.gradient_flows._newton import minimise, no_walls


@_checks.gate
def jko_flow(
    functional: AbstractFunctional,
    x0: Cloud,
    weights: Weights | None = None,
    *,
    t1: ScalarLike,
    steps: int,
    tol: float | None = None,
    max_steps: int = 100,
) -> ParticleFlow:
    r"""Let particles descend a functional by implicit steps, whose energy never rises.

    Each step minimises $F(x') + \frac{1}{2\tau}\sum_i w_i |x'_i - x_i|^2$ from x: a JKO step
    where every particle is its own image, which optimal transport grants for short steps. On
    one Dirac it is implicit Euler. First order in tau; stiff functionals take long steps.
    O((n d)^3) a Newton step: to about a thousand coordinates.

    Args:
        functional: Functional that falls, of known value, twice differentiable.
        x0: Points at time 0.
        weights: Positive; uniform of total one by default.
        t1: Last time, positive; may be traced.
        steps: Number of equal steps, each of them recorded.
        tol: Bound on the Newton decrement before the last Newton step; by default the square root
            of the dtype's precision, which leaves an error of about the precision.
        max_steps: Newton steps at most, each time step.

    Raises:
        ValueError: A cloud, weights or a number does not fit.

    Differentiation:
        First order, forward and reverse, in `x0`, `weights`, `t1` and the parameters of
        `functional`, implicitly at each step.

    Example:
        >>> bowl = tx.gradient_flows.Potential(lambda x: jnp.sum(x**2) / 2)
        >>> path = tx.gradient_flows.jko_flow(bowl, jnp.array([[1.0]]), t1=1.0, steps=1)
        >>> round(float(path.x[-1, 0, 0]), 2)  # implicit Euler: 1 / (1 + 1)
        0.5

    References:
        Jordan, Kinderlehrer and Otto, The variational formulation of the Fokker-Planck
        equation, 1998.
    """
    weights = as_weights(x0, weights, "x0")
    tau, tol = step_and_tolerance(t1, steps, tol, max_steps, x0.dtype)
    return _jko_flow(functional, x0, weights, tau, tol, steps, max_steps)


@eqx.filter_jit
def _jko_flow(functional, x0, weights, tau, tol, num_steps, max_steps) -> ParticleFlow:
    def objective(flat, args):
        functional, x, weights, tau = args
        moved = flat.reshape(x.shape)
        travelled = jnp.sum(weights * jnp.sum((moved - x) ** 2, axis=1))
        return functional.value(moved, weights) + travelled / (2 * tau)

    def step(x, _):
        args = functional, x, weights, tau
        start = x.reshape(-1)
        found = minimise(
            objective, start, args, room=no_walls, inside=start, tol=tol, max_steps=max_steps
        )
        return found.point.reshape(x.shape), (found.point.reshape(x.shape), *found[1:])

    _, (x, decrement, steps) = jax.lax.scan(step, x0, None, length=num_steps)
    x = jnp.concatenate([x0[None, :, :], x])
    dynamics = Wasserstein()
    energy, dissipation = jax.lax.map(
        lambda x: dynamics.energy_and_dissipation(functional, x, weights), x
    )
    times = tau * jnp.arange(num_steps + 1, dtype=tau.dtype)
    held = jnp.broadcast_to(weights, (num_steps + 1, weights.size))
    status = settled(energy, decrement, steps, tol, max_steps)
    return ParticleFlow(times, x, held, energy, dissipation, jnp.sum(steps), status)
